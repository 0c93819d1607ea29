"""How every domain object is declared: a frozen struct whose JSON field names are Docker's."""

from datetime import UTC, datetime

import msgspec

_WORDS = {
    "id": "ID", "uid": "UID", "gid": "GID", "cpus": "CPUs", "tty": "TTY", "os": "OS", "tls": "TLS", "ca": "CA",
    "pid": "PID", "ipam": "IPAM", "ipv6": "IPv6", "dns": "DNS", "ips": "IPs", "mac": "MAC", "vni": "VNI",
}  # fmt: skip


def docker_name(name: str) -> str:
    """``node_id`` -> ``NodeID``: the field's name in Docker's JSON. A unit suffix (``_ns``) is not part of it."""
    parts = name.split("_")
    if len(parts) > 1 and parts[-1] in ("ns", "s"):
        parts = parts[:-1]
    return "".join(_WORDS.get(part, part.capitalize()) for part in parts)


class Object(msgspec.Struct, frozen=True, kw_only=True, rename=docker_name, omit_defaults=True):
    """Base of all domain objects and their parts: immutable, compared by value, every new field with a default.

    ``msgspec.msgpack`` of it is the codec of log and snapshots, ``msgspec.json`` of it is Docker's JSON.
    """


class Version(Object, frozen=True):
    """The Raft index at which the object last changed; a writer must name the one it read."""

    index: int = 0


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def timestamp(epoch_s: float) -> datetime:
    """Seconds since the epoch as the aware datetime that objects carry."""
    return datetime.fromtimestamp(epoch_s, UTC)
