"""The child's side of the daemon's pipe: the end of it means that the daemon is gone."""

import asyncio
import os
from collections.abc import Callable


def watch_parent(fd: int, gone: Callable[[], None]) -> None:
    """Call ``gone`` on the running loop once the daemon has ended, however it ended."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)

    def readable() -> None:
        try:
            data = os.read(fd, 1)
        except BlockingIOError:
            return
        if not data:
            loop.remove_reader(fd)
            gone()

    loop.add_reader(fd, readable)
