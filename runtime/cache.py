"""The kernel cache: object code on disk, keyed by everything that it depends on.

An entry is a record (``records.py``) whose fields are the symbol and metadata, and whose body is the object file as LLVM wrote it. What is
read must belong to this user alone, since it will be run (``files.py``); what cannot be kept on disk is kept in memory.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from glob import glob
from pathlib import Path
from typing import Any, BinaryIO

from ..ir.errors import MALFORMED
from .files import CacheFiles, CacheWarning, Claim, Damaged
from .records import CacheKey, Form, nearest

__all__ = ["CacheEntry", "CacheKey", "CacheStats", "CacheWarning", "Claim", "KernelCache", "open_cache", "source_fingerprint"]

_FORM = Form(b"LOOPNEST KERNEL1", "kernel")
DEFAULT_MAX_BYTES = 2 << 30
MEMORY_MAX_BYTES = 256 << 20


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
        return self.find(key.digest)

    def find(self, digest: str) -> CacheEntry | None:
        """The kernel whose key has this SHA-256, or None."""
        with self._lock:
            entry = self._memory.get(digest)
            if entry is not None:
                self._memory.move_to_end(digest)
                self.stats.memory_hits += 1
                return entry
        entry = self.files.read(_name(digest), lambda file: _decode_for(digest, file)) if self.files else None
        with self._lock:
            if entry is None:
                self.stats.misses += 1
            else:
                self.stats.disk_hits += 1
                self._remember(digest, entry)
        return entry

    def put(self, key: CacheKey, object_code: bytes, symbol: str, meta: dict[str, Any] | None = None) -> None:
        """Store a kernel; an entry with the same key is replaced."""
        entry = CacheEntry(bytes(object_code), symbol, dict(meta or {}))
        with self._lock:
            self.stats.puts += 1
            self._remember(key.digest, entry)
        if self.files is not None:
            self.files.write(_name(key.digest), _encode(key, entry))

    def claim(self, key: CacheKey, timeout: float = 0.0) -> Claim | None:
        """The right to compile a kernel, so that of many processes one does; None while another one has it, for ``timeout`` seconds."""
        return self.files.claim(_name(key.digest), timeout) if self.files else Claim()

    def explain(self, key: CacheKey, stored: Sequence[CacheKey] | None = None) -> str | None:
        """Why ``key`` is not in the cache, or None: the first part that differs from the key that agrees with it furthest, of the
        ``stored`` ones (all, when None: every entry is read)."""
        stored = list(self.stored()) if stored is None else stored
        if key.digest in self._memory or key in stored:
            return None
        return nearest(key, stored) or "the cache is empty"

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


def _name(digest: str) -> str:
    return f"kernels/{digest}.kernel"


def _decode_for(digest: str, file: BinaryIO) -> CacheEntry:
    stored, entry = _decode(file.read())
    if stored.digest != digest:
        raise Damaged("it belongs to another key")
    return entry


def _encode(key: CacheKey, entry: CacheEntry) -> list[bytes | memoryview]:
    return _FORM.encode(key, {"symbol": entry.symbol, "meta": entry.meta}, [entry.object_code])


def _decode(data: bytes) -> tuple[CacheKey, CacheEntry]:
    record = _FORM.decode(data)
    try:
        return record.key, CacheEntry(data[record.body :], str(record.fields["symbol"]), dict(record.fields["meta"]))
    except MALFORMED as error:
        raise Damaged(f"its header is malformed: {error!r}") from None


def default_directory() -> Path | None:
    """Where kernels are kept unless a config says otherwise: ``LOOPNEST_CACHE_DIR``, else the user's cache directory, if there is one."""
    chosen = os.environ.get("LOOPNEST_CACHE_DIR")
    if chosen:
        return Path(chosen)
    import platformdirs

    try:
        found = Path(platformdirs.user_cache_dir("loopnest"))
    except RuntimeError:  # newer versions, where nobody knows a home
        return None
    return found if found.is_absolute() else None  # older ones: "~/.cache/loopnest" as it stands


@cache
def open_cache(directory: str | None = None, max_bytes: int = DEFAULT_MAX_BYTES) -> KernelCache:
    """The cache of ``directory`` (None: the default one), shared by everything in this process."""
    found = default_directory() if directory is None else Path(directory)
    if found is None:
        message = "loopnest cache: it is kept in memory only: there is no home directory, and LOOPNEST_CACHE_DIR names no other"
        warnings.warn(message, CacheWarning, stacklevel=3)
    return KernelCache(found.absolute() if found else None, max_bytes)


SOURCES = ("codegen/**/*.py", "ir/*.py")
COMMENTS = re.compile(rb"(?m)^[ \t]*#.*\n|[ \t]+#[^\"'\n]*$")
"""Lines that are comments, and comments without quotes after code. In the text of a string it would find what is none: a test holds that
no string which matters has such a line."""


@cache
def source_fingerprint(root: Path = Path(__file__).parent.parent, patterns: tuple[str, ...] = SOURCES) -> str:
    """SHA-256 of the sources that decide what code a nest becomes, without comments: an edited code generator finds no old kernels."""
    digest = hashlib.sha256()
    names = {name for pattern in patterns for name in glob(pattern, root_dir=root, recursive=True)}
    for parts in sorted(name.split(os.sep) for name in names):
        with open(os.path.join(root, *parts), "rb", buffering=0) as file:
            content = COMMENTS.sub(b"", file.read())
        digest.update(f"{'/'.join(parts)} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()
