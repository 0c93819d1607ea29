"""Whole stack files: what is read from them, and what is refused with file, line and key."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pyswarm.cli.compose import references, support
from pyswarm.cli.compose.dump import dump
from pyswarm.cli.compose.load import Loaded, load
from pyswarm.cli.errors import CliError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str, environment: dict[str, str] | None = None, *, interpolate: bool = True) -> Loaded:
    Path("s.yml").write_text(text)
    return load(("s.yml",), environment or {}, interpolate=interpolate)


def service(text: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """What ``web`` is, its keys given as flow YAML."""
    found: dict[str, Any] = read(f"services:\n  web:\n    {text}\n", environment).config["services"]["web"]
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("command: a 'b c'", {"command": ["a", "b c"]}),
        ("entrypoint: [a, b]", {"entrypoint": ["a", "b"]}),
        ("labels: [a, b=c]", {"labels": {"a": "", "b": "c"}}),
        ("labels: {a: 1.50, b: , c: x}", {"labels": {"a": "1.5", "b": "", "c": "x"}}),
        ("environment: [A, B=, C=d=e]", {"environment": {"A": None, "B": "", "C": "d=e"}}),
        ("environment: {A: , B: '', N: 3}", {"environment": {"A": None, "B": "", "N": "3"}}),
        ("dns: 1.1.1.1", {"dns": ["1.1.1.1"]}),
        ("extra_hosts: [a:1.2.3.4, 'b=::1']", {"extra_hosts": ["a:1.2.3.4", "b:::1"]}),
        ("extra_hosts: {a: 1.2.3.4, b: '[::1]'}", {"extra_hosts": ["a:1.2.3.4", "b:::1"]}),
        ("networks: [b, a]", {"networks": {"a": None, "b": None}}),
        ("networks: {a: {aliases: [x]}}", {"networks": {"a": {"aliases": ["x"]}}}),
        (
            "secrets: [s, {source: t, target: u, mode: 0400}]",
            {"secrets": [{"source": "s"}, {"source": "t", "target": "u", "mode": 0o400}]},
        ),
        ("stop_grace_period: 1m30s", {"stop_grace_period": 90 * 10**9}),
        ("stop_grace_period: 0s", {"stop_grace_period": 0}),
        ("tty: false", {}),
        ("init: false", {"init": False}),
        (
            "healthcheck: {test: curl x, interval: 5s}",
            {"healthcheck": {"test": ["CMD-SHELL", "curl x"], "interval": 5 * 10**9}},
        ),
        ("deploy:", {}),
        (
            "deploy: {replicas: 0, resources: {limits: {cpus: '0.5', memory: 50M}}}",
            {"deploy": {"replicas": 0, "resources": {"limits": {"cpus": "0.5", "memory": 50 << 20}}}},
        ),
        (
            "ulimits: {nofile: 5, nproc: {soft: 1, hard: 2}}",
            {"ulimits": {"nofile": {"single": 5}, "nproc": {"soft": 1, "hard": 2}}},
        ),
        ("x-own: {a: [1]}", {"x-own": {"a": [1]}}),
        (
            "ports: ['8080:80', {target: 53, published: 53, protocol: udp, mode: host}]",
            {
                "ports": [
                    {"mode": "ingress", "target": 80, "published": 8080, "protocol": "tcp"},
                    {"mode": "host", "target": 53, "published": 53, "protocol": "udp"},
                ]
            },
        ),
    ],
)
def test_keys_of_a_service(folder: Path, text: str, expected: dict[str, Any]) -> None:
    assert service(text) == expected


def test_text_of_variables_may_be_a_number_or_a_boolean(folder: Path) -> None:
    environment = {"N": "3", "T": "Yes", "P": "8080", "R": "0.5"}

    assert service(
        "tty: $T\n    deploy: {replicas: '${N}', update_config: {max_failure_ratio: $R}}", environment
    ) == {
        "tty": True,
        "deploy": {"replicas": 3, "update_config": {"max_failure_ratio": 0.5}},
    }
    assert service("ports: [{target: 80, published: $P}]", environment)["ports"] == [
        {"target": 80, "published": 8080}
    ]
    assert service("labels: {a: $N}\n    ulimits: {nofile: $N}", environment) == {
        "labels": {"a": "3"},
        "ulimits": {"nofile": {"single": 3}},
    }


def test_environment_comes_from_files_and_from_this_process(folder: Path) -> None:
    (folder / "one.env").write_text("# comment\nA=file\nB=file\nHERE\nGONE\n")
    (folder / "two.env").write_text("B=two\nE=\n")
    environment = {"E": "process", "F": "process", "G": "process"}
    text = "env_file: [one.env, two.env]\n    environment: {B: own, F: , G: '', H: , I: ''}"

    assert service(text, environment)["environment"] == {
        "A": "file",
        "B": "own",
        "E": "process",
        "F": "process",
        "G": "process",
        "H": None,
        "I": "",
    }


def test_objects_of_a_file(folder: Path) -> None:
    config = read(
        "networks:\n  a:\n  b: {external: true}\n  c: {external: {name: old}}\n  d: {name: n, external: true}\n"
        "  e: {driver: overlay, attachable: true, labels: [x], ipam: {config: [{subnet: 10.9.0.0/24}]}}\n"
        "  f: {external: false}\n"
        "secrets: {s: {file: ./s.txt}, t: {external: true}, u: {file: /abs, name: other}}\n"
        "configs: {c: {file: c.txt, labels: {l: 1}}}\n"
        "volumes: {v: , w: {external: true}}\n"
    ).config

    assert config["networks"] == {
        "a": {},
        "b": {"name": "b", "external": True},
        "c": {"name": "old", "external": True},
        "d": {"name": "n", "external": True},
        "e": {
            "driver": "overlay",
            "ipam": {"config": [{"subnet": "10.9.0.0/24"}]},
            "attachable": True,
            "labels": {"x": ""},
        },
        "f": {},
    }
    assert config["secrets"] == {
        "s": {"file": str(folder / "s.txt")},
        "t": {"external": True, "name": "t"},
        "u": {"file": "/abs", "name": "other"},
    }
    assert config["configs"] == {"c": {"file": str(folder / "c.txt"), "labels": {"l": "1"}}}
    assert config["volumes"] == {"v": {}, "w": {"external": True, "name": "w"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 3.8\n", '1: version: must be a string: write version: "3.8"'),
        ("version: '2.1'\n", "1: version: unsupported Compose file version: 2.1; 3.0 to 3.13 are"),
        ("version: '3.14'\n", "1: version: unsupported Compose file version: 3.14; 3.0 to 3.13 are"),
        ("name: x\n", "1: name: not supported in stack files: the name of a stack is given to the command"),
        ("service: {}\n", "1: service: unknown key; did you mean services?"),
        ("services:\n", "1: services: must be a mapping, not empty"),
        ("services: [web]\n", "1: services: must be a mapping, not a list"),
        ("services:\n  web:\n", "2: services.web: must be a mapping, not empty"),
        ("services:\n  we b: {}\n", "2: services.we b: a name may have the characters a-z A-Z 0-9 . _ - only"),
        (
            "services:\n  web:\n    image: 5\n",
            "3: services.web.image: must be a string, not an integer; put it in quotes",
        ),
        ("services:\n  web:\n    imge: x\n", "3: services.web.imge: unknown key; did you mean image?"),
        ("services:\n  web:\n    tty: yes\n", "3: services.web.tty: must be a boolean, not a string"),
        ("services:\n  web:\n    ports: 80\n", "3: services.web.ports: must be a list, not an integer"),
        (
            "services:\n  web:\n    ports:\n      - 80\n      - '1:0'\n",
            "5: services.web.ports.1: invalid port 0: ports",
        ),
        (
            "services:\n  web:\n    ports:\n      - target: x\n",
            "4: services.web.ports.0.target: must be an integer, not a string",
        ),
        ("services:\n  web:\n    ports: [{published: 80}]\n", "3: services.web.ports.0: must have a target"),
        (
            "services:\n  web:\n    ports: [{target: 80, mode: nat}]\n",
            "3: services.web.ports.0.mode: 'nat' is none of ingress, host",
        ),
        (
            "services:\n  web:\n    ports: [{target: 80, published: 65536}]\n",
            "3: services.web.ports.0.published: invalid port 65536",
        ),
        (
            "services:\n  web:\n    environment:\n      A: true\n",
            "4: services.web.environment.A: must be a string, a number or empty, not a boolean; put",
        ),
        (
            "services:\n  web:\n    environment: A=1\n",
            "3: services.web.environment: must be a mapping or a list, not a string",
        ),
        ('services:\n  web:\n    command: "a \'b"\n', "3: services.web.command: a quote is not closed"),
        (
            "services:\n  web:\n    deploy:\n      replicas: two\n",
            "4: services.web.deploy.replicas: must be an integer, not a string",
        ),
        (
            "services:\n  web:\n    deploy: {replicas: -1}\n",
            "3: services.web.deploy.replicas: must not be negative",
        ),
        (
            "services:\n  web:\n    deploy: {mode: some}\n",
            "3: services.web.deploy.mode: 'some' is none of replicated, global",
        ),
        (
            "services:\n  web:\n    deploy: {resources: {limits: {cpus: x}}}\n",
            "3: services.web.deploy.resources.limits.cpus: failed to parse x",
        ),
        (
            "services:\n  web:\n    deploy: {resources: {limits: {memory: 1}}}\n",
            "3: services.web.deploy.resources.limits.memory: must be a string",
        ),
        (
            "services:\n  web:\n    deploy: {resources: {limits: {memory: lots}}}\n",
            "3: services.web.deploy.resources.limits.memory: invalid size: 'lots'",
        ),
        (
            "services:\n  web:\n    deploy: {update_config: {delay: 5}}\n",
            "3: services.web.deploy.update_config.delay: must be a string",
        ),
        (
            "services:\n  web:\n    stop_grace_period: '5'\n",
            '3: services.web.stop_grace_period: time: missing unit in duration "5"',
        ),
        (
            "services:\n  web:\n    stop_grace_period: -5s\n",
            "3: services.web.stop_grace_period: must not be negative",
        ),
        ("services:\n  web:\n    cap_add: [A, B, A]\n", "3: services.web.cap_add.2: this is given twice"),
        ("services:\n  web:\n    secrets: [{target: x}]\n", "3: services.web.secrets.0: must have a source"),
        (
            "services:\n  web:\n    secrets: [{source: x, mod: 1}]\n",
            "3: services.web.secrets.0.mod: unknown key; did you mean mode?",
        ),
        (
            "services:\n  web:\n    depends_on: {a: {condition: x}}\n",
            "3: services.web.depends_on: must be a list, not a mapping",
        ),
        (
            "services:\n  web:\n    extends: {service: a}\n",
            "3: services.web.extends: not supported in stack files: extends is",
        ),
        (
            "services:\n  web:\n    mem_limit: 1g\n",
            "3: services.web.mem_limit: not supported in stack files: set resource limits",
        ),
        (
            "version: '3.2'\nservices:\n  web: {init: true}\n",
            "3: services.web.init: this needs version 3.7, and the file says 3.2",
        ),
        ("version: '3.0'\nsecrets: {}\n", "2: secrets: this needs version 3.1, and the file says 3.0"),
        ("version: '3.3'\nx-a: 1\n", "2: x-a: unknown key"),
        ("secrets:\n  s: {}\n", "2: secrets.s: must have file or external"),
        ("secrets:\n  s:\n", "2: secrets.s: must be a mapping, not empty"),
        (
            "networks:\n  n: {external: {name: a}, name: b}\n",
            "2: networks.n: network.external.name and network.name conflict; only use network.name",
        ),
        (
            "networks:\n  n: {external: perhaps}\n",
            "2: networks.n.external: must be a boolean or a mapping, not a string",
        ),
        (
            "volumes:\n  v: {external: true, driver: x}\n",
            '2: volumes.v: conflicting parameters "external" and "driver" specified for volume "v"',
        ),
        ("networks:\n  n: {ipam: {config: [{gateway: x}]}}\n", "2: networks.n.ipam.config.0.gateway: unknown key"),
    ],
)
def test_what_is_wrong_is_told_with_file_line_and_key(folder: Path, text: str, message: str) -> None:
    with pytest.raises(CliError) as caught:
        read(text)
    assert str(caught.value).startswith(f"s.yml:{message}")
    assert "\n" not in str(caught.value)


def test_wrong_text_of_variables_is_told(folder: Path) -> None:
    with pytest.raises(CliError, match=r"^s.yml:3: services.web.tty: invalid boolean: 5$"):
        service("tty: $T", {"T": "5"})
    with pytest.raises(
        CliError, match=r"^s.yml:3: services.web.deploy.replicas: must be an integer, not a string$"
    ):
        service("deploy: {replicas: $T}", {"T": "five"})


def test_files_that_cannot_be_read(folder: Path) -> None:
    with pytest.raises(CliError, match=r"^cannot read the stack file none.yml: No such file or directory$"):
        load(("none.yml",), {})
    with pytest.raises(CliError, match=r"^specify a Compose file \(with --compose-file\)$"):
        load((), {})
    with pytest.raises(CliError, match=r"cannot read the environment file .*none.env"):
        service("env_file: none.env")


def test_several_files(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "a.yml").write_text("services: {web: {image: a}}\nsecrets: {s: {file: s.txt}}\n")
    (folder / "b.yml").write_text("services: {web: {tty: true}, db: {image: b}}\n")

    config = load(("sub/a.yml,b.yml",), {}).config

    assert config["services"] == {"web": {"image": "a", "tty": True}, "db": {"image": "b"}}
    assert config["secrets"]["s"]["file"] == str(folder / "sub" / "s.txt"), "from the first file's folder"
    (folder / "c.yml").write_text("version: '3.8'\n")
    with pytest.raises(CliError, match=r"^version mismatched between two composefiles : 3.13 and 3.8$"):
        load(("b.yml", "c.yml"), {})


def test_what_is_passed_over_is_said(folder: Path) -> None:
    loaded = read(
        "services:\n  web: {image: $NONE, build: ., restart: always, depends_on: [db]}\n"
        "  db: {image: x, links: [web], container_name: c}\n"
        "networks: {n: {external: {name: x}}}\n"
    )

    assert support.warnings(loaded.files) == [
        "Ignoring unsupported options: build, depends_on, links, restart\n",
        "Ignoring deprecated options:\n\ncontainer_name: Setting the container name is not supported.\n",
    ]
    assert loaded.warnings == [
        "network n: network.external.name is deprecated in favor of network.name",
        'The "NONE" variable is not set. Defaulting to a blank string.',
    ]
    assert support.warnings(read("services: {web: {image: x}}\n").files) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "services:\n  web:\n    networks:\n      - front\n      - nope\nnetworks: {front: }\n",
            '5: services.web.networks.1: undefined network "nope"',
        ),
        (
            "services:\n  web:\n    networks:\n      nope: {}\n",
            '4: services.web.networks.nope: undefined network "nope"',
        ),
        ("services:\n  web:\n    secrets:\n      - nope\n", '4: services.web.secrets.0: undefined secret "nope"'),
        (
            "services:\n  web:\n    configs:\n      - target: x\n        source: nope\n",
            '5: services.web.configs.0: undefined config "nope"',
        ),
        (
            "services:\n  web:\n    volumes: ['./a:/b', nope:/x]\n",
            '3: services.web.volumes.1: undefined volume "nope"',
        ),
        (
            "services:\n  web:\n    volumes: [{type: volume, source: nope, target: /x}]\n",
            '3: services.web.volumes.0: undefined volume "nope"',
        ),
        (
            "services:\n  a:\n    depends_on:\n      - a\n",
            "4: services.a.depends_on.0: services depend on one another: a -> a",
        ),
        (
            "services:\n  a: {depends_on: [b]}\n  b: {depends_on: [d, c]}\n  c: {depends_on: [a]}\n  d: {}\n",
            "4: services.c.depends_on.0: services depend on one another: a -> b -> c -> a",
        ),
    ],
)
def test_names_that_lead_nowhere_and_cycles(folder: Path, text: str, message: str) -> None:
    with pytest.raises(CliError) as caught:
        references.check(read(text).files)
    assert str(caught.value) == f"s.yml:{message}"


def test_names_may_be_defined_in_another_file_and_chains_may_be_long(folder: Path) -> None:
    Path("a.yml").write_text("services: {web: {image: x, networks: [n, default], secrets: [s]}}\n")
    Path("b.yml").write_text("networks: {n: }\nsecrets: {s: {external: true}}\n")
    references.check(load(("a.yml", "b.yml"), {}).files)

    links = "".join(f"  s{n}: {{depends_on: [s{n + 1}, s{n + 2}, gone]}}\n" for n in range(3000))
    references.check(read(f"services:\n{links}").files)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("volumes: [a:/b]", "3: services.web.volumes: volumes is not supported by this version of pyswarm"),
        ("healthcheck: {test: x}", "3: services.web.healthcheck: healthcheck is not"),
        (
            "deploy:\n      mode: global",
            "4: services.web.deploy.mode: mode global is not supported by this version",
        ),
        (
            "deploy: {placement: {constraints: [a==b]}}",
            "3: services.web.deploy.placement.constraints: constraints is",
        ),
        (
            "deploy: {update_config: {failure_action: rollback}}",
            "3: services.web.deploy.update_config.failure_action: failure_action rollback is",
        ),
        (
            "deploy: {rollback_config: {order: start-first}}",
            "3: services.web.deploy.rollback_config.order: order start-first is",
        ),
        (
            "ports: ['127.0.0.1:80:80']",
            "3: services.web.ports.0: a host address (127.0.0.1:80:80) is not supported",
        ),
        (
            "networks: {n: {ipv4_address: 10.0.0.5}}",
            "3: services.web.networks.n.ipv4_address: ipv4_address 10.0.0.5 is",
        ),
        ("hostname: 'a-{{.Task.Slot}}'", "3: services.web.hostname: hostname a-{{.Task.Slot}} is not"),
        ("environment: ['A={{.Node.ID}}']", "3: services.web.environment.0: "),
        ("environment: {A: '{{.Node.ID}}'}", "3: services.web.environment.A: "),
        ("logging: {driver: syslog}", "3: services.web.logging: "),
    ],
)
def test_what_this_version_cannot_do_is_refused_by_name(folder: Path, text: str, message: str) -> None:
    with pytest.raises(CliError) as caught:
        support.check_supported(read(f"services:\n  web:\n    {text}\n").files[0])
    assert str(caught.value).startswith(f"s.yml:{message}")


def test_objects_this_version_cannot_make_are_refused(folder: Path) -> None:
    for text, message in (
        ("networks:\n  n: {driver: bridge}\n", "s.yml:2: networks.n.driver: driver bridge is not supported"),
        (
            "networks:\n  n: {driver_opts: {encrypted: ''}}\n",
            "s.yml:2: networks.n.driver_opts: driver_opts is not",
        ),
        ("secrets:\n  s: {file: x, template_driver: golang}\n", "s.yml:2: secrets.s.template_driver: "),
    ):
        with pytest.raises(CliError) as caught:
            support.check_supported(read(text).files[0])
        assert str(caught.value).startswith(message)


def test_what_says_nothing_special_is_accepted(folder: Path) -> None:
    support.check_supported(
        read(
            "services:\n  web:\n    volumes: []\n    isolation: default\n    ports: ['80:80', 90, {target: 1}]\n"
            "    deploy: {mode: replicated, placement: {constraints: []}, rollback_config: {parallelism: 1,\n"
            "      delay: 0s, monitor: 5s, order: stop-first}}\n"
            "networks: {n: {driver: overlay, driver_opts: {com.docker.network.driver.mtu: 1400}}}\n"
            "volumes: {unused: }\n"
        ).files[0]
    )


def test_the_printed_file_means_the_same(folder: Path) -> None:
    text = (
        "version: '3.8'\nx-top: {a: 1}\nservices:\n  web:\n    image: a:1\n"
        "    command: [sh, -c, 'echo \"x: y\"']\n"
        "    environment: {A: , B: '12', C: 'yes', D: '1e3', E: '# no', F: '12:30', G: 'a: b', H: \"l1\\nl2\"}\n"
        "    stop_grace_period: 90s\n    ports: ['80:80']\n    ulimits: {nofile: 5}\n"
        "    secrets: [{source: s, mode: 0400}]\n"
        "    deploy: {replicas: 0, resources: {limits: {memory: 1g}}, update_config: {delay: 1500ms}}\n"
        "networks: {n: {labels: {delay: '5'}}}\nsecrets: {s: {file: x}}\n"
    )
    config = read(text).config
    printed = dump(config)

    assert read(printed).config == config
    parsed = yaml.safe_load(printed)
    web = parsed["services"]["web"]
    assert list(parsed) == ["version", "services", "networks", "secrets", "x-top"]
    assert web["environment"]["F"] == "12:30"
    assert web["stop_grace_period"] == "1m30s"
    assert web["deploy"] == {
        "replicas": 0,
        "update_config": {"delay": "1.5s"},
        "resources": {"limits": {"memory": str(1 << 30)}},
    }
    assert parsed["networks"]["n"]["labels"] == {"delay": "5"}


def test_without_interpolation_variables_stay(folder: Path) -> None:
    config = read("services: {web: {image: 'a:${TAG:-1}'}}\n", {"TAG": "2"}, interpolate=False).config
    assert config["services"]["web"]["image"] == "a:${TAG:-1}"
