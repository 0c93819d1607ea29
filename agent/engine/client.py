"""The connection to an engine: versions, time limits and errors. Nothing else here or above knows aiodocker's."""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiodocker
import aiohttp
from aiodocker.exceptions import DockerError

from pyswarm.agent.engine.config import MAC_API
from pyswarm.agent.engine.errors import EngineError, EngineUnavailable

CALL_LIMIT_S = 30.0
CONNECT_LIMIT_S = 5.0
#: Every engine in use speaks it; only what came later and is needed makes the agent speak a newer one.
API = (1, 41)
#: aiodocker's own status for "no connection".
_NOT_CONNECTED = 900

Observe = Callable[[str, float], None]


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


def choose_api(newest: str, oldest: str) -> tuple[int, int]:
    """The version to speak: 1.44 where there is one, since it takes MAC addresses, else 1.41 or the nearest."""
    high, low = _version(newest), _version(oldest)
    wanted = MAC_API if high >= MAC_API else API
    return max(low, min(high, wanted))


class EngineClient:
    """An engine at a ``unix://`` or ``tcp://`` URL. ``observe`` is told each call's name and seconds."""

    def __init__(self, url: str, *, call_limit_s: float = CALL_LIMIT_S) -> None:
        self.url = url
        self._call_limit_s = call_limit_s
        self._docker: aiodocker.Docker | None = None
        self.api = API
        self.observe: Observe = lambda _name, _seconds: None

    @property
    def base_url(self) -> str:
        """Where paths of the API begin."""
        host = "http://engine" if self.url.startswith("unix://") else self.url.replace("tcp://", "http://", 1)
        return "{}/v{}.{}".format(host, *self.api)

    def connector(self) -> aiohttp.BaseConnector:
        """Ways to the engine beside those of ``docker``, as many as are wanted, each for one request."""
        if self.url.startswith("unix://"):
            return aiohttp.UnixConnector(self.url.removeprefix("unix://"), limit=0, force_close=True)
        return aiohttp.TCPConnector(limit=0, force_close=True)

    @property
    def docker(self) -> aiodocker.Docker:
        """The client; made at first use, since it belongs to the running loop."""
        if self._docker is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_LIMIT_S)
            self._docker = aiodocker.Docker(self.url, timeout=timeout, api_version="v{}.{}".format(*self.api))
        return self._docker

    async def negotiate(self, *, limit_s: float | None = None) -> Mapping[str, Any]:
        """Ask the engine which versions it speaks, and speak one of them; returns its ``GET /version``."""
        async with self.call("version", limit_s=limit_s):
            self.docker.api_version = "auto"
            answer: Mapping[str, Any] = await self.docker.version()
            newest = str(answer.get("ApiVersion", "1.41"))
            self.api = choose_api(newest, str(answer.get("MinAPIVersion", newest)))
            self.docker.api_version = "v{}.{}".format(*self.api)
            return answer

    @asynccontextmanager
    async def call(self, name: str, *, limit_s: float | None = None) -> AsyncIterator[None]:
        """Around calls to the engine: times them, ends them after ``limit_s``, and turns errors into ours."""
        limit = self._call_limit_s if limit_s is None else limit_s
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with asyncio.timeout(limit):
                yield
        except TimeoutError as exc:
            raise EngineUnavailable(f"the engine did not answer within {limit:g} s ({name})") from exc
        except DockerError as exc:
            raise translated(exc, self.url) from exc
        except (aiohttp.ClientError, OSError, EOFError, ValueError) as exc:
            raise EngineUnavailable(f"the connection to the engine at {self.url} broke: {exc}") from exc
        finally:
            self.observe(name, loop.time() - started)

    async def close(self) -> None:
        """Close every connection."""
        if self._docker is not None:
            docker, self._docker = self._docker, None
            with suppress(asyncio.CancelledError):
                await docker.close()


class EngineRefusal(EngineError):
    """The engine answered with an error; ``status`` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def translated(exc: DockerError, url: str) -> EngineError:
    """Ours for aiodocker's."""
    if exc.status == _NOT_CONNECTED:
        return cannot_connect(url)
    if exc.status == 503 or "shutting down" in exc.message.lower():
        return EngineUnavailable(f"the engine cannot serve now: {exc.message}")
    return EngineRefusal(error_text(exc.message), exc.status)


def cannot_connect(url: str) -> EngineUnavailable:
    """The error for an engine that nobody answers for."""
    path = url.removeprefix("unix://")
    if url.startswith("unix://") and not os.path.exists(path):
        return EngineUnavailable(
            f"cannot connect to the Docker Engine at {url}: there is no such socket; is the engine running?"
        )
    return EngineUnavailable(f"cannot connect to the Docker Engine at {url}; is the engine running?")


def error_text(message: str) -> str:
    """The engine's words on one line. aiodocker unpacks only bodies whose content type names no charset."""
    if message.startswith("{"):
        with suppress(ValueError, AttributeError):
            message = str(json.loads(message).get("message", message))
    return re.sub(r"\s+", " ", message).strip()
