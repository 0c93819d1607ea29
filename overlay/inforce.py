"""Up to where the leader's writes are in force on this host. Pure.

A host leads to tasks in two ways that follow the cluster, each in its own time: by names and virtual IPs, and
through published ports. A task may be stopped only once neither leads to it, so the slower of the two counts.
"""

from collections.abc import Callable

from pyswarm.overlay.registry.model import Fence, SyncMark


class InForce:
    """Takes each mark as it is heard of, and as each way has it in force.

    ``on_applied`` is told the mark that both have in force, and whether one up to it had been asked for.
    """

    def __init__(self, on_applied: Callable[[Fence, bool], None]) -> None:
        self._on_applied = on_applied
        self._found: Fence | None = None
        self._led: Fence | None = None
        self._untold: list[Fence] = []

    def heard(self, mark: SyncMark | None) -> None:
        """A state with this mark is here; it is not in force yet."""
        if mark is not None and mark.asked:
            self._untold.append(mark.fence)

    def found(self, mark: SyncMark | None) -> None:
        """Names and virtual IPs are as of this mark."""
        self._found = None if mark is None else mark.fence
        self._tell()

    def led(self, mark: SyncMark | None) -> None:
        """Published ports are as of this mark."""
        self._led = None if mark is None else mark.fence
        self._tell()

    def _tell(self) -> None:
        if self._found is None or self._led is None:
            return
        fence = min(self._found, self._led)
        later = [mark for mark in self._untold if mark > fence]
        asked, self._untold = len(later) < len(self._untold), later
        self._on_applied(fence, asked)
