"""Files that many processes share without trusting the disk: whole or absent, this user's own, checked, and removed by age.

A file is written under a temporary name and renamed, so that any number of processes may read and write a directory without locks. What is
read must be a regular file in a directory that this user alone can write, and carry the right checksum; anything else is removed and
counts as absent. No state of the disk is an error: each kind of problem is one ``CacheWarning``.

Locks (``claim``) only keep processes from doing the same work; nothing is wrong where they do not work.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TypeVar

if TYPE_CHECKING:
    from filelock import BaseFileLock

T = TypeVar("T")
FOLDERS = {"kernels": ".kernel", "weights": ".array", "plans": ".plan"}
"""What a cache directory holds, and how the names of files in each folder end."""
_STALE_SECONDS = 3600
_CLOCK_SECONDS = 60
_LEFTOVERS = (".tmp", ".lock")
_UNTRUSTED = "it is no directory, belongs to another user, or others may write it"


class CacheWarning(UserWarning):
    """The cache met something that it works around: a damaged entry, a directory that it cannot write."""


class Damaged(Exception):
    """Says what is wrong with an entry."""


class FileStatus(NamedTuple):
    """A file of the cache. ``used``: the time of last use, in seconds since the epoch."""

    used: float
    nbytes: int
    name: str


class Claim:
    """The right to make an entry, until it is released."""

    def __init__(self, lock: BaseFileLock | None = None) -> None:
        self._lock = lock

    def release(self) -> None:
        """Gives the right back. The file of the lock goes too: who waits for it finds the entry made, as does who makes another lock."""
        if self._lock is not None:
            _remove(Path(self._lock.lock_file))
            with contextlib.suppress(OSError):
                self._lock.release()


class CacheFiles:
    """The files of one cache directory, which holds at most about ``max_bytes``. Safe from many threads and many processes."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self.writable = True
        self._warned: set[str] = set()
        self._trusted: dict[str, bool] = {}
        self._unchecked: int | None = None  # bytes written since the directory was last measured; None before the first time

    def read(self, name: str, decode: Callable[[BinaryIO], T]) -> T | None:
        """What ``decode`` makes of a file; None where there is none, or ``decode`` finds it ``Damaged``."""
        path = self.root / name
        if not self._trusts(path.parent):
            return None
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
        path = self.root / name
        if not self._trusts(path.parent):
            return None
        try:
            with _open_own(path) as file:
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
        if not self._trusts(path.parent):
            raise PermissionError(_UNTRUSTED)
        write_whole(path, parts, 0o600)

    def claim(self, name: str, timeout: float = 0.0) -> Claim | None:
        """The right to make a file, against other processes and threads; None where another one still has it after ``timeout`` seconds.

        It ends with its process, however that ends. Where there can be no locks, everybody has it.
        """
        path = self.root / name
        if not self.writable:
            return Claim()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._trusts(path.parent):
                return Claim()
            from filelock import FileLock, Timeout

            lock = FileLock(path.with_suffix(".lock"), thread_local=False)
            try:
                lock.acquire(timeout=timeout, poll_interval=0.02)
            except Timeout:
                return None
        except (OSError, NotImplementedError):
            return Claim()
        return Claim(lock)

    def names(self, folder: str, *suffixes: str) -> list[str]:
        """The files of a folder, in no particular order; none of a folder that is not trusted, so that nothing is removed there."""
        suffixes = suffixes or (FOLDERS[folder],)
        if not self._trusts(self.root / folder):
            return []
        try:
            return [f"{folder}/{entry.name}" for entry in os.scandir(self.root / folder) if entry.name.endswith(suffixes)]
        except OSError:
            return []

    def statuses(self, *suffixes: str) -> list[FileStatus]:
        """What the directory holds, the file used longest ago first. A time in the future, as after a clock was set back, is long ago."""
        found: list[FileStatus] = []
        latest = time.time() + _CLOCK_SECONDS
        for name in (name for folder in FOLDERS for name in self.names(folder, *suffixes)):
            with contextlib.suppress(OSError):
                status = (self.root / name).lstat()
                used = status.st_mtime if status.st_mtime <= latest else 0.0
                found.append(FileStatus(used, status.st_size, name))
        return sorted(found)

    def prune(self, max_bytes: int | None = None) -> int:
        """Removes the files used longest ago until the directory holds nine tenths of ``max_bytes``, where it holds more, and what was
        abandoned. Returns the bytes removed."""
        max_bytes = self.max_bytes if max_bytes is None else max_bytes
        before = time.time() - _STALE_SECONDS
        left = self.statuses(*_LEFTOVERS)  # used at 0: of the future, and may be in use, as after a clock was set back
        removed = sum(_remove(self.root / file.name, file.nbytes) for file in left if 0 < file.used < before)
        files = self.statuses()
        total = sum(file.nbytes for file in files)
        excess = total - max_bytes * 9 // 10 if total > max_bytes else 0
        for file in files:
            if excess <= 0:
                break
            excess -= file.nbytes
            removed += _remove(self.root / file.name, file.nbytes)
        return removed

    def clear(self) -> int:
        """Removes everything, and returns how many bytes that were."""
        return sum(_remove(self.root / file.name, file.nbytes) for file in (*self.statuses(), *self.statuses(*_LEFTOVERS)))

    def _trusts(self, folder: Path) -> bool:
        """Whether ``folder`` is a directory, no link to one, into which this user alone can put files; true of one that does not exist."""
        known = self._trusted.get(folder.name)
        if known is None:
            try:
                status = folder.lstat()
            except OSError:
                return True
            own = not hasattr(os, "geteuid") or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)
            known = self._trusted[folder.name] = own and stat.S_ISDIR(status.st_mode)
        if not known:
            self.warn("folder", f"{folder} is not used: {_UNTRUSTED}")
        return known

    def warn(self, kind: str, message: str) -> None:
        """One warning for each kind of problem."""
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(f"loopnest cache: {message}", CacheWarning, stacklevel=5)


def write_whole(path: Path, parts: Sequence[bytes | memoryview], mode: int = 0o666, *, durable: bool = False) -> None:
    """Puts a file in the place of ``path`` at once, by way of one whose name nobody can foresee: there is the old one or the new one,
    whole; with ``durable``, after a power cut too. Raises ``OSError``."""
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.{os.urandom(8).hex()}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    try:
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        _remove(temporary)
        raise


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


def _remove(path: Path, nbytes: int = 0) -> int:
    """Removes a file; ``nbytes`` if that could be done."""
    try:
        path.unlink()
    except OSError:
        return 0
    return nbytes
