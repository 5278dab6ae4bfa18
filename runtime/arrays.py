"""Arrays on disk, mapped read-only: processes that compute with the same packed weights share one copy of them in memory.

A file is a record (``records.py``) whose fields are dtype and shape, and whose body, the elements, begins on a page. The checksum is
verified each time that a file is mapped, since kernels compute with whatever the pages hold.
"""

from __future__ import annotations

import mmap
from math import prod
from typing import BinaryIO

import numpy as np

from ..ir import dtypes
from .buffers import address_of
from .files import CacheFiles, Damaged
from .records import MALFORMED, CacheKey, Form

PAGE = 4096
_FORM = Form(b"LOOPNEST ARRAY 1", "array", PAGE)


class ArrayCache:
    """The arrays of one model by key, mapped from ``files``. Of a model that is larger than half of the cache, the arrays that come first
    are in it, so that they do not displace each other at each start."""

    def __init__(self, files: CacheFiles) -> None:
        self.files = files
        self._mapped = 0
        self._keys: dict[int, tuple[CacheKey, np.ndarray]] = {}

    def get(self, key: CacheKey, nbytes: int) -> np.ndarray | None:
        """The array of ``nbytes`` stored under ``key``, C-contiguous, read-only and on a page boundary; None when there is none."""
        if self._mapped + nbytes > self.files.max_bytes // 2:
            return None
        found = self.files.read(_name(key), lambda file: _map(key, file))
        if found is not None:
            self._mapped += found.nbytes
            self._keys[address_of(found)] = key, found
        return found

    def put(self, key: CacheKey, array: np.ndarray) -> np.ndarray | None:
        """Stores an array and maps it; None when that cannot be done."""
        if self._mapped + array.nbytes > self.files.max_bytes // 2 or not self.files.write(_name(key), _encode(key, array)):
            return None
        return self.get(key, array.nbytes)

    def key_of(self, array: np.ndarray) -> CacheKey | None:
        """The key of an array that is mapped, given all of its memory; None for any other."""
        key, mapped = self._keys.get(address_of(array), (None, array))
        return key if mapped.nbytes == array.nbytes else None


def _name(key: CacheKey) -> str:
    return f"weights/{key.digest}.array"


def bytes_of(array: np.ndarray) -> memoryview:
    """The elements of an array in C order."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _encode(key: CacheKey, array: np.ndarray) -> list[bytes | memoryview]:
    fields = {"dtype": dtypes.from_numpy(array.dtype).name, "shape": array.shape}
    return _FORM.encode(key, fields, [bytes_of(array)])


def _map(key: CacheKey, file: BinaryIO) -> np.ndarray:
    try:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise Damaged("it is empty") from None
    record = _FORM.decode_for(key, mapped)
    try:
        dtype = dtypes.by_name(str(record.fields["dtype"])).numpy
        shape = tuple(map(int, record.fields["shape"]))
    except MALFORMED as error:
        raise Damaged(f"its header is malformed: {error!r}") from None
    if prod(shape) * dtype.itemsize != len(mapped) - record.body or len(mapped) <= record.body:
        raise Damaged("its size does not match its header")
    return np.ndarray(shape, dtype, mapped, record.body)
