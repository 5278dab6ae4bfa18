"""What the tests that inject faults share: damage to files, kill -9 at random moments, other users, short and long forms."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX")
as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
NOBODY = 65534


def short_and_long(short: int, long: int) -> pytest.MarkDecorator:
    """The parameter ``turns``: few in every run, many with ``pytest -m long``."""
    return pytest.mark.parametrize("turns", [short, pytest.param(long, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])


def python(code: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs ``code`` in a process of its own, which must succeed."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done


def killed(work: Callable[[], None], at_most: float, seed: int, *, warm: bool = False) -> None:
    """Forks, and kills the child, which does ``work`` again and again, at a random moment of ``at_most`` seconds from the start, or
    (``warm``) from when it did it for the first time.

    For processes without other threads: what was imported before need not be imported in each child.
    """
    ready, told = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            if warm:
                work()
            os.write(told, b"x")
            while True:
                work()
        finally:
            os._exit(1)
    os.close(told)
    os.read(ready, 1)
    os.close(ready)
    time.sleep(random.Random(seed).random() * at_most)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), "the work failed before it was killed"


def damages(data: bytes, regions: dict[str, range], seed: int, each: int) -> Iterator[tuple[str, bytes]]:
    """``data`` damaged in every region: a bit flipped at its ends and at ``each`` random places, a byte replaced, the end cut off in it."""
    chance = random.Random(seed)
    for name, region in regions.items():
        if not region:
            continue
        places = {region[0], region[-1], *(chance.choice(region) for _ in range(each))}
        for at in sorted(places):
            changed = bytearray(data)
            changed[at] ^= 1 << chance.randrange(8)
            yield f"bit in {name} at {at}", bytes(changed)
            yield f"end in {name} at {at}", data[:at]


def replace_file(path: Path, data: bytes) -> None:
    """Another file under the same name: who has the old one mapped keeps it."""
    path.unlink()
    path.write_bytes(data)
    path.chmod(0o600)
