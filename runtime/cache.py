"""The kernel cache: object code on disk, keyed by everything that it depends on.

An entry is one file, named by the SHA-256 of its key: magic, SHA-256 of the rest, a JSON header (key, symbol, metadata), the object
file as LLVM wrote it. What is read must carry the right checksum and the whole key, and belong to this user alone, since it will be run
(``files.py``); what cannot be kept on disk is kept in memory.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import struct
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

from .files import CacheFiles, CacheWarning, Claim, Damaged

__all__ = ["CacheEntry", "CacheKey", "CacheStats", "CacheWarning", "Claim", "KernelCache", "open_cache", "source_fingerprint"]

MAGIC = b"LOOPNEST KERNEL1"
_HEADER = struct.Struct("<16s32sI")
DEFAULT_MAX_BYTES = 2 << 30
MEMORY_MAX_BYTES = 256 << 20


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
    same = next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return f"{where}{_excerpt(a, same)!r} here, {_excerpt(b, same)!r} there"


def _excerpt(line: str, at: int) -> str:
    """What a line says around a place in it."""
    start, end = max(0, at - 20), at + 40
    return f"{'…' * (start > 0)}{line[start:end]}{'…' * (end < len(line))}"


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


class KernelCache:
    """Kernels by key, in memory and under ``directory`` (None: in memory only), which holds at most about ``max_bytes``.

    Safe from many threads and many processes. Problems with the disk are one ``CacheWarning`` each kind, never an exception.
    """

    def __init__(self, directory: str | os.PathLike[str] | None, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.files = None if directory is None else CacheFiles(Path(directory), max_bytes)
        self.stats = CacheStats()
        self._memory: OrderedDict[str, CacheEntry] = OrderedDict()
        self._memory_bytes = 0
        self._lock = threading.Lock()

    def get(self, key: CacheKey) -> CacheEntry | None:
        """The kernel stored under ``key``, or None."""
        with self._lock:
            entry = self._memory.get(key.digest)
            if entry is not None:
                self._memory.move_to_end(key.digest)
                self.stats.memory_hits += 1
                return entry
        entry = self.files.read(_name(key), lambda file: _decode_for(key, file)) if self.files else None
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
        if self.files is not None:
            self.files.write(_name(key), [_encode(key, entry)])

    def claim(self, key: CacheKey, timeout: float = 0.0) -> Claim | None:
        """The right to compile a kernel, so that of many processes one does; None while another one has it, for ``timeout`` seconds."""
        return self.files.claim(_name(key), timeout) if self.files else Claim()

    def explain(self, key: CacheKey, stored: Sequence[CacheKey] | None = None) -> str | None:
        """Why ``key`` is not in the cache, or None: the first part that differs from the key that agrees with it furthest, of the
        ``stored`` ones (all, when None: every entry is read)."""
        stored = list(self.stored()) if stored is None else stored
        if key.digest in self._memory or key in stored:
            return None
        nearest = max((found for other in stored if (found := key.difference(other))), default=None)
        return "the cache is empty" if nearest is None else nearest[1]

    def stored(self) -> Iterator[CacheKey]:
        """The keys of the valid entries on disk."""
        files = self.files
        for name in files.names("kernels") if files else ():
            found = files.peek(name, lambda file: _decode(file.read())) if files else None
            if found is not None:
                yield found[0]

    def _remember(self, digest: str, entry: CacheEntry) -> None:
        replaced = self._memory.pop(digest, None)
        self._memory[digest] = entry
        self._memory_bytes += len(entry.object_code) - (len(replaced.object_code) if replaced else 0)
        while (
            self._memory_bytes > MEMORY_MAX_BYTES and len(self._memory) > 1 and self.files is not None and self.files.writable
        ):
            _, oldest = self._memory.popitem(last=False)
            self._memory_bytes -= len(oldest.object_code)


def _name(key: CacheKey) -> str:
    return f"kernels/{key.digest}.kernel"


def _decode_for(key: CacheKey, file: BinaryIO) -> CacheEntry:
    stored, entry = _decode(file.read())
    if stored != key:
        raise Damaged("it belongs to another key")
    return entry


def _encode(key: CacheKey, entry: CacheEntry) -> bytes:
    header = json.dumps(
        {"key": key.parts, "symbol": entry.symbol, "meta": entry.meta, "nbytes": len(entry.object_code)}
    ).encode()
    body = header + entry.object_code
    return _HEADER.pack(MAGIC, hashlib.sha256(body).digest(), len(header)) + body


def _decode(data: bytes) -> tuple[CacheKey, CacheEntry]:
    if len(data) < _HEADER.size:
        raise Damaged("it is truncated")
    magic, checksum, header_nbytes = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise Damaged("it is not a loopnest kernel of this version")
    body = memoryview(data)[_HEADER.size :]
    if hashlib.sha256(body).digest() != checksum:
        raise Damaged("its checksum does not match")
    try:
        header = cast("dict[str, Any]", json.loads(bytes(body[:header_nbytes])))
        key = CacheKey(tuple((str(name), str(value)) for name, value in header["key"]))
        entry = CacheEntry(bytes(body[header_nbytes:]), str(header["symbol"]), dict(header["meta"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"its header is malformed: {error!r}") from None
    if len(entry.object_code) != header.get("nbytes"):
        raise Damaged("its size does not match its header")
    return key, entry


def default_directory() -> Path | None:
    """Where kernels are kept unless a config says otherwise: ``LOOPNEST_CACHE_DIR``, else the user's cache directory, if there is one."""
    chosen = os.environ.get("LOOPNEST_CACHE_DIR")
    if chosen:
        return Path(chosen)
    import platformdirs

    found = Path(platformdirs.user_cache_dir("loopnest"))
    return found if found.is_absolute() else None  # "~/.cache/loopnest" as it stands, where nobody knows a home


@cache
def open_cache(directory: str | None = None, max_bytes: int = DEFAULT_MAX_BYTES) -> KernelCache:
    """The cache of ``directory`` (None: the default one), shared by everything in this process."""
    found = default_directory() if directory is None else Path(directory)
    if found is None:
        message = "loopnest cache: it is kept in memory only: there is no home directory, and LOOPNEST_CACHE_DIR names no other"
        warnings.warn(message, CacheWarning, stacklevel=3)
    return KernelCache(found.absolute() if found else None, max_bytes)


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
