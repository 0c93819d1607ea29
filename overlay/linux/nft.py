"""The door to nftables: libnftables, which takes the language of the ``nft`` command, within this process.

Starting ``nft`` costs 20 ms each time, the library 2 ms. A batch of commands is one transaction: the kernel takes
all of it or nothing. What a thread does here happens in the network namespace that the thread is in.
"""

import ctypes
import json
import os
from types import TracebackType
from typing import Any, Self

from pyswarm.overlay.errors import OverlayError

_LIBRARY = "libnftables.so.1"
_OUTPUT_JSON, _OUTPUT_NUMERIC_ALL = 1 << 4, 0xF << 7  # as in nftables/libnftables.h
_MAX_SHOWN = 400
#: Of 1024, with room for what other threads open at the same moment.
_HIGHEST_DESCRIPTOR = 960


class Nft:
    """A context of libnftables, for one thread. Raises OverlayError where the library is missing."""

    def __init__(self) -> None:
        try:
            library = ctypes.CDLL(_LIBRARY)
        except OSError as exc:
            raise OverlayError(f"{_LIBRARY} cannot be loaded; install nftables") from exc
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        for name in ("buffer_output", "buffer_error", "free"):
            getattr(library, f"nft_ctx_{name}").argtypes = [ctypes.c_void_p]
        for name in ("get_output_buffer", "get_error_buffer"):
            function = getattr(library, f"nft_ctx_{name}")
            function.restype, function.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
        library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        _require_low_descriptor()
        self._library = library
        self._context = library.nft_ctx_new(0)
        if not self._context:
            raise OverlayError("libnftables gives no context")
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the context."""
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None

    def run(self, commands: str) -> str:
        """Carry out a batch of commands as one transaction; what they print. Raises OverlayError, and then
        nothing was changed."""
        self._library.nft_ctx_output_set_flags(self._context, _OUTPUT_NUMERIC_ALL)
        return self._run(commands)

    def listing(self, command: str) -> list[dict[str, Any]]:
        """What a ``list`` command finds, as nftables' JSON objects. Raises OverlayError, also when there is no
        such thing."""
        self._library.nft_ctx_output_set_flags(self._context, _OUTPUT_JSON | _OUTPUT_NUMERIC_ALL)
        output = self._run(command)
        found: list[dict[str, Any]] = json.loads(output)["nftables"] if output else []
        return found

    def _run(self, commands: str) -> str:
        failed = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        error = self._library.nft_ctx_get_error_buffer(self._context) or b""
        output = self._library.nft_ctx_get_output_buffer(self._context) or b""
        if failed:
            reason = error.decode(errors="replace").strip() or "no reason was given"
            raise OverlayError(f"nftables refused: {reason[:_MAX_SHOWN]}")
        return str(output.decode(errors="replace"))


def _require_low_descriptor() -> None:
    """The library waits for its socket with select(), which ends the whole process for a descriptor it has no room
    for. Raises OverlayError instead."""
    probe = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.close(probe)
    if probe >= _HIGHEST_DESCRIPTOR:
        raise OverlayError(f"nftables cannot be used while {probe} files and connections are open")
