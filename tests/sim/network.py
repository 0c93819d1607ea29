"""A network that loses, delays, repeats and reorders, and can be cut in each direction."""

import random
import zlib
from collections.abc import Callable
from typing import Protocol

from sim.loop import NOBODY, SimLoop


class Quality:
    """What happens to messages; the odds are per message."""

    def __init__(
        self, delay_s: float = 0.001, loss: float = 0.0, repeats: float = 0.0, overtakes: float = 0.0
    ) -> None:
        self.delay_s = delay_s
        self.loss = loss
        self.repeats = repeats
        self.overtakes = overtakes


class Wire(Protocol):
    """Where messages come out."""

    def __call__(self, sender: str, to: str, payload: bytes) -> None: ...


class Network:
    """Carries messages between nodes by name."""

    def __init__(
        self,
        loop: SimLoop,
        rng: random.Random,
        arrive: Wire,
        observe: Callable[[str, str, bytes], None],
        connected: Callable[[str, str], None],
    ) -> None:
        self._loop = loop
        self._rng = rng
        self._arrive = arrive
        self._observe = observe
        self._connected = connected
        self._stream: dict[tuple[str, str], int] = {}
        self._last_at: dict[tuple[str, str], float] = {}
        self.quality = Quality()
        self.cut: set[tuple[str, str]] = set()
        self.sent = 0
        self.arrived = 0
        #: Over everything ever sent: two runs with the same digest did the same.
        self.digest = 0

    def send(self, sender: str, to: str, payload: bytes) -> bool:
        """Take a message; False when it certainly does not arrive."""
        self._observe(sender, to, payload)
        self.sent += 1
        self.digest = zlib.crc32(
            payload, zlib.crc32(f"{self._loop.time():.6f} {sender} {to}".encode(), self.digest)
        )
        rng, quality = self._rng, self.quality
        if (sender, to) in self.cut:
            return rng.random() < 0.5
        if rng.random() < quality.loss:
            return True
        self._schedule(sender, to, payload, rng.random() < quality.overtakes)
        while rng.random() < quality.repeats:
            self._schedule(sender, to, payload, True)
        return True

    def _schedule(self, sender: str, to: str, payload: bytes, overtakes: bool) -> None:
        link = (sender, to)
        at = self._loop.time() + self._rng.expovariate(1 / self.quality.delay_s)
        if overtakes:
            # Now and then very much later: a message of another time.
            at += self._rng.expovariate(1 / self._rng.choice((0.005, 0.1, 1.0)))
            stream = None
        else:
            at = self._last_at[link] = max(at, self._last_at.get(link, 0.0))
            stream = self._stream.get(link, 0)
        self._loop.call_at(at, self._deliver, link, stream, payload, context=NOBODY)

    def _deliver(self, link: tuple[str, str], stream: int | None, payload: bytes) -> None:
        if link in self.cut or (stream is not None and stream != self._stream.get(link, 0)):
            return
        self.arrived += 1
        self._arrive(*link, payload)

    def reconnect(self, sender: str, to: str) -> None:
        """The stream breaks, with everything on it, and a new one is opened."""
        self._stream[sender, to] = self._stream.get((sender, to), 0) + 1
        if (sender, to) not in self.cut:
            self._connected(sender, to)

    def separate(self, some: set[str], others: set[str], *, one_way: bool = False) -> None:
        """Cut from ``some`` to ``others``, and the other way round."""
        self.cut |= {(a, b) for a in some for b in others}
        if not one_way:
            self.cut |= {(b, a) for a in some for b in others}

    def heal(self, names: list[str]) -> None:
        """Everybody reaches everybody again, on new streams."""
        self.cut.clear()
        for a in names:
            for b in names:
                if a != b:
                    self.reconnect(a, b)


class SimSender:
    """One node's end."""

    def __init__(self, network: Network, name: str) -> None:
        self._network = network
        self._name = name

    def send(self, node_id: str, addr: str, payload: bytes) -> bool:
        """Send to a node whose address is known."""
        assert addr, f"{self._name} sends to {node_id} without an address"
        return self._network.send(self._name, node_id, payload)

    def forget(self, node_id: str) -> None:
        """The stream is closed; a later message opens a new one."""
        self._network.reconnect(self._name, node_id)
