"""The image every host has: a static busybox, since a lab reaches no registry."""

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from .errors import LabError
from .names import Host, Lab
from .processes import clean_environment, run

IMAGE = "busybox:latest"
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "www/index.html": "<h1>It works</h1>\n",
}
_FOLDERS = {"bin": 0o755, "etc": 0o755, "root": 0o700, "tmp": 0o1777, "var": 0o755, "www": 0o755}


def _static_busybox() -> str:
    found = shutil.which("busybox", path=clean_environment()["PATH"])
    if found is None:
        raise LabError("the program 'busybox' is not installed: apt-get install busybox-static")
    with open(found, "rb") as program:
        if b"/ld-linux" in program.read(4096):  # the interpreter of a dynamic program stands in its head
            raise LabError(f"{found} is not static: apt-get install busybox-static")
    return found


def build(lab: Lab) -> Path:
    """The image's root file system as a tar file, made once per lab."""
    target = lab.datadir / "busybox.tar"
    if target.exists():
        return target
    busybox = _static_busybox()
    applets = set(run(busybox, "--list").split()) - {"busybox"}
    unfinished = target.with_suffix(".new")
    with tarfile.open(unfinished, "w") as archive:
        for name, mode in _FOLDERS.items():
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            archive.addfile(folder)
        program = archive.gettarinfo(busybox, "bin/busybox")
        program.mode = 0o755
        with open(busybox, "rb") as content:
            archive.addfile(program, content)
        for applet in sorted(applets):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname, link.mode = tarfile.SYMTYPE, "busybox", 0o777
            archive.addfile(link)
        for name, text in _FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o644
            archive.addfile(entry, io.BytesIO(text.encode()))
    os.replace(unfinished, target)
    return target


def ensure(host: Host, archive: Path) -> None:
    """Import the image into a host's engine, unless it is there."""
    docker = ["docker", "-H", f"unix://{host.engine_socket}"]
    there = subprocess.run(
        [*docker, "image", "inspect", IMAGE], capture_output=True, env=clean_environment(), timeout=60, check=False
    )
    if there.returncode != 0:
        path = "ENV PATH=/bin:/sbin:/usr/bin:/usr/sbin"
        run(*docker, "import", "--change", 'CMD ["sh"]', "--change", path, str(archive), IMAGE)
