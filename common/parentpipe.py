"""What a child process and the daemon that starts it agree on: how each learns that the other cannot go on."""

import asyncio
import os
from collections.abc import Callable

#: The exit code of a child for which a restart cannot help; its log says why.
EXIT_FATAL = 78


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
