"""Folders that a test looks into, where the agent makes file systems in memory."""

from collections.abc import Sequence
from pathlib import Path

from pyswarm.agent.tmpfs import FileInMemory


class FakeFolders:
    """``found`` is what there is: task id -> its files by path. ``failure`` is raised by the next build."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, FileInMemory]] = {}
        self.builds = 0
        self.failure: OSError | None = None

    def path(self, name: str) -> Path:
        """Below an imagined run folder."""
        return Path("/run/lab/files") / name

    def is_complete(self, name: str) -> bool:
        """Always, when it is there."""
        return name in self.found

    def build(self, name: str, files: Sequence[FileInMemory]) -> None:
        """Remember."""
        self.builds += 1
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        self.found[name] = {file.path: file for file in files}

    def remove(self, name: str) -> None:
        """Forget."""
        self.found.pop(name, None)

    def names(self) -> list[str]:
        """All."""
        return list(self.found)
