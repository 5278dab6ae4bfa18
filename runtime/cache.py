"""The kernel cache: object code on disk, keyed by everything that it depends on.

An entry is one file, named by the SHA-256 of its key: magic, SHA-256 of the rest, a JSON header (key, symbol, metadata), the object
file as LLVM wrote it. Entries are written under a temporary name and renamed, so any number of processes may share a directory
without locks. What is read must carry the right checksum and the whole key, and belong to this user alone, since it will be run;
anything else is removed and counts as absent. No state of the disk is an error: what cannot be kept there is kept in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import stat
import struct
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, cast

MAGIC = b"LOOPNEST KERNEL1"
_HEADER = struct.Struct("<16s32sI")
SUFFIX = ".kernel"
DEFAULT_MAX_BYTES = 2 << 30
MEMORY_MAX_BYTES = 256 << 20
_STALE_SECONDS = 3600


class CacheWarning(UserWarning):
    """The kernel cache met something that it works around: a damaged entry, a directory that it cannot write."""


@dataclass(frozen=True)
class CacheKey:
    """Everything that a kernel's code depends on, as named printable parts in a fixed order, the coarsest first."""

    parts: tuple[tuple[str, str], ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the parts in hexadecimal."""
        return hashlib.sha256(json.dumps(self.parts).encode()).hexdigest()

    def as_text(self) -> str:
        return "\n".join(
            f"{name}: {value}" if "\n" not in value else f"{name}:\n{_indent(value)}" for name, value in self.parts
        )

    def difference(self, other: CacheKey) -> tuple[int, str] | None:
        """The index of the first part that differs and a sentence about it; None for equal keys."""
        for index, (mine, theirs) in enumerate(itertools.zip_longest(self.parts, other.parts)):
            if mine == theirs:
                continue
            if mine is None or theirs is None or mine[0] != theirs[0]:
                return index, f"part {mine and mine[0]!r} stands where the other key has {theirs and theirs[0]!r}"
            return index, f"{mine[0]} differs: {_first_difference(mine[1], theirs[1])}"
        return None

    def explain(self, other: CacheKey) -> str:
        """Why ``other`` is not this key: the first part that differs."""
        found = self.difference(other)
        return found[1] if found else "the keys are equal"


def _indent(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())


def _first_difference(mine: str, theirs: str) -> str:
    lines = itertools.zip_longest(mine.splitlines(), theirs.splitlines(), fillvalue="")
    number, (a, b) = next(((n, pair) for n, pair in enumerate(lines, 1) if pair[0] != pair[1]), (1, (mine, theirs)))
    where = f"line {number}: " if "\n" in mine or "\n" in theirs else ""
    return f"{where}{a!r} here, {b!r} there"


@dataclass(frozen=True)
class CacheEntry:
    """One compiled kernel: relocatable object code, the symbol in it, and JSON-able metadata."""

    object_code: bytes
    symbol: str
    meta: dict[str, Any]


@dataclass
class CacheStats:
    """What became of the requests to a cache since it was opened."""

    memory_hits: int = 0
    disk_hits: int = 0
    misses: int = 0
    puts: int = 0


class _Damaged(Exception):
    """Says what is wrong with an entry."""


class KernelCache:
    """Kernels by key, in memory and under ``directory`` (None: in memory only), which holds at most about ``max_bytes``.

    Safe from many threads and many processes. Problems with the disk are one ``CacheWarning`` each kind, never an exception.
    """

    def __init__(self, directory: str | os.PathLike[str] | None, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.directory = None if directory is None else Path(directory) / "kernels"
        self.max_bytes = max_bytes
        self.stats = CacheStats()
        self._memory: OrderedDict[str, CacheEntry] = OrderedDict()
        self._memory_bytes = 0
        self._lock = threading.Lock()
        self._warned: set[str] = set()
        self._unchecked: int | None = None  # bytes written since the directory was last measured; None before the first time
        self._writable = True

    def get(self, key: CacheKey) -> CacheEntry | None:
        """The kernel stored under ``key``, or None."""
        with self._lock:
            entry = self._memory.get(key.digest)
            if entry is not None:
                self._memory.move_to_end(key.digest)
                self.stats.memory_hits += 1
                return entry
        entry = self._read(key)
        with self._lock:
            if entry is None:
                self.stats.misses += 1
            else:
                self.stats.disk_hits += 1
                self._remember(key.digest, entry)
        return entry

    def put(self, key: CacheKey, object_code: bytes, symbol: str, meta: dict[str, Any] | None = None) -> None:
        """Store a kernel; an entry with the same key is replaced."""
        entry = CacheEntry(bytes(object_code), symbol, dict(meta or {}))
        with self._lock:
            self.stats.puts += 1
            self._remember(key.digest, entry)
        if self.directory is not None and self._writable:
            try:
                self._write(self.directory, key, entry)
            except OSError as error:
                self._writable = False
                self._warn(
                    "write", f"kernels are kept in memory only: cannot write {self.directory}: {error.strerror or error}"
                )

    def explain(self, key: CacheKey) -> str:
        """Why ``key`` misses: the first part that differs from the stored key that agrees with it furthest. Reads every entry."""
        nearest = max((found for stored in self.keys() if (found := key.difference(stored))), default=None)
        if self.get(key) is not None:
            return "the kernel is in the cache"
        return "the cache is empty" if nearest is None else nearest[1]

    def keys(self) -> Iterator[CacheKey]:
        """The keys of the valid entries on disk."""
        for path in self._entries():
            try:
                yield _decode(_read_own(path))[0]
            except (OSError, _Damaged):
                continue

    def prune(self) -> None:
        """Remove the entries used longest ago until the directory holds nine tenths of ``max_bytes``, and abandoned temporary files."""
        if self.directory is None:
            return
        now, found = time.time(), list[tuple[float, int, Path]]()
        for path in (*self._entries(), *self._entries(".tmp")):
            try:
                status = path.stat()
                if path.suffix == SUFFIX:
                    found.append((status.st_mtime, status.st_size, path))
                elif now - status.st_mtime > _STALE_SECONDS:
                    path.unlink()
            except OSError:
                continue
        total = sum(size for _, size, _ in found)
        if total <= self.max_bytes:
            return
        for _, size, path in sorted(found):
            if total <= self.max_bytes * 9 // 10:
                break
            _remove(path)
            total -= size

    def _entries(self, suffix: str = SUFFIX) -> list[Path]:
        if self.directory is None:
            return []
        try:
            return [Path(entry.path) for entry in os.scandir(self.directory) if entry.name.endswith(suffix)]
        except OSError:
            return []

    def _remember(self, digest: str, entry: CacheEntry) -> None:
        replaced = self._memory.pop(digest, None)
        self._memory[digest] = entry
        self._memory_bytes += len(entry.object_code) - (len(replaced.object_code) if replaced else 0)
        while self._memory_bytes > MEMORY_MAX_BYTES and len(self._memory) > 1 and self.directory is not None and self._writable:
            _, oldest = self._memory.popitem(last=False)
            self._memory_bytes -= len(oldest.object_code)

    def _read(self, key: CacheKey) -> CacheEntry | None:
        if self.directory is None:
            return None
        path = self.directory / (key.digest + SUFFIX)
        try:
            stored, entry = _decode(_read_own(path))
            if stored != key:
                raise _Damaged("it belongs to another key")
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn("read", f"cannot read {path}: {error.strerror or error}")
            return None
        except _Damaged as damage:
            self._warn("damaged", f"ignored the cache entry {path}: {damage}; the kernel is compiled again")
            _remove(path)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the time of last use, which prune() goes by
        return entry

    def _write(self, directory: Path, key: CacheKey, entry: CacheEntry) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = _encode(key, entry)
        temporary = directory / f"{key.digest}.{os.getpid()}.{threading.get_ident()}.{time.monotonic_ns()}.tmp"
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(temporary, directory / (key.digest + SUFFIX))
        except OSError:
            _remove(temporary)
            raise
        self._unchecked = None if self._unchecked is None else self._unchecked + len(data)
        if self._unchecked is None or self._unchecked > self.max_bytes // 16:
            self._unchecked = 0
            self.prune()

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(f"loopnest kernel cache: {message}", CacheWarning, stacklevel=4)


def _encode(key: CacheKey, entry: CacheEntry) -> bytes:
    header = json.dumps(
        {"key": key.parts, "symbol": entry.symbol, "meta": entry.meta, "nbytes": len(entry.object_code)}
    ).encode()
    body = header + entry.object_code
    return _HEADER.pack(MAGIC, hashlib.sha256(body).digest(), len(header)) + body


def _decode(data: bytes) -> tuple[CacheKey, CacheEntry]:
    if len(data) < _HEADER.size:
        raise _Damaged("it is truncated")
    magic, checksum, header_nbytes = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise _Damaged("it is not a loopnest kernel of this version")
    body = memoryview(data)[_HEADER.size :]
    if hashlib.sha256(body).digest() != checksum:
        raise _Damaged("its checksum does not match")
    try:
        header = cast("dict[str, Any]", json.loads(bytes(body[:header_nbytes])))
        key = CacheKey(tuple((str(name), str(value)) for name, value in header["key"]))
        entry = CacheEntry(bytes(body[header_nbytes:]), str(header["symbol"]), dict(header["meta"]))
    except (ValueError, KeyError, TypeError) as error:
        raise _Damaged(f"its header is malformed: {error!r}") from None
    if len(entry.object_code) != header.get("nbytes"):
        raise _Damaged("its size does not match its header")
    return key, entry


def _read_own(path: Path) -> bytes:
    """The bytes of a regular file that only this user can have written; ``_Damaged`` for any other."""
    handle = os.open(
        path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise _Damaged("it is not a regular file")
        if hasattr(os, "geteuid") and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
            raise _Damaged("it belongs to another user, or others may write it")
        return file.read()


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def default_directory() -> Path:
    """Where kernels are kept unless a config says otherwise: ``LOOPNEST_CACHE_DIR``, else the user's cache directory."""
    chosen = os.environ.get("LOOPNEST_CACHE_DIR")
    if chosen:
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_cache_dir("loopnest"))


@cache
def open_cache(directory: str | None = None, max_bytes: int = DEFAULT_MAX_BYTES) -> KernelCache:
    """The cache of ``directory`` (None: the default one), shared by everything in this process."""
    return KernelCache(directory if directory is not None else default_directory(), max_bytes)


SOURCES = ("codegen/**/*.py", "ir/*.py")


@cache
def source_fingerprint(root: Path = Path(__file__).parent.parent, patterns: tuple[str, ...] = SOURCES) -> str:
    """SHA-256 of the sources that decide what code a nest becomes, so that an edited code generator finds no old kernels."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in root.glob(pattern)}):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()
