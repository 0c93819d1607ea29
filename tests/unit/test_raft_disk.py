"""The order of file operations that a crash depends on."""

import os
from pathlib import Path

import pytest

from pyswarm.manager.raft.disk import Disk


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What reaches the system, with the names of the files."""
    made: list[str] = []
    real = {name: getattr(os, name) for name in ("pwrite", "fdatasync", "fsync", "rename", "open")}

    def name_of(fd: int) -> str:
        return Path(os.readlink(f"/proc/self/fd/{fd}")).name

    def on_fd(what: str) -> object:
        def call(fd: int, *args: object) -> object:
            made.append(f"{what} {name_of(fd)}")
            return real[what](fd, *args)

        return call

    def rename(old: Path, new: Path) -> None:
        made.append(f"rename {old.name} {new.name}")
        real["rename"](old, new)

    for what in ("pwrite", "fdatasync", "fsync"):
        monkeypatch.setattr(os, what, on_fd(what))
    monkeypatch.setattr(os, "rename", rename)
    return made


def test_a_small_file_is_whole_before_it_takes_the_old_ones_place(tmp_path: Path, calls: list[str]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "vote").write_bytes(b"old")
    Disk().write_beside(folder / "vote", b"new")
    assert calls == [
        "pwrite vote.tmp",
        "fdatasync vote.tmp",
        "rename vote.tmp vote",
        "fsync folder",
    ]
    assert (folder / "vote").read_bytes() == b"new"
    assert [p.name for p in folder.iterdir()] == ["vote"]
