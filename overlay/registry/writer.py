"""The leader's hand on the registry: makes etcd hold exactly the desired state.

One leader writes at a time, and etcd itself sees to that: each transaction requires that the fence key holds
nothing newer than the writer's own (term, index), and advances it. A deposed leader that still believes in
itself is refused from its successor's first transaction on.
"""

from itertools import islice

import msgspec

from pyswarm.common.log import get_logger
from pyswarm.overlay.registry.client import Compare, EtcdClient
from pyswarm.overlay.registry.codec import PREFIX, Keys, decode_fence, difference, encode_fence, encode_mark
from pyswarm.overlay.registry.errors import RegistryError, RegistryFenced, RegistryUnavailable
from pyswarm.overlay.registry.model import Fence, OverlayState, SyncMark

log = get_logger("registry")
_BATCH_OPS = 98  # with fence and mark 100; etcd's own limit is 128


class SyncResult(msgspec.Struct, frozen=True):
    """How many entries were written and deleted. ``marked``: hosts will come by a new mark."""

    puts: int = 0
    deletes: int = 0
    marked: bool = False


class RegistryWriter:
    """Writes the difference between what etcd holds and the desired state. One instance per leadership."""

    def __init__(self, client: EtcdClient, prefix: str = PREFIX) -> None:
        self._client = client
        self._keys = Keys(prefix)
        self._written: dict[bytes, bytes] | None = None
        self._fence_held = False

    def invalidate(self) -> None:
        """Trust nothing written before: the next sync reads everything again."""
        self._written = None

    async def sync(self, state: OverlayState, fence: Fence, *, ask: bool = False) -> SyncResult:
        """Make etcd hold ``state``. The first sync, and each one after an error, reads what etcd really holds.
        With ``ask`` hosts are to say when they have it in force; nothing is asked when nothing differs.

        Raises RegistryFenced when a newer leader has written; other errors are worth another try.
        """
        want = self._keys.flatten(state)
        full = self._written is None
        have = self._written if self._written is not None else await self._read(fence)
        # Unknown until all is done: an error leaves the next sync to read.
        self._written = None
        puts, deletes = difference(have, want)
        # Old owners of an address go before its new owner comes; what endpoints refer to comes before them and
        # goes after them.
        ops: list[tuple[bytes, bytes | None]] = [
            *((k, None) for k in deletes if self._keys.is_endpoint(k)),
            *((k, v) for k, v in puts.items() if not self._keys.is_endpoint(k)),
            *((k, v) for k, v in puts.items() if self._keys.is_endpoint(k)),
            *((k, None) for k in deletes if not self._keys.is_endpoint(k)),
        ]
        if full or ops:
            ops.append((self._keys.synced, encode_mark(SyncMark(fence, ask))))
        stream = iter(ops)
        while batch := list(islice(stream, _BATCH_OPS)):
            await self._write(batch, fence)
        if full:
            # Written even when nothing differed: it fences the leader before, and says that the state is whole.
            await self._write([(self._keys.complete, encode_fence(fence))], fence)
        self._written = want
        if full or ops:
            log.debug("registry written", full=full, puts=len(puts), deletes=len(deletes))
        return SyncResult(len(puts), len(deletes), marked=bool(ops))

    async def _read(self, fence: Fence) -> dict[bytes, bytes]:
        listing = await self._client.list(self._keys.root)
        held = next((kv.value for kv in listing.kvs if kv.key == self._keys.fence), None)
        self._fence_held = held is not None
        self._check(held, fence)
        return {kv.key: kv.value for kv in listing.kvs if self._keys.is_entry(kv.key)}

    async def _write(self, ops: list[tuple[bytes, bytes | None]], fence: Fence) -> None:
        term, index = fence
        puts = [(k, v) for k, v in ops if v is not None]
        puts.append((self._keys.fence, encode_fence(fence)))
        newer = encode_fence((term, index + 1))
        compare = Compare(self._keys.fence, less_than=newer if self._fence_held else None)
        result = await self._client.txn([compare], puts, [k for k, v in ops if v is None])
        if result.succeeded:
            self._fence_held = True
            return
        held = await self._client.get(self._keys.fence)
        self._check(held.value if held else None, fence)
        raise RegistryUnavailable("etcd was emptied or written by someone else; reading it again")

    def _check(self, held: bytes | None, fence: Fence) -> None:
        if held is None:
            return
        holder = decode_fence(held)
        if holder is None:
            raise RegistryError(f"the key {self._keys.fence.decode()} in etcd is not ours: it holds {held!r}")
        if holder > fence:
            raise RegistryFenced(f"a newer leader (term {holder[0]}) has written to etcd")
