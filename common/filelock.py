"""One process per folder: a lock that is waited for, because the process before may just be ending."""

import asyncio
import fcntl
import os
from pathlib import Path

from pyswarm.common.errors import FailedPrecondition, Unavailable

POLL_S = 0.05


async def take_lock(path: Path, what: str, wait_s: float = 10.0) -> int:
    """Hold ``path`` until the returned file descriptor is closed; raises Unavailable after ``wait_s`` seconds,
    FailedPrecondition when the folder cannot be written."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise FailedPrecondition(f"cannot use the folder {path.parent}: {exc.strerror}") from exc
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError as exc:
            if loop.time() > deadline:
                os.close(fd)
                raise Unavailable(f"another {what} is using {path.parent}") from exc
            await asyncio.sleep(POLL_S)
