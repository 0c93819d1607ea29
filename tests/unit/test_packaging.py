"""What is installed is what is in the repository."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMPONENTS = ("cli", "gateway", "manager", "agent", "overlay", "daemon", "proto", "common")


def test_the_package_holds_every_module_of_the_repository_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "egg_info", "-e", str(tmp_path)]
    build = ["build_py", "--build-lib", str(tmp_path / "lib"), "--force"]
    subprocess.run([*command, *build], cwd=ROOT, check=True, capture_output=True)
    built = {
        str(p.relative_to(tmp_path / "lib" / "pyswarm")) for p in (tmp_path / "lib").rglob("*") if p.is_file()
    }
    listed = subprocess.run(
        ["git", "ls-files", *COMPONENTS], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert built == set(listed)
