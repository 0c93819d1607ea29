"""Variables, command lines, short forms of ports and volumes, and several files as one."""

from typing import Any

import pytest

from pyswarm.cli.compose import ports, volumes, words
from pyswarm.cli.compose.interpolation import Interpolation
from pyswarm.cli.compose.merge import merged
from pyswarm.cli.compose.value import Value
from pyswarm.cli.errors import CliError

ENVIRONMENT = {"TAG": "1.2", "EMPTY": "", "Mixed_1": "m"}


def replaced(text: str) -> str:
    value = Interpolation(ENVIRONMENT).apply(Value(text, "f.yml", 3), "services.web.image")
    assert isinstance(value.data, str)
    assert value.substituted == (value.data != text)
    return value.data


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("web:$TAG", "web:1.2"), ("web:${TAG}", "web:1.2"), ("${Mixed_1}x$TAG.", "mx1.2."), ("$$TAG", "$TAG"),
        ("$$$TAG", "$1.2"), ("a$$", "a$"), ("${TAG:-x}", "1.2"), ("${NONE:-x y:z}", "x y:z"), ("${NONE:-}", ""),
        ("${EMPTY:-x}", "x"), ("${EMPTY-x}", ""), ("${NONE-x}", "x"), ("${TAG:?no}", "1.2"), ("${EMPTY?no}", ""),
        ("${NONE}", ""), ("$NONE/x", "/x"), ("plain", "plain"), ("${TAG:-a$b}", "1.2"),
    ],
)  # fmt: skip
def test_variables(text: str, result: str) -> None:
    assert replaced(text) == result


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a$", 'invalid interpolation format "a$"; you may need to escape any $ with another $'),
        ("$1", 'invalid interpolation format "$1"; you may need to escape any $ with another $'),
        ("${", 'invalid interpolation format "${"; you may need to escape any $ with another $'),
        ("${TAG", 'invalid interpolation format "${TAG"; you may need to escape any $ with another $'),
        ("${TAG+x}", 'invalid interpolation format "${TAG+x}"; you may need to escape any $ with another $'),
        ("${NONE:?set it}", "required variable NONE is missing a value: set it"),
        ("${EMPTY:?set it}", "required variable EMPTY is missing a value: set it"),
        ("${NONE?}", "required variable NONE is missing a value: "),
        ("${NONE:-${TAG}}", "a variable within ${NONE:-...} is not supported"),
        ("$TAG-x", "$TAG- could mean two things: write ${TAG} to end the name there, or ${TAG-...}"),
    ],
)
def test_wrong_variables_are_told_with_their_place(text: str, message: str) -> None:
    with pytest.raises(CliError) as caught:
        replaced(text)
    assert str(caught.value) == f"f.yml:3: services.web.image: {message}"


def test_variables_within_and_those_that_are_missing() -> None:
    inner = {"a": Value(["$TAG", "$NONE", "${ALSO}", "${NOT-x}"], "f", 1), "$TAG": Value(5, "f", 2)}
    inner["a"] = Value([Value(text, "f", 1) for text in inner["a"].data], "f", 1)
    interpolation = Interpolation(ENVIRONMENT)

    result = interpolation.apply(Value(inner, "f", 1))

    assert [value.data for value in result.data["a"].data] == ["1.2", "", "", "x"]
    assert result.data["$TAG"].data == 5
    assert interpolation.missing == {"NONE", "ALSO"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("httpd -f -p 80", ["httpd", "-f", "-p", "80"]),
        ("  a\tb\n c ", ["a", "b", "c"]),
        ("", []),
        ("sh -c 'echo \"$x\"'", ["sh", "-c", 'echo "$x"']),
        ('a "b c" d', ["a", "b c", "d"]),
        ("a '' b", ["a", "", "b"]),
        (r"a\ b c\\d", ["a b", r"c\d"]),
        (r'"a\nb\""', ['anb"']),
        (r"'a\nb'", [r"a\nb"]),
        ("a#b # c", ["a#b"]),
        ("#x\ny", ["y"]),
        ("a'b'\"c\"", ["abc"]),
    ],
)
def test_a_command_line_is_split_as_docker_splits_it(line: str, expected: list[str]) -> None:
    assert words.split(line) == expected


@pytest.mark.parametrize("line", ["echo 'a", 'echo "a', "echo \\"])
def test_open_quotes_are_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"a quote is not closed|nothing follows"):
        words.split(line)


