"""Arrays on disk, mapped read-only: processes that compute with the same packed weights share one copy of them in memory.

A file is named by the SHA-256 of its key: magic, SHA-256 of the rest, a JSON header (key, dtype, shape, where the data start), zeros up to
a page boundary, the data. The checksum is verified each time that a file is mapped, since kernels compute with whatever the pages hold.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
from math import prod
from typing import Any, BinaryIO, cast

import numpy as np

from ..ir import dtypes
from .cache import CacheKey
from .files import CacheFiles, Damaged

MAGIC = b"LOOPNEST ARRAY 1"
PAGE = 4096
_HEADER = struct.Struct("<16s32sI")


class ArrayCache:
    """The arrays of one model by key, mapped from ``files``. Of a model that is larger than half of the cache, the arrays that come first
    are in it, so that they do not displace each other at each start."""

    def __init__(self, files: CacheFiles) -> None:
        self.files = files
        self._mapped = 0

    def get(self, key: CacheKey, nbytes: int) -> np.ndarray | None:
        """The array of ``nbytes`` stored under ``key``, C-contiguous, read-only and on a page boundary; None when there is none."""
        if self._mapped + nbytes > self.files.max_bytes // 2:
            return None
        found = self.files.read(_name(key), lambda file: _map(key, file))
        if found is not None:
            self._mapped += found.nbytes
        return found

    def put(self, key: CacheKey, array: np.ndarray) -> np.ndarray | None:
        """Stores an array and maps it; None when that cannot be done."""
        if self._mapped + array.nbytes > self.files.max_bytes // 2 or not self.files.write(_name(key), _encode(key, array)):
            return None
        return self.get(key, array.nbytes)


def _name(key: CacheKey) -> str:
    return f"weights/{key.digest}.array"


def bytes_of(array: np.ndarray) -> memoryview:
    """The elements of an array in C order."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _encode(key: CacheKey, array: np.ndarray) -> list[bytes | memoryview]:
    fields = {"key": key.parts, "dtype": dtypes.from_numpy(array.dtype).name, "shape": array.shape, "nbytes": array.nbytes}
    header, data = json.dumps(fields).encode(), bytes_of(array)
    padding = bytes(-(_HEADER.size + len(header)) % PAGE)
    digest = hashlib.sha256(header)
    digest.update(padding)
    digest.update(data)
    return [_HEADER.pack(MAGIC, digest.digest(), len(header)), header, padding, data]


def _map(key: CacheKey, file: BinaryIO) -> np.ndarray:
    try:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise Damaged("it is empty") from None
    if len(mapped) < _HEADER.size:
        raise Damaged("it is truncated")
    magic, checksum, header_nbytes = _HEADER.unpack_from(mapped)
    if magic != MAGIC:
        raise Damaged("it is not a loopnest array of this version")
    if hashlib.sha256(memoryview(mapped)[_HEADER.size :]).digest() != checksum:
        raise Damaged("its checksum does not match")
    start = _HEADER.size + header_nbytes
    try:
        header = cast("dict[str, Any]", json.loads(mapped[_HEADER.size : start]))
        stored = CacheKey(tuple((str(name), str(value)) for name, value in header["key"]))
        dtype, shape = dtypes.by_name(str(header["dtype"])).numpy, tuple(map(int, header["shape"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"its header is malformed: {error!r}") from None
    start += -start % PAGE
    if stored != key:
        raise Damaged("it belongs to another key")
    if prod(shape) * dtype.itemsize != len(mapped) - start or len(mapped) <= start:
        raise Damaged("its size does not match its header")
    return np.ndarray(shape, dtype, mapped, start)
