"""``/services/{ref}/logs`` and ``/tasks/{ref}/logs``."""

import asyncio
from contextlib import aclosing

from aiohttp import web

from pyswarm.common.errors import InvalidArgument
from pyswarm.gateway.backend import BACKEND, Route, flag
from pyswarm.gateway.logs import LogStream
from pyswarm.gateway.moments import moment_of
from pyswarm.proto.v1 import logs_pb2 as pb

_RAW_STREAM = "application/vnd.docker.raw-stream"
_MAX_TAIL_DIGITS = 18


async def of_service(request: web.Request) -> web.StreamResponse:
    """Of all tasks of a service."""
    options = _options(request)
    control = await request.app[BACKEND].control()
    service = await control.get_service(request.match_info["ref"])
    wanted = pb.ReadLogsRequest(service_id=service.id, options=options)
    return await _stream(request, wanted, tty=service.spec.task_template.container_spec.tty)


async def of_task(request: web.Request) -> web.StreamResponse:
    """Of one task."""
    options = _options(request)
    control = await request.app[BACKEND].control()
    task = await control.get_task(request.match_info["ref"])
    wanted = pb.ReadLogsRequest(task_id=task.id, options=options)
    return await _stream(request, wanted, tty=task.spec.container_spec.tty)


def _options(request: web.Request) -> pb.LogOptions:
    options = pb.LogOptions(
        follow=flag(request, "follow"),
        stdout=flag(request, "stdout"),
        stderr=flag(request, "stderr"),
        since=moment_of(request, "since"),
        until=moment_of(request, "until"),
        tail=_tail(request.query.get("tail", "")),
        details=flag(request, "details"),
    )
    if not (options.stdout or options.stderr):
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    return options


def _tail(text: str) -> int:
    if text in ("", "all"):
        return -1
    if text.startswith("-") and text[1:].isdecimal():
        raise InvalidArgument("negative tail values not supported")
    if not (text.isascii() and text.isdecimal()) or len(text) > _MAX_TAIL_DIGITS:
        raise InvalidArgument('tail value must be a positive integer or "all"')
    return int(text)


async def _stream(request: web.Request, wanted: pb.ReadLogsRequest, *, tty: bool) -> web.StreamResponse:
    backend, options = request.app[BACKEND], wanted.options
    left_s = float(options.until) - backend.clock.now() if options.until else None
    if left_s is not None and left_s <= 0:
        options.follow = False
    logs = LogStream(wanted, backend.control, timestamps=flag(request, "timestamps"), tty=tty, clock=backend.clock)
    response = web.StreamResponse(headers={"Content-Type": _RAW_STREAM})
    response.enable_chunked_encoding()
    async with aclosing(logs.data()) as data:
        # Only now it is sure that there is something to stream.
        await anext(data, b"")
        await response.prepare(request)
        try:
            async with asyncio.timeout(left_s if options.follow else None):
                async for part in data:
                    if part:
                        await response.write(part)
        except TimeoutError:
            pass
    await response.write_eof()
    return response


ROUTES = (
    Route("GET", "/services/{ref}/logs", of_service),
    Route("GET", "/tasks/{ref}/logs", of_task),
)
