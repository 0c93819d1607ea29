"""Answers one question after the other: the cluster's names by who asks, everything else by the host's servers."""

import asyncio
import itertools
from collections.abc import Callable, Iterable

from pyswarm.overlay.dns import messages
from pyswarm.overlay.dns.answers import Answer, Names, may_be_ours, rotated
from pyswarm.overlay.dns.messages import Question
from pyswarm.overlay.dns.metrics import DnsMetrics
from pyswarm.overlay.dns.upstream import Upstream
from pyswarm.overlay.registry.model import OverlayState

#: A container's first question may come before the agent has heard its address from the engine, and before its
#: virtual IPs lead anywhere.
HOLD_S = 1.0

Client = tuple[tuple[str, ...], frozenset[str]]


class Resolver:
    """Knows the names, who asks from where, and whom else to ask."""

    def __init__(self, upstream: Upstream, metrics: DnsMetrics, *, own_addr: str, hold_s: float = HOLD_S) -> None:
        self._upstream = upstream
        self._metrics = metrics
        self._own_addr = own_addr
        self._hold_s = hold_s
        self._state: OverlayState | None = None
        self._names: Names | None = None
        self._clients: dict[str, Client] = {}
        self._networks_of: dict[str, tuple[str, frozenset[str]]] = {}
        self._loading: set[str] = set()
        self._news = asyncio.Event()
        self._turns = itertools.count()

    def update(self, state: OverlayState) -> None:
        """Take the newest state; it is put in order when somebody asks."""
        self._state, self._names = state, None
        self._tell()

    def set_client(self, client_id: str, addrs: Iterable[str], network_ids: Iterable[str]) -> None:
        """A container of this host asks from these addresses, and is on these networks. It is told of virtual IPs
        once ``tables_loaded`` says that they lead somewhere."""
        client = (tuple(addrs), frozenset(network_ids))
        if self._clients.get(client_id) == client:
            return
        loaded = client_id in self._clients and client_id not in self._loading
        self.forget_client(client_id)
        self._clients[client_id] = client
        if not loaded:
            self._loading.add(client_id)
        for addr in client[0]:
            self._networks_of[addr] = (client_id, client[1])
        self._tell()

    def tables_loaded(self, client_id: str) -> None:
        """The container's virtual IPs lead to tasks."""
        if client_id in self._loading:
            self._loading.discard(client_id)
            self._tell()

    def forget_client(self, client_id: str) -> None:
        """It asks no more. An address that another one has by now stays that one's."""
        self._loading.discard(client_id)
        addrs, _ = self._clients.pop(client_id, ((), frozenset()))
        for addr in addrs:
            if self._networks_of.get(addr, ("",))[0] == client_id:
                del self._networks_of[addr]

    def answer_now(self, question: Question, source: str) -> bytes | None:
        """The answer, if the cluster has it at hand."""
        answer = self._answer(question, source)
        if answer is None or (answer.virtual and self._is_loading(source)):
            return None
        return self._write(question, answer)

    def _answer(self, question: Question, source: str) -> Answer | None:
        names, networks = self._current(), self._scope(source)
        if names is None or networks is None:
            return None
        return names.answer(question.labels, question.qtype, networks)

    def _write(self, question: Question, answer: Answer) -> bytes:
        turn = next(self._turns) if answer.addrs else 0
        return messages.write(question, answer, rotated(answer.addrs, turn))

    async def answer(self, question: Question, source: str, *, tcp: bool) -> bytes:
        """The answer, for which it may be necessary to wait or to ask elsewhere."""
        if self._unsure(question, source):
            await self._wait(lambda: not self._unsure(question, source))
        answer = self._answer(question, source)
        if answer is not None:
            return self._write(question, answer)
        if self._state is None and may_be_ours(question.labels):
            return messages.failure(question)  # others would say that there is no such name
        self._metrics.forwarded.inc()
        packet: bytes | None = await self._upstream.ask(question, tcp=tcp)
        if packet is None:
            self._metrics.unanswered.inc()
            return messages.failure(question)
        return packet

    def _unsure(self, question: Question, source: str) -> bool:
        """Whether it cannot be told yet what this asker may see."""
        names = self._current()
        if names is None:
            return may_be_ours(question.labels)
        if self._is_loading(source):
            answer = self._answer(question, source)
            return answer is not None and answer.virtual
        return self._scope(source) is None and names.concerns(question.labels)

    async def _wait(self, sure: Callable[[], bool]) -> None:
        self._metrics.held.inc()
        try:
            async with asyncio.timeout(self._hold_s):
                while not sure():
                    await self._news.wait()
        except TimeoutError:
            return

    def _current(self) -> Names | None:
        if self._names is None and self._state is not None:
            self._names = Names(self._state)
        return self._names

    def _is_loading(self, source: str) -> bool:
        known = self._networks_of.get(source)
        return known is not None and known[0] in self._loading

    def _scope(self, source: str) -> frozenset[str] | None:
        """The asker's networks; None when it is not known. The host itself is on none."""
        known = self._networks_of.get(source)
        if known is not None:
            return known[1]
        return frozenset() if source == self._own_addr else None

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
