"""The secrets and configs on this node: kept in memory while a task here needs them, and given to it as files that
are in memory too.

Nothing of them is written anywhere else: the task database knows their ids, and the leader sends them again after
a restart of this process, while the files of running containers stay where they are.
"""

import asyncio
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

from pyswarm.agent.engine import EngineError, FileMount
from pyswarm.agent.placement import placement
from pyswarm.agent.tmpfs import FileInMemory, TmpfsFolders
from pyswarm.common.files import FileKey, FileKind, file_keys
from pyswarm.common.log import get_logger
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.types import Config, Secret, Task

log = get_logger("agent")

#: Below the daemon's run folder.
FOLDER = "files"


class FileMissing(EngineError):
    """A task needs what the managers did not send."""


class FolderDoor(Protocol):
    """Folders in memory; ``tmpfs.TmpfsFolders`` in earnest. Every method blocks."""

    def path(self, name: str) -> Path:
        """Where the folder is, or would be."""
        ...

    def is_complete(self, name: str) -> bool:
        """Whether everything is there."""
        ...

    def build(self, name: str, files: Sequence[FileInMemory]) -> None:
        """Make it, in place of an earlier one."""
        ...

    def remove(self, name: str) -> None:
        """Remove it; none is fine."""
        ...

    def names(self) -> list[str]:
        """Those there are."""
        ...


class TaskFiles:
    """Payloads the leader sent, and the folders made of them. Mounts are made and removed one at a time."""

    def __init__(self, folders: FolderDoor, tasks: TaskGroupOwner) -> None:
        self._folders = folders
        self._tasks = tasks
        self._payloads: dict[FileKey, bytes] = {}
        self._users: set[str] = set()
        self._lock = asyncio.Lock()

    @property
    def known(self) -> set[FileKey]:
        """What the leader sent."""
        return set(self._payloads)

    def know(self, obj: Secret | Config) -> None:
        """Something tasks may use."""
        self._payloads[key_of(obj)] = obj.spec.data

    def forget(self, kind: FileKind, object_id: str) -> None:
        """No task here needs it any more; files already made of it stay."""
        self._payloads.pop((kind, object_id), None)

    def use(self, task: Task) -> None:
        """The task may have a folder, or come to have one: it stays until ``release``."""
        if file_keys(task.spec.container_spec):
            self._users.add(task.id)

    async def place(self, task: Task) -> Sequence[FileMount]:
        """Have the task's files in place, and say what its container is to be given. Raises EngineError."""
        planned = placement(task.spec.container_spec)
        if not planned.files:
            return ()
        async with self._lock:
            if not await asyncio.to_thread(self._folders.is_complete, task.id):
                files = []
                for file in planned.files:
                    data = self._payloads.get(file.key)
                    if data is None:
                        raise FileMissing(f"{file.key[0]} {file.name} is not available on this node")
                    files.append(FileInMemory(file.path, file.uid, file.gid, file.mode, data))
                try:
                    await asyncio.to_thread(self._folders.build, task.id, files)
                except OSError as exc:
                    raise EngineError(f"cannot put secrets and configs in place: {exc.strerror or exc}") from exc
        folder = self._folders.path(task.id)
        return [FileMount(str(folder / bind.source), bind.target) for bind in planned.binds]

    def release(self, task: Task) -> None:
        """The task has ended; its folder goes."""
        if task.id in self._users:
            self._users.discard(task.id)
            self._tasks.spawn(self._remove(task.id), "remove-files")

    async def sweep(self, keep: Collection[str] = ()) -> None:
        """Remove folders of tasks that are neither in use here nor among ``keep``."""
        for task_id in await asyncio.to_thread(self._folders.names):
            if task_id not in keep:
                await self._remove(task_id)

    async def remove_all(self) -> None:
        """Forget everything, and remove every folder, whatever uses it."""
        self._payloads.clear()
        self._users.clear()
        await self.sweep()

    async def _remove(self, task_id: str) -> None:
        async with self._lock:
            if task_id in self._users:
                return
            try:
                await asyncio.to_thread(self._folders.remove, task_id)
            except OSError as exc:
                # The next look at all containers comes back to it.
                log.warning("cannot remove the files of a task", task=task_id, reason=exc.strerror or str(exc))


def key_of(obj: Secret | Config) -> FileKey:
    """What tasks refer to it by."""
    return ("secret" if isinstance(obj, Secret) else "config", obj.id)


def remove_leftover_files(run_dir: Path) -> None:
    """Remove what an earlier membership left in memory on a host that is in no swarm. Blocks."""
    folders = TmpfsFolders(run_dir / FOLDER)
    for name in folders.names():
        try:
            folders.remove(name)
        except OSError as exc:
            log.warning(
                "cannot remove files of an earlier membership", folder=name, reason=exc.strerror or str(exc)
            )