def pairs(text: str | int) -> list[tuple[int, int, str]]:
    return [(port.get("published", 0), port["target"], port["protocol"]) for port in ports.from_short(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", [(0, 80, "tcp")]),
        (9000, [(0, 9000, "tcp")]),
        ("8080:80", [(8080, 80, "tcp")]),
        ("53:53/udp", [(53, 53, "udp")]),
        ("80/TCP", [(0, 80, "tcp")]),
        ("0:80", [(0, 80, "tcp")]),
        ("10-11:20-21", [(10, 20, "tcp"), (11, 21, "tcp")]),
        ("10-12:80", [(10, 80, "tcp"), (11, 80, "tcp"), (12, 80, "tcp")]),
        ("1-2", [(0, 1, "tcp"), (0, 2, "tcp")]),
        ("127.0.0.1:90:91", [(90, 91, "tcp")]),
        ("[::1]:90:91", [(90, 91, "tcp")]),
        ("127.0.0.1::91", [(0, 91, "tcp")]),
        ("65535:1", [(65535, 1, "tcp")]),
    ],
)
def test_short_ports(text: str | int, expected: list[tuple[int, int, str]]) -> None:
    assert pairs(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "invalid port 0: ports are numbers from 1 to 65535"),
        ("80:65536", "invalid port 65536: ports are numbers from 1 to 65535"),
        ("65536:80", "invalid port 65536: ports are numbers from 1 to 65535"),
        ("web", "invalid port 'web': ports are numbers"),
        ("a:80", "invalid port 'a': ports are numbers"),
        ("-80", "invalid port '-80'"),
        ("", "no port specified"),
        ("80:", "no port specified"),
        ("80/foo", "invalid protocol: 'foo' is none of tcp, udp, sctp"),
        ("80/", "invalid protocol: ''"),
        ("1-3:5-6", "invalid ranges specified for container and host Ports: 5-6 and 1-3"),
        ("80-70", "invalid port range 80-70: it ends before it begins"),
        ("foo:80:80", "'foo' does not appear to be an IPv4 or IPv6 address"),
    ],
)
def test_wrong_short_ports(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("(", r"\(")):
        ports.from_short(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data", {"type": "volume", "target": "/data"}),
        ("named:/data", {"type": "volume", "source": "named", "target": "/data"}),
        ("./a:/b:ro", {"type": "bind", "source": "./a", "target": "/b", "read_only": True}),
        ("~/a:/b:rw", {"type": "bind", "source": "~/a", "target": "/b"}),
        (
            "/a:/b:rshared,ro",
            {
                "type": "bind",
                "source": "/a",
                "target": "/b",
                "read_only": True,
                "bind": {"propagation": "rshared"},
            },
        ),
        ("n:/b:nocopy", {"type": "volume", "source": "n", "target": "/b", "volume": {"nocopy": True}}),
    ],
)
def test_short_volumes(text: str, expected: dict[str, Any]) -> None:
    assert volumes.from_short(text) == expected


@pytest.mark.parametrize("text", ["", ":/a", "a:", "a:/b:ro:x"])
def test_wrong_short_volumes(text: str) -> None:
    with pytest.raises(ValueError, match="invalid spec"):
        volumes.from_short(text)


def test_a_later_file_adds_and_overrides() -> None:
    base = {
        "version": "3.8",
        "services": {
            "web": {
                "image": "a",
                "command": ["a"],
                "environment": {"A": "1", "B": "2"},
                "dns": ["1.1.1.1"],
                "tty": True,
                "ports": [
                    {"target": 80, "published": 80, "protocol": "tcp"},
                    {"target": 9, "protocol": "tcp"},
                    {"target": 8, "protocol": "tcp"},
                ],
                "deploy": {"replicas": 3, "update_config": {"parallelism": 2, "delay": 5}},
                "networks": {"front": {"aliases": ["x"]}, "back": None},
                "secrets": [{"source": "s", "target": "t"}],
                "logging": {"driver": "json", "options": {"a": "b"}},
                "ulimits": {"nofile": {"single": 1}},
            },
            "one": {"image": "o"},
        },
        "networks": {"front": {"driver": "overlay", "attachable": True}},
    }
    over = {
        "version": "3.8",
        "services": {
            "web": {
                "image": "b",
                "command": ["c", "d"],
                "environment": {"B": "3", "C": None},
                "dns": ["2.2.2.2"],
                "ports": [
                    {"target": 81, "published": 80, "protocol": "tcp"},
                    {"target": 53, "published": 80, "protocol": "udp"},
                ],
                "deploy": {"replicas": 0, "update_config": {"delay": 1}},
                "networks": {"front": {"aliases": ["y"]}, "back": None, "new": None},
                "secrets": [{"source": "s", "target": "u"}, {"source": "r"}],
                "logging": {"driver": "syslog"},
                "ulimits": {"nofile": {"soft": 1, "hard": 2}},
            },
            "two": {"image": "t"},
        },
        "networks": {"front": {"driver": "bridge"}},
    }

    result = merged([base, over])

    assert result["services"]["web"] == {
        "image": "b",
        "command": ["c", "d"],
        "environment": {"A": "1", "B": "3", "C": None},
        "dns": ["1.1.1.1", "2.2.2.2"],
        "tty": True,
        "ports": [
            {"target": 8, "protocol": "tcp"},
            {"target": 9, "protocol": "tcp"},
            {"target": 81, "published": 80, "protocol": "tcp"},
            {"target": 53, "published": 80, "protocol": "udp"},
        ],
        "deploy": {"replicas": 0, "update_config": {"parallelism": 2, "delay": 1}},
        "networks": {"front": {"aliases": ["y"]}, "back": None, "new": None},
        "secrets": [{"source": "r"}, {"source": "s", "target": "u"}],
        "logging": {"driver": "syslog"},
        "ulimits": {"nofile": {"soft": 1, "hard": 2}},
    }
    assert set(result["services"]) == {"web", "one", "two"}
    assert result["networks"] == {"front": {"driver": "bridge"}}
    assert base["services"]["web"]["image"] == "a", "the files themselves are left as they were"
