"""Several RaftNodes in one process over a network that can be cut, with real journals on disk."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from pyswarm.common.errors import NotLeader, OutcomeUnknown, Unavailable
from pyswarm.manager.raft import Member, RaftConfig, RaftNode
from pyswarm.manager.raft.disk import Disk
from pyswarm.manager.raft.messages import Message, decode, encode


async def eventually(condition: Callable[[], bool], timeout_s: float = 15.0, what: str = "") -> None:
    """Wait for a condition, looking often."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what or condition}")
        await asyncio.sleep(0.005)


class Ledger:
    """A state machine that remembers every command, where it was applied, and how often it was restored."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, bytes]] = []
        self.restored = 0

    def apply(self, index: int, command: bytes) -> bytes:
        """Remember and answer."""
        if command == b"raise":
            raise RuntimeError("this state machine breaks its promise")
        assert not self.entries or index > self.entries[-1][0], "applied twice or out of order"
        self.entries.append((index, command))
        return b"applied " + command

    def snapshot(self) -> Callable[[], bytes]:
        """Everything so far."""
        captured = list(self.entries)
        return lambda: msgspec.msgpack.encode(captured)

    def restore(self, data: bytes, index: int) -> None:
        """Start over."""
        self.entries = msgspec.msgpack.decode(data, type=list[tuple[int, bytes]])
        assert not self.entries or self.entries[-1][0] <= index
        self.restored += 1

    @property
    def commands(self) -> list[bytes]:
        """In the order they were applied."""
        return [command for _, command in self.entries]


class Network:
    """Delivers at once. ``cut`` holds (from, to) pairs that do not; ``filter`` may change or drop a message."""

    def __init__(self) -> None:
        self.nodes: dict[str, RaftNode] = {}
        self.cut: set[tuple[str, str]] = set()
        self.filter: Callable[[str, str, Message], Message | None] | None = None
        self.seen: list[tuple[str, str, Message]] = []
        self.record = False
        self.largest = 0
        self._lock = threading.Lock()

    def isolate(self, name: str) -> None:
        """Cut a node off, both ways."""
        for other in self.nodes:
            self.cut |= {(name, other), (other, name)}

    def heal(self) -> None:
        """Everybody reaches everybody."""
        self.cut = set()

    def carry(self, sender: str, to: str, payload: bytes) -> bool:
        """One message."""
        self.largest = max(self.largest, len(payload))
        if (sender, to) in self.cut:
            return False
        if self.filter is not None or self.record:
            message: Message | None = decode(payload)
            assert message is not None
            if self.record:
                with self._lock:
                    self.seen.append((sender, to, message))
            if self.filter is not None:
                message = self.filter(sender, to, message)
                if message is None:
                    return False
                payload = encode(message)
        node = self.nodes.get(to)
        if node is None:
            return False
        node.deliver(sender, payload)
        return True


class Sender:
    """A node's end of the network."""

    def __init__(self, network: Network, name: str) -> None:
        self._network = network
        self._name = name
        self.forgotten: list[str] = []

    def send(self, node_id: str, addr: str, payload: bytes) -> bool:
        """Send."""
        assert addr
        return self._network.carry(self._name, node_id, payload)

    def forget(self, node_id: str) -> None:
        """Remember who was forgotten."""
        self.forgotten.append(node_id)


class Cluster:
    """Named nodes; ``start`` again after ``stop`` is a restart from disk."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.network = Network()
        self.settings: dict[str, object] = {
            "heartbeat_s": 0.05,
            "election_min_s": 0.25,
            "election_max_s": 0.5,
            "quorum_timeout_s": 0.6,
            **settings,
        }
        self.ledgers: dict[str, Ledger] = {}
        self.leaderships: list[tuple[str, bool, int]] = []
        self.failures: dict[str, Exception] = {}

    @property
    def nodes(self) -> dict[str, RaftNode]:
        """Those that run."""
        return self.network.nodes

    @staticmethod
    def member(name: str) -> Member:
        """How the node is known."""
        return Member(name, f"{name}:2377")

    async def start(self, name: str, members: list[str] | None = None, disk: Disk | None = None) -> RaftNode:
        """Start or restart a node, on the machine's disk or one of the test's."""
        ledger = self.ledgers[name] = Ledger()
        config = RaftConfig(str(self.folder / name), name, f"{name}:2377", **self.settings)  # type: ignore[arg-type]
        node = RaftNode(
            config,
            ledger,
            Sender(self.network, name),
            initial_members=None if members is None else [self.member(m) for m in members],
            on_failure=lambda exc: self.failures.__setitem__(name, exc),
            disk=disk,
        )
        node.on_leadership(lambda leads, term: self.leaderships.append((name, leads, term)))
        await node.start()
        self.nodes[name] = node
        return node

    async def stop(self, name: str) -> None:
        """Stop a node."""
        node = self.nodes.pop(name)
        await node.stop()

    async def close(self) -> None:
        """Stop all."""
        for name in list(self.nodes):
            await self.stop(name)

    async def form(self, *names: str) -> RaftNode:
        """A cluster of these, made as people make it: one begins, the others join. Returns the leader."""
        first = await self.start(names[0], [names[0]])
        await eventually(lambda: first.is_leader, what="the first node leads")
        for name in names[1:]:
            await self.join(name)
        return first

    async def join(self, name: str, timeout_s: float = 10.0) -> RaftNode:
        """Start a node with the leader's list and have it counted in."""
        leader = self.leader()
        node = await self.start(name, [m.node_id for m in leader.members])
        await leader.add_member(self.member(name), timeout_s)
        return node

    def leader(self) -> RaftNode:
        """The one that says it leads in the newest term."""
        leading = [n for n in self.nodes.values() if n.is_leader]
        assert leading, "no leader"
        return max(leading, key=lambda n: n.term)

    def name_of(self, node: RaftNode) -> str:
        """Its name."""
        return next(name for name, n in self.nodes.items() if n is node)

    async def new_leader(self, *, without: str = "", timeout_s: float = 15.0) -> RaftNode:
        """Wait for a leader that is not ``without``."""

        def found() -> bool:
            return any(n.is_leader for name, n in self.nodes.items() if name != without)

        await eventually(found, timeout_s, "a new leader")
        return max((n for name, n in self.nodes.items() if name != without and n.is_leader), key=lambda n: n.term)

    async def write(self, command: bytes, timeout_s: float = 15.0) -> bytes:
        """Propose wherever the leader is, until it is acknowledged."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return await self.leader().propose(command, timeout_s=2.0)
            except (AssertionError, NotLeader, OutcomeUnknown, Unavailable):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.01)

    async def settled(self, names: list[str] | None = None) -> None:
        """Wait until all have applied the same commands as the leader."""
        names = names or list(self.nodes)

        def same() -> bool:
            first = self.ledgers[names[0]].entries
            top = max(self.nodes[n].commit_index for n in names)
            return all(self.ledgers[n].entries == first and self.nodes[n].applied_index == top for n in names)

        await eventually(same, what="all have applied the same")
