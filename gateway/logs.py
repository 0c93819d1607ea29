"""Logs of the cluster in the engine's own form, however often the stream to the managers has to be opened anew.

Each line that went out is remembered by its task, its time and its number among those of that time; whoever leads
after a break is told how far that is, so that no line is lost or repeated.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from pyswarm.common.clock import Clock, SystemClock
from pyswarm.common.errors import InvalidArgument, NotFound, PyswarmError
from pyswarm.common.log import get_logger
from pyswarm.common.logframes import STDERR, STDOUT, SYSTEM, Cursor, frame, lines
from pyswarm.gateway.ports import Control
from pyswarm.proto.logs import cursor_of, position_of
from pyswarm.proto.v1 import logs_pb2 as pb

log = get_logger("gateway")

#: For a first answer; nothing has been promised to the client yet.
FIRST_PATIENCE_S = 5.0
#: For managers that are elected, restarted or cut off while a client follows.
PATIENCE_S = 120.0
RETRY_S = 0.2
_NODE, _SERVICE, _TASK = "com.docker.swarm.node.id", "com.docker.swarm.service.id", "com.docker.swarm.task.id"


class LogStream:
    """What one client asked for. ``control`` gives a client of the local manager."""

    def __init__(
        self,
        request: pb.ReadLogsRequest,
        control: Callable[[], Awaitable[Control]],
        *,
        timestamps: bool,
        tty: bool,
        clock: Clock | None = None,
    ) -> None:
        self._request = request
        self._control = control
        self._timestamps = timestamps
        self._tty = tty
        self._clock = clock or SystemClock()
        self._cursors: dict[str, Cursor] = {}
        options = request.options
        self._details = options.details
        self._wanted = {s for s, asked in ((STDOUT, options.stdout), (STDERR, options.stderr)) if asked}

    async def data(self) -> AsyncGenerator[bytes, None]:
        """What to write to the client, at first nothing at all, once everything is in order. Raises before that
        what the managers answered; afterwards an error is the last thing written."""
        try:
            async with aclosing(self._messages()) as messages:
                async for message in messages:
                    yield b"".join([self._shown(chunk) for chunk in message.chunks])
                    if message.notice:
                        yield self._said(message.notice)
        except PyswarmError as exc:
            if not self._request.began_ns:
                raise
            yield self._said(str(exc))

    async def _messages(self) -> AsyncGenerator[pb.ReadLogsMessage, None]:
        """The managers' messages as if nothing ever broke."""
        heard_s, broken = self._clock.monotonic(), False
        while True:
            try:
                control = await self._control()
                async with aclosing(control.read_logs(self._continued())) as messages:
                    async for message in messages:
                        self._take(message)
                        yield message
                        heard_s, broken = self._clock.monotonic(), False
                return
            except NotFound:
                if not self._request.began_ns:
                    raise
                return  # removed while the stream was broken: nothing more comes
            except PyswarmError as exc:
                patience_s = PATIENCE_S if self._request.began_ns else FIRST_PATIENCE_S
                if not exc.retryable or self._clock.monotonic() - heard_s > patience_s:
                    raise
                if not broken:
                    log.info("logs are asked for again", reason=str(exc))
                broken = True
            await self._clock.sleep(RETRY_S)

    def _continued(self) -> pb.ReadLogsRequest:
        request = pb.ReadLogsRequest()
        request.CopyFrom(self._request)
        request.positions.extend(position_of(task_id, cursor) for task_id, cursor in self._cursors.items())
        return request

    def _take(self, message: pb.ReadLogsMessage) -> None:
        if message.began_ns:
            self._request.began_ns = message.began_ns
        for position in message.positions:
            self._cursors[position.task_id] = cursor_of(position)
        for task_id in message.gone:
            self._cursors.pop(task_id, None)

    # --- in the engine's form ---

    def _said(self, text: str) -> bytes:
        """As the engine says what is wrong within a stream."""
        said = f"Error grabbing logs: {text}\n".encode()
        return said if self._tty else frame(SYSTEM, said)

    def _shown(self, chunk: pb.LogChunk) -> bytes:
        cursor = self._cursors.setdefault(chunk.task_id, Cursor())
        context = {_NODE: chunk.node_id, _SERVICE: chunk.service_id, _TASK: chunk.task_id}
        prefix = _details("", context) + b" "
        shown: list[bytes] = []
        try:
            for line in lines(chunk.frames):
                cursor.read(line.stream, line.time)
                if line.stream not in self._wanted:
                    continue
                text = line.text
                if self._details:
                    attributes, _, text = text.partition(b" ")
                    if attributes:
                        text = _details(attributes.decode(errors="replace"), context) + b" " + text
                    else:
                        text = prefix + text
                if self._timestamps:
                    text = line.time + b" " + text
                shown.append(text if self._tty else frame(line.stream, text))
        except InvalidArgument as exc:
            log.warning("a log cannot be read", task=chunk.task_id, reason=str(exc))
        return b"".join(shown)


def _details(attributes: str, context: dict[str, str]) -> bytes:
    """``key=value`` in the order of the keys; where a line comes from is not for the container to say."""
    pairs = dict(pair.partition("=")[::2] for pair in attributes.split(",") if pair) | context
    return ",".join(f"{key}={pairs[key]}" for key in sorted(pairs)).encode()
