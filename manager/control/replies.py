"""Objects on their way out of the managers: what of them may be seen, and how many fit into one message. Pure."""

from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime

import msgspec
from msgspec.structs import replace

from pyswarm.common.errors import InvalidArgument
from pyswarm.common.types import Cluster, Object, Secret
from pyswarm.manager.state import Stored

#: A reply is closed above this; one larger object still travels alone.
PAGE_BYTES = 8 * 1024 * 1024


def encoded(obj: Object) -> bytes:
    """An object as clients get it: no payload of a secret, no key of the CA leaves the managers."""
    if isinstance(obj, Secret):
        obj = replace(obj, spec=replace(obj.spec, data=b""))
    elif isinstance(obj, Cluster):
        obj = replace(obj, root_ca_key=b"")
    return msgspec.msgpack.encode(obj)


def page(objects: Sequence[Stored], after: str) -> tuple[list[bytes], str]:
    """As many of ``objects``, which come oldest first, as one reply carries, beginning behind ``after``; and what
    to name as ``after`` for the rest, empty when there is none. Objects may come and go between two pages."""
    start = bisect_right(objects, _position(after), key=_key) if after else 0
    found: list[bytes] = []
    size = 0
    for number in range(start, len(objects)):
        data = encoded(objects[number])
        size += len(data)
        if found and size > PAGE_BYTES:
            created_at, object_id = _key(objects[number - 1])
            return found, f"{created_at.isoformat()} {object_id}"
        found.append(data)
    return found, ""


def _key(obj: Stored) -> tuple[datetime, str]:
    return obj.created_at, obj.id


def _position(after: str) -> tuple[datetime, str]:
    text, _, object_id = after.partition(" ")
    try:
        created_at = datetime.fromisoformat(text)
    except ValueError as exc:
        raise InvalidArgument("the list cannot be continued from there") from exc
    if created_at.tzinfo is None:
        raise InvalidArgument("the list cannot be continued from there")
    return created_at, object_id
