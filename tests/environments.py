"""Virtual environments with exactly the packages that somebody would have installed."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).parent.parent


def environment(folder: Path, packages: Sequence[str]) -> Path:
    """The interpreter of an environment that has loopnest as ``pip install --no-deps`` leaves it, and ``packages``, as links to what is
    installed here: without a download, in a moment."""
    venv.create(folder, with_pip=False, symlinks=sys.platform != "win32")
    site = next(folder.rglob("site-packages"))
    (site / "loopnest").symlink_to(ROOT, target_is_directory=True)
    for package in packages:
        found = distribution(package)
        tops = {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "bin", "__pycache__")}
        for top in tops:
            (site / top).symlink_to(Path(str(found.locate_file(top))))
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def run(python: Path, *arguments: str | Path, cwd: Path) -> str:
    """What a process of that environment prints; it sees nothing of this one, and must succeed."""
    command = [str(python), "-I", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
