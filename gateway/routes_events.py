"""``/events``: on a manager the cluster's and the engine's, elsewhere the engine's."""

import asyncio
from contextlib import aclosing

from aiohttp import web

from pyswarm.common.errors import InvalidArgument
from pyswarm.gateway import filters
from pyswarm.gateway.backend import BACKEND, Route
from pyswarm.gateway.eventfilter import KNOWN, EventFilter
from pyswarm.gateway.events import EventStream
from pyswarm.gateway.moments import moment_of, nanoseconds


async def events(request: web.Request) -> web.StreamResponse:
    """What happened since a time, and then what happens, until a time."""
    backend = request.app[BACKEND]
    info = await backend.node.info()
    if not info.is_manager:
        return await backend.forward(request)
    wanted = EventFilter(filters.parse(request.query.get("filters"), KNOWN))
    if not wanted.wants_cluster:
        return await backend.forward(request)
    since, until = moment_of(request, "since"), moment_of(request, "until")
    since_ns, until_ns = nanoseconds(since), nanoseconds(until)
    if until_ns and until_ns < since_ns:
        raise InvalidArgument(f"`since` time ({since}) cannot be after `until` time ({until})")
    now_ns = round(backend.clock.now() * 10**9)
    stream = EventStream(
        wanted, control=backend.control, engine=backend.engine, engine_url=info.engine, clock=backend.clock
    )
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    wants_past = bool(since_ns or until_ns)
    try:
        await stream.open(max(since_ns, 1) if wants_past else 0)
        # At once: a client that watches wants to know that it does, also while nothing happens.
        await response.prepare(request)
        if wants_past and (past := await stream.past(since_ns, until_ns, now_ns)):
            await response.write(b"".join(past))
        if not until_ns or until_ns > now_ns:
            left_s = until_ns / 10**9 - backend.clock.now() if until_ns else None
            async with asyncio.timeout(left_s), aclosing(stream.live(now_ns)) as live:
                async for lines in live:
                    await response.write(lines)
    except TimeoutError:
        pass  # the time given with ``until`` is there
    finally:
        await stream.close()
    await response.write_eof()
    return response


ROUTES = (Route("GET", "/events", events),)
