"""Published ports on the command line: read, changed and shown as Docker does."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from pyswarm.cli.base import Parsed

Port = dict[str, Any]

_LAST_PORT = 65_535
_PROTOCOLS = ("tcp", "udp", "sctp")
_MODES = ("ingress", "host")


def parse_publish(text: str) -> list[Port]:
    """``8080:80/udp``, ``8000-8002:80-82`` or ``target=80,published=8080,mode=host``; raises ValueError with
    Docker's words."""
    return [_long_form(text)] if "=" in text else _short_form(text)


PUBLISH = Parsed("port", parse_publish)


def _long_form(text: str) -> Port:
    port: Port = {"Protocol": "tcp", "TargetPort": 0, "PublishMode": "ingress"}
    for field in text.lower().split(","):
        key, separator, value = field.partition("=")
        if not separator or not key:
            raise ValueError(f"invalid field: {field}")
        match key:
            case "protocol":
                if value not in _PROTOCOLS:
                    raise ValueError(f"invalid protocol value '{value}'")
                port["Protocol"] = value
            case "mode":
                if value not in _MODES:
                    raise ValueError(f"invalid publish mode value ({value}): must be either 'ingress' or 'host'")
                port["PublishMode"] = value
            case "target":
                port["TargetPort"] = _number(value, "target port")
            case "published":
                if number := _number(value, "published port"):
                    port["PublishedPort"] = number
            case _:
                raise ValueError(f"invalid field key: {key}")
    if not port["TargetPort"]:
        raise ValueError("missing mandatory field 'target'")
    return port


def _number(text: str, what: str) -> int:
    if not re.fullmatch(r"[0-9]+", text):
        raise ValueError(f"invalid {what} ({text}): value must be an integer: invalid syntax")
    if len(text) > 5 or int(text) > _LAST_PORT:
        raise ValueError(f"invalid {what} ({text}): value must be an integer: value out of range")
    return int(text)


def _short_form(text: str) -> list[Port]:
    spec, _, protocol = text.partition("/")
    protocol = protocol.partition("/")[0].lower() or "tcp"
    rest, _, container = spec.rpartition(":")
    address, _, host = rest.rpartition(":")
    if not container:
        raise ValueError(f"no port specified: {text}<empty>")
    targets = _span(container, "containerPort")
    published = _span(host, "hostPort") if host else range(0)
    if protocol not in _PROTOCOLS:
        raise ValueError(f"invalid proto: {protocol}")
    if address:
        raise ValueError("hostip is not supported")
    if published and len(targets) not in (1, len(published)):
        raise ValueError(f"invalid ranges specified for container and host Ports: {container} and {host}")
    if not published:
        return [_port(protocol, target, 0) for target in targets]
    if len(targets) == 1:
        return [_port(protocol, targets[0], number) for number in published]
    return [_port(protocol, target, number) for target, number in zip(targets, published, strict=True)]


def _port(protocol: str, target: int, published: int) -> Port:
    port: Port = {"Protocol": protocol, "TargetPort": target}
    return {**port, **({"PublishedPort": published} if published else {}), "PublishMode": "ingress"}


def _span(text: str, what: str) -> range:
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text)
    if match is None:
        raise ValueError(f"invalid {what}: {text}")
    first, last = int(match[1]), int(match[2] or match[1])
    if not first <= last <= _LAST_PORT:
        raise ValueError(f"invalid {what}: {text}")
    return range(first, last + 1)


def changed_ports(present: Sequence[Port], add: Iterable[list[Port]], remove: Iterable[list[Port]]) -> list[Port]:
    """``--publish-add`` and ``--publish-rm``: ports are removed by target, protocol and mode, whatever they are
    published as. In Docker's order, so that the same ports are the same spec."""
    gone = {_target(port) for ports in remove for port in ports}
    kept = {_key(port): port for port in present if _target(port) not in gone}
    for ports in add:
        for port in ports:
            kept.setdefault(_key(port), port)
    return [kept[key] for key in sorted(kept)]


def _target(port: Port) -> tuple[int, str, str]:
    return port["TargetPort"], port.get("Protocol") or "tcp", port.get("PublishMode") or "ingress"


def _key(port: Port) -> str:
    target, protocol, mode = _target(port)
    return f"{port.get('PublishedPort', 0)}:{target}/{protocol}/{mode}"


def published_ports(service: Any) -> str:
    """The PORTS column of services: what every host leads to them, consecutive ones as a range."""
    ports = [p for p in service.get("Endpoint", {}).get("Ports") or [] if p.get("PublishMode") == "ingress"]
    ports.sort(key=lambda p: (p.get("Protocol", "tcp"), p.get("PublishedPort", 0), p["TargetPort"]))
    shown: list[str] = []
    run: list[Port] = []
    for port in ports:
        if run and not _continues(run, port):
            shown.append(_shown_run(run))
            run = []
        run.append(port)
    return ", ".join([*shown, *([_shown_run(run)] if run else [])])


def _continues(run: list[Port], port: Port) -> bool:
    """Whether ``port`` goes on the range: the next published port, and the next or, all along, the same target."""
    first, last = run[0], run[-1]
    published = [p.get("PublishedPort", 0) for p in (last, port)]
    targets = [int(p["TargetPort"]) for p in (first, last, port)]
    if port.get("Protocol") != last.get("Protocol") or published[1] - published[0] > 1:
        return False
    return targets[2] == targets[1] + 1 or targets[0] == targets[1] == targets[2]


def _shown_run(run: list[Port]) -> str:
    first, last = run[0], run[-1]
    published = _shown_span(first.get("PublishedPort", 0), last.get("PublishedPort", 0))
    target = _shown_span(first["TargetPort"], last["TargetPort"])
    return f"*:{published}->{target}/{first.get('Protocol', 'tcp')}"


def _shown_span(first: int, last: int) -> str:
    return f"{first}-{last}" if last > first else str(first)


def lent_ports(task: Any) -> str:
    """The PORTS column of tasks: what their host lends them."""
    ports = (task["Status"].get("PortStatus") or {}).get("Ports") or []
    return ",".join(f"*:{p.get('PublishedPort', 0)}->{p['TargetPort']}/{p.get('Protocol', 'tcp')}" for p in ports)


def pretty_ports(service: Any) -> list[str]:
    """The lines of ``service inspect --pretty``."""
    ports = service.get("Endpoint", {}).get("Ports") or []
    lines = ["Ports:"] if ports else []
    for port in ports:
        lines += [
            f" PublishedPort = {port.get('PublishedPort', 0)}",
            f"  Protocol = {port.get('Protocol', 'tcp')}",
            f"  TargetPort = {port['TargetPort']}",
            f"  PublishMode = {port.get('PublishMode', 'ingress')}",
        ]
    return lines
