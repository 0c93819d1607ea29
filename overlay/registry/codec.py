"""Keys and values of the registry. Pure.

    <prefix>/nodes/<node>                    NodeEntry as JSON
    <prefix>/networks/<network>              NetworkEntry as JSON
    <prefix>/endpoints/<network>/<endpoint>  EndpointEntry as JSON
    <prefix>/services/<service>              ServiceEntry as JSON
    <prefix>/fence                           term and index of the last writer, compared as text
    <prefix>/synced                          SyncMark as text, written last in every change
    <prefix>/complete                        written last in a full fill: what is here may be believed

Hosts take no state from an etcd without ``complete``: after a wipe it is absent until all entries are written
again, so that nobody mistakes an empty or half-filled etcd for an empty cluster and tears its mappings down.
"""

from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

from pyswarm.overlay.registry.model import (
    EndpointEntry,
    Fence,
    NetworkEntry,
    NodeEntry,
    OverlayState,
    ServiceEntry,
    SyncMark,
)

PREFIX = "/pyswarm/v1"
K = TypeVar("K")
V = TypeVar("V")


class Keys:
    """The keys under one prefix."""

    def __init__(self, prefix: str = PREFIX) -> None:
        self.prefix = prefix
        self.root = prefix.encode() + b"/"
        self.fence = self.root + b"fence"
        self.synced = self.root + b"synced"
        self.complete = self.root + b"complete"

    def flatten(self, state: OverlayState) -> dict[bytes, bytes]:
        """Every entry of ``state`` as key and value."""
        encode = msgspec.json.encode
        flat = {self.root + b"nodes/" + k.encode(): encode(v) for k, v in state.nodes.items()}
        flat.update({self.root + b"networks/" + k.encode(): encode(v) for k, v in state.networks.items()})
        flat.update({self.root + b"services/" + k.encode(): encode(v) for k, v in state.services.items()})
        for (network_id, endpoint_id), endpoint in state.endpoints.items():
            flat[self.root + f"endpoints/{network_id}/{endpoint_id}".encode()] = encode(endpoint)
        return flat

    def is_entry(self, key: bytes) -> bool:
        """Whether the key belongs to the state, as the fence and the markers do not."""
        return key.startswith(self.root) and key not in (self.fence, self.synced, self.complete)

    def is_endpoint(self, key: bytes) -> bool:
        """Whether the key is that of an endpoint."""
        return key.startswith(self.root + b"endpoints/")


def encode_fence(fence: Fence) -> bytes:
    """Fixed width, so that comparing the text compares the numbers."""
    term, index = fence
    return b"%020d.%020d" % (term, index)


def decode_fence(value: bytes) -> Fence | None:
    """(term, index), or None for something that is no fence."""
    term, dot, index = value.partition(b".")
    return (int(term), int(index)) if dot and term.isdigit() and index.isdigit() else None


def encode_mark(mark: SyncMark) -> bytes:
    """The fence, and a sign that an answer is wanted."""
    return encode_fence(mark.fence) + (b"!" if mark.asked else b"")


def decode_mark(value: bytes) -> SyncMark | None:
    """The reverse; None for something that is no mark."""
    fence = decode_fence(value.removesuffix(b"!"))
    return None if fence is None else SyncMark(fence, value.endswith(b"!"))


class Mirror:
    """The entries read so far, and the state they make."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._nodes: dict[str, NodeEntry] = {}
        self._networks: dict[str, NetworkEntry] = {}
        self._endpoints: dict[tuple[str, str], EndpointEntry] = {}
        self._services: dict[str, ServiceEntry] = {}
        self._mark: SyncMark | None = None
        self.complete = False
        self.invalid_total = 0

    def load(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Replace everything."""
        self._nodes, self._networks, self._endpoints, self._services = {}, {}, {}, {}
        self._mark, self.complete = None, False
        for key, value in entries:
            self.apply(key, value)

    def apply(self, key: bytes, value: bytes | None) -> bool:
        """Take over one change; False if it does not concern the state.

        A value that cannot be read counts as absent: the entry of a writer newer than us in a way we do not know
        must not stop the rest.
        """
        keys = self._keys
        if key == keys.complete:
            changed = self.complete != (value is not None)
            self.complete = value is not None
            return changed
        if key == keys.synced:
            self._mark = None if value is None else decode_mark(value)
            return True
        kind, _, name = key.removeprefix(keys.root).decode(errors="replace").partition("/")
        match kind:
            case "nodes":
                return self._take(self._nodes, name, value, NodeEntry)
            case "networks":
                return self._take(self._networks, name, value, NetworkEntry)
            case "services":
                return self._take(self._services, name, value, ServiceEntry)
            case "endpoints":
                network_id, _, endpoint_id = name.partition("/")
                return self._take(self._endpoints, (network_id, endpoint_id), value, EndpointEntry)
        return False

    def _take(self, entries: dict[K, V], name: K, value: bytes | None, kind: type[V]) -> bool:
        entry: V | None = None
        if value is not None:
            try:
                entry = msgspec.json.decode(value, type=kind)
            except msgspec.DecodeError:
                self.invalid_total += 1
        if entry is None:
            return entries.pop(name, None) is not None
        if entries.get(name) == entry:
            return False
        entries[name] = entry
        return True

    def snapshot(self) -> OverlayState:
        """The state as of now; later changes do not touch it."""
        return OverlayState(
            nodes=dict(self._nodes),
            networks=dict(self._networks),
            endpoints=dict(self._endpoints),
            services=dict(self._services),
            mark=self._mark,
        )


def difference(have: Mapping[bytes, bytes], want: Mapping[bytes, bytes]) -> tuple[dict[bytes, bytes], list[bytes]]:
    """(puts, deletes) that turn ``have`` into ``want``."""
    puts = {k: v for k, v in want.items() if have.get(k) != v}
    return puts, [k for k in have if k not in want]
