"""One node's part of a subscription, as the leader sees it: what was ordered, what came, and how far.

A node's stream may break and be opened again; the positions kept here say where it has to go on.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from pyswarm.common.errors import InvalidArgument, PermissionDenied
from pyswarm.common.logframes import TIME_CHARS, Cursor
from pyswarm.common.logmerge import Chunk
from pyswarm.common.text import one_line
from pyswarm.common.types import Task
from pyswarm.proto.errors import SessionInvalid
from pyswarm.proto.logs import cursor_of, position_of
from pyswarm.proto.v1 import logs_pb2 as pb

#: What an agent sends at once is a fraction of it.
MAX_MESSAGE_BYTES = 2 * 1024 * 1024
#: A node's next message is taken when less than this waits for the reader.
MAX_WAITING_BYTES = 64 * 1024
MAX_FAILURE_CHARS = 300


class State(Enum):
    """``WAITING``: the node was or will be told, and has not opened its stream. ``BROKEN``: its stream ended too
    early, and it has to be told again. ``ABSENT``: nobody waits for it any more. ``DONE``: it has given all."""

    WAITING = auto()
    OPEN = auto()
    BROKEN = auto()
    ABSENT = auto()
    DONE = auto()


class CaughtUp:
    """Stands behind the last line that was there at the beginning."""


@dataclass
class OrderedTask:
    """A task whose log the node is asked for."""

    task: Task
    whole: bool
    cursor: Cursor = field(default_factory=Cursor)
    #: No container of it will be started any more.
    ended: bool = False
    #: The store has forgotten it.
    gone: bool = False
    #: The node has given all of it.
    finished: bool = False

    def message(self) -> pb.LogTask:
        """For the order."""
        return pb.LogTask(
            task_id=self.task.id,
            container=self.task.container_name,
            tty=self.task.spec.container_spec.tty,
            ended=self.ended,
            whole=self.whole,
            position=position_of(self.task.id, self.cursor) if self.cursor else None,
        )


class NodeFeed:
    """``changed`` is called when there may be something for the reader, ``notify``, with the node's id, when there
    is an order for it."""

    def __init__(
        self, node_id: str, options: pb.LogOptions, *, changed: Callable[[], None], notify: Callable[[str], None]
    ) -> None:
        self.node_id = node_id
        self.state = State.WAITING
        self.tasks: dict[str, OrderedTask] = {}
        self.failures: dict[str, str] = {}
        #: Since when the node has no stream and has said nothing; set by whoever keeps the time.
        self.waiting_since_s: float | None = None
        self._options = options
        self._changed = changed
        self._notify = notify
        self._waiting: deque[Chunk | CaughtUp] = deque()
        self._waiting_bytes = 0
        self._room = asyncio.Event()
        self._stream = 0
        self._begun = False
        self._untold: set[str] = set()

    # --- orders ---

    def order(self, ordered: OrderedTask) -> None:
        """Ask for one more task."""
        self.tasks[ordered.task.id] = ordered
        self._tell(ordered.task.id)

    def end(self, task_id: str, *, gone: bool) -> None:
        """No container of the task will be started any more, or the store has forgotten it altogether."""
        ordered = self.tasks.get(task_id)
        if ordered is None:
            return
        ordered.gone = ordered.gone or gone
        if not ordered.ended:
            ordered.ended = True
            self._tell(task_id)

    def _tell(self, task_id: str) -> None:
        self._untold.add(task_id)
        self._notify(self.node_id)

    def restart(self) -> None:
        """Have the node told everything anew; what an earlier stream of it still says is not taken."""
        if self.state is State.DONE:
            return
        if self.state is State.ABSENT:
            self.waiting_since_s = None
        self._stop(State.WAITING)
        self._begun = False
        self._notify(self.node_id)

    def next_order(self, subscription_id: str) -> pb.LogOrder | None:
        """What the node has not been told yet."""
        if self.state in (State.ABSENT, State.DONE, State.BROKEN):
            return None
        order = pb.LogOrder(subscription_id=subscription_id)
        if not self._begun:
            order.options.CopyFrom(self._options)
            told = [ordered for ordered in self.tasks.values() if not ordered.finished]
        elif self._untold:
            told = [self.tasks[i] for i in self._untold if i in self.tasks and not self.tasks[i].finished]
        else:
            return None
        self._begun = True
        self._untold.clear()
        order.tasks.extend(ordered.message() for ordered in told)
        return order

    # --- what the node says ---

    def open(self) -> int:
        """The node begins its stream; returns the number by which it goes on."""
        if self.state is not State.WAITING:
            raise SessionInvalid("nobody waits for these logs, or no longer")
        self._stream += 1
        self.state = State.OPEN
        self._changed()
        return self._stream

    async def put(self, stream: int, message: pb.PublishLogsMessage) -> None:
        """Take a message, when there is room. Raises PermissionDenied for what was not asked."""
        while self._waiting_bytes >= MAX_WAITING_BYTES and stream == self._stream:
            self._room.clear()
            await self._room.wait()
        if stream != self._stream:
            raise SessionInvalid("the stream was replaced, or is not wanted any more")
        self._check(message)
        self.waiting_since_s = None
        for chunk in message.chunks:
            self._waiting.append(Chunk(chunk.task_id, chunk.frames))
            self._waiting_bytes += len(chunk.frames)
        for position in message.positions:
            self.tasks[position.task_id].cursor = cursor_of(position)
        for end in message.ends:
            self.tasks[end.task_id].finished = True
            if end.failure:
                self.failures[end.task_id] = one_line(end.failure, MAX_FAILURE_CHARS)
        if message.caught_up:
            self._waiting.append(CaughtUp())
        self._changed()

    def _check(self, message: pb.PublishLogsMessage) -> None:
        for part in (message.chunks, message.positions, message.ends):
            named: Sequence[pb.LogChunk | pb.LogPosition | pb.LogEnd] = part
            for item in named:
                if item.task_id not in self.tasks:
                    raise PermissionDenied("the log of another task than those asked for")
        if sum(len(chunk.frames) for chunk in message.chunks) > MAX_MESSAGE_BYTES:
            raise InvalidArgument(f"at most {MAX_MESSAGE_BYTES} bytes of logs fit into one message")
        for position in message.positions:
            if max(len(position.stdout_time), len(position.stderr_time)) > TIME_CHARS:
                raise InvalidArgument("the position in a log has no valid time")

    def finish(self, stream: int) -> None:
        """The node has ended its stream by itself, which is right only when nothing is followed."""
        if stream != self._stream:
            return
        if self._options.follow:
            self.broke(stream)
            return
        for ordered in self.tasks.values():
            ordered.finished = True
        self._stop(State.DONE)

    def broke(self, stream: int) -> None:
        """The stream ended otherwise."""
        if stream == self._stream:
            self._stop(State.BROKEN)

    def give_up(self) -> None:
        """The node is not there: what came goes out, nothing else is waited for."""
        if self.state is not State.DONE:
            self._stop(State.ABSENT)

    def close(self) -> None:
        """Nobody reads any more."""
        self._waiting.clear()
        self._stop(State.DONE)

    def _stop(self, state: State) -> None:
        self.state = state
        self._stream += 1
        self._room.set()
        self._changed()

    # --- what the reader takes ---

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing waits, and nothing is to come either."""
        return not self._waiting and self.state in (State.ABSENT, State.DONE)

    @property
    def has_given_all(self) -> bool:
        """Whether nothing waits, and every task's log has ended."""
        return not self._waiting and all(ordered.finished for ordered in self.tasks.values())

    @property
    def has_news(self) -> bool:
        """Whether something waits."""
        return bool(self._waiting)

    def take(self) -> Chunk | CaughtUp | None:
        """The next of what came."""
        if not self._waiting:
            return None
        item = self._waiting.popleft()
        if isinstance(item, Chunk):
            self._waiting_bytes -= len(item.frames)
        if self._waiting_bytes < MAX_WAITING_BYTES:
            self._room.set()
        return item

    def lineless(self) -> list[pb.LogPosition]:
        """Positions of the tasks that have given no line: the reader knows those of the others."""
        return [
            position_of(task_id, ordered.cursor)
            for task_id, ordered in self.tasks.items()
            if ordered.cursor and not (ordered.cursor.stdout.lines or ordered.cursor.stderr.lines)
        ]

    def forget_gone(self) -> list[str]:
        """Drop the tasks of which nothing more can come, once everything that came was taken."""
        if self._waiting:
            return []
        gone = [task_id for task_id, ordered in self.tasks.items() if ordered.gone and ordered.finished]
        for task_id in gone:
            del self.tasks[task_id]
        return gone
