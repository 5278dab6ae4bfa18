"""Files that many processes share without trusting the disk: whole or absent, this user's own, checked, and removed by age.

A file is written under a temporary name and renamed, so that any number of processes may read and write a directory without locks. What is
read must be a regular file that this user alone can have written, and carry the right checksum; anything else is removed and counts as
absent. No state of the disk is an error: each kind of problem is one ``CacheWarning``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

T = TypeVar("T")
FOLDERS = {"kernels": ".kernel", "weights": ".array"}
"""What a cache directory holds, and how the names of files in each folder end."""
_STALE_SECONDS = 3600
_serial = itertools.count()


class CacheWarning(UserWarning):
    """The cache met something that it works around: a damaged entry, a directory that it cannot write."""


class Damaged(Exception):
    """Says what is wrong with an entry."""


class CacheFiles:
    """The files of one cache directory, which holds at most about ``max_bytes``. Safe from many threads and many processes."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self.writable = True
        self._warned: set[str] = set()
        self._unchecked: int | None = None  # bytes written since the directory was last measured; None before the first time

    def read(self, name: str, decode: Callable[[BinaryIO], T]) -> T | None:
        """What ``decode`` makes of a file; None where there is none, or ``decode`` finds it ``Damaged``."""
        path = self.root / name
        try:
            with _open_own(path) as file:
                found = decode(file)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.warn("read", f"cannot read {path}: {error.strerror or error}")
            return None
        except Damaged as damage:
            self.warn("damaged", f"ignored the cache entry {path}: {damage}; it is made again")
            _remove(path)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the time of last use, which prune() goes by
        return found

    def peek(self, name: str, decode: Callable[[BinaryIO], T]) -> T | None:
        """As ``read``, but nothing is warned of, removed, or counted as used."""
        try:
            with _open_own(self.root / name) as file:
                return decode(file)
        except (OSError, Damaged):
            return None

    def write(self, name: str, parts: Sequence[bytes | memoryview]) -> bool:
        """Stores a file, or says why not; after the first failure nothing is stored any more."""
        if not self.writable:
            return False
        try:
            self._write(self.root / name, parts)
        except OSError as error:
            self.writable = False
            self.warn("write", f"it is kept in memory only: cannot write {self.root}: {error.strerror or error}")
            return False
        nbytes = sum(map(len, parts))
        self._unchecked = None if self._unchecked is None else self._unchecked + nbytes
        if self._unchecked is None or self._unchecked > self.max_bytes // 16:
            self._unchecked = 0
            self.prune()
        return True

    def _write(self, path: Path, parts: Sequence[bytes | memoryview]) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.stem}.{os.getpid()}.{time.time_ns()}.{next(_serial)}.tmp")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                for part in parts:
                    file.write(part)
            os.replace(temporary, path)
        except OSError:
            _remove(temporary)
            raise

    def names(self, folder: str, suffix: str | None = None) -> list[str]:
        """The files of a folder, in no particular order."""
        suffix = suffix or FOLDERS[folder]
        try:
            return [f"{folder}/{entry.name}" for entry in os.scandir(self.root / folder) if entry.name.endswith(suffix)]
        except OSError:
            return []

    def prune(self, max_bytes: int | None = None) -> None:
        """Removes the files used longest ago until the directory holds nine tenths of ``max_bytes``, and abandoned temporary files."""
        max_bytes = self.max_bytes if max_bytes is None else max_bytes
        now, found = time.time(), list[tuple[float, int, Path]]()
        for folder in FOLDERS:
            for path in (self.root / name for name in (*self.names(folder), *self.names(folder, ".tmp"))):
                try:
                    status = path.stat()
                    if path.suffix == FOLDERS[folder]:
                        found.append((status.st_mtime, status.st_size, path))
                    elif abs(now - status.st_mtime) > _STALE_SECONDS:
                        path.unlink()
                except OSError:
                    continue
        total = sum(size for _, size, _ in found)
        if total <= max_bytes:
            return
        for _, size, path in sorted(found):
            if total <= max_bytes * 9 // 10:
                break
            _remove(path)
            total -= size

    def warn(self, kind: str, message: str) -> None:
        """One warning for each kind of problem."""
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(f"loopnest cache: {message}", CacheWarning, stacklevel=5)


def _open_own(path: Path) -> BinaryIO:
    """A regular file that only this user can have written, opened for reading; ``Damaged`` for any other."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    try:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise Damaged("it is not a regular file")
        if hasattr(os, "geteuid") and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
            raise Damaged("it belongs to another user, or others may write it")
    except BaseException:
        file.close()
        raise
    return file


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
