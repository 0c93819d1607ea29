"""``--publish`` in all its forms, and how ports are shown. What is expected was seen of the docker CLI 28.2."""

import re
from typing import Any

import pytest

from pyswarm.cli.ports import changed_ports, lent_ports, parse_publish, pretty_ports, published_ports


def port(published: int, target: int, protocol: str = "tcp", mode: str = "ingress") -> dict[str, Any]:
    head: dict[str, Any] = {"Protocol": protocol, "TargetPort": target}
    return {**head, **({"PublishedPort": published} if published else {}), "PublishMode": mode}


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("80", [port(0, 80)]),
        (":80", [port(0, 80)]),
        ("0:80", [port(0, 80)]),
        ("8080:80", [port(8080, 80)]),
        ("8080:80/udp", [port(8080, 80, "udp")]),
        ("8080:80/TCP", [port(8080, 80)]),
        ("8080:80/sctp", [port(8080, 80, "sctp")]),
        ("65535:1", [port(65_535, 1)]),
        ("8000-8002:80-82", [port(8000, 80), port(8001, 81), port(8002, 82)]),
        ("8000-8001:80", [port(8000, 80), port(8001, 80)]),
        ("80-81", [port(0, 80), port(0, 81)]),
        ("target=80", [port(0, 80)]),
        ("target=80,published=0", [port(0, 80)]),
        ("TARGET=80,Published=90", [port(90, 80)]),
        ("target=80,published=8080,protocol=udp,mode=host", [port(8080, 80, "udp", "host")]),
    ],
)
def test_forms_of_docker_s(text: str, ports: list[dict[str, Any]]) -> None:
    assert parse_publish(text) == ports


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no port specified: <empty>"),
        ("8080:", "no port specified: 8080:<empty>"),
        ("abc", "invalid containerPort: abc"),
        ("8080:abc", "invalid containerPort: abc"),
        ("80:65536", "invalid containerPort: 65536"),
        ("abc:80", "invalid hostPort: abc"),
        ("65536:80", "invalid hostPort: 65536"),
        ("-1:80", "invalid hostPort: -1"),
        (" 8080:80", "invalid hostPort:  8080"),
        ("8002-8000:80-82", "invalid hostPort: 8002-8000"),
        ("8000-8002:80-81", "invalid ranges specified for container and host Ports: 80-81 and 8000-8002"),
        ("8000:80-81", "invalid ranges specified for container and host Ports: 80-81 and 8000"),
        ("8080:80/icmp", "invalid proto: icmp"),
        ("1.2.3.4:8080:80", "hostip is not supported"),
        ("[::1]:8080:80", "hostip is not supported"),
        ("8080:8²", "invalid containerPort: 8²"),
        ("target=abc", "invalid target port (abc): value must be an integer: invalid syntax"),
        ("target=-1", "invalid target port (-1): value must be an integer: invalid syntax"),
        ("target=65536", "invalid target port (65536): value must be an integer: value out of range"),
        ("target=0", "missing mandatory field 'target'"),
        ("published=80", "missing mandatory field 'target'"),
        ("target=80,published=x", "invalid published port (x): value must be an integer: invalid syntax"),
        ("target=80,mode=x", "invalid publish mode value (x): must be either 'ingress' or 'host'"),
        ("target=80,protocol=x", "invalid protocol value 'x'"),
        ("target=80,foo=bar", "invalid field key: foo"),
        ("target=80,published", "invalid field: published"),
    ],
)
def test_what_is_wrong_is_told_in_docker_s_words(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        parse_publish(text)


def test_ports_are_removed_by_target_protocol_and_mode() -> None:
    present = [port(9000, 90), port(9001, 90), port(9100, 91, "udp"), port(5, 5, mode="host")]

    def left(add: tuple[str, ...] = (), remove: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        return changed_ports(present, [parse_publish(t) for t in add], [parse_publish(t) for t in remove])

    assert left() == [port(5, 5, mode="host"), port(9000, 90), port(9001, 90), port(9100, 91, "udp")]
    assert left(remove=("90", "91")) == [port(5, 5, mode="host"), port(9100, 91, "udp")]
    assert left(remove=("7:91/udp", "5", "90-91")) == [port(5, 5, mode="host")]
    assert left(remove=("target=5,mode=host", "90/tcp", "91/udp")) == []
    assert left(add=("9000:90", "80:80"), remove=("91/udp", "target=5,mode=host")) == [
        port(80, 80), port(9000, 90), port(9001, 90),
    ]  # fmt: skip
    # Docker leaves a port out that is removed and added again at once.
    assert left(add=("9000:90",), remove=("90", "91/udp", "target=5,mode=host")) == [port(9000, 90)]


def test_the_ports_column_shows_what_every_host_leads_to_the_service() -> None:
    ports = [
        port(8080, 80), port(8002, 82), port(8000, 80), port(8001, 81), port(5, 5, mode="host"),
        *(port(9000 + n, 90) for n in range(4)), port(9100, 91, "udp"), port(70, 71), port(71, 71), port(72, 72),
    ]  # fmt: skip
    assert published_ports({"Endpoint": {"Ports": ports}}) == (
        "*:70-72->71-72/tcp, *:8000-8002->80-82/tcp, *:8080->80/tcp, *:9000-9003->90/tcp, *:9100->91/udp"
    )
    assert published_ports({"Endpoint": {"Ports": [port(5, 5, mode="host")]}}) == ""
    assert published_ports({"Endpoint": {}}) == published_ports({}) == ""
    assert published_ports({"Endpoint": {"Ports": [port(1, 9), port(2, 8), port(3, 8), port(4, 9)]}}) == (
        "*:1->9/tcp, *:2-4->8-9/tcp"
    )


def test_a_task_shows_what_its_host_lends_it() -> None:
    lent = [port(8080, 80, mode="host"), port(49_153, 53, "udp", "host")]
    assert lent_ports({"Status": {"PortStatus": {"Ports": lent}}}) == "*:8080->80/tcp,*:49153->53/udp"
    assert lent_ports({"Status": {"PortStatus": {}}}) == lent_ports({"Status": {}}) == ""


def test_pretty_ports() -> None:
    assert pretty_ports({"Endpoint": {"Ports": [port(8080, 80)]}}) == [
        "Ports:", " PublishedPort = 8080", "  Protocol = tcp", "  TargetPort = 80", "  PublishMode = ingress",
    ]  # fmt: skip
    assert pretty_ports({"Endpoint": {}}) == []
