"""Arrays on disk, mapped read-only: processes that compute with the same packed weights share one copy of them in memory.

A file is a record (``records.py``) whose fields are dtype and shape, and whose body, the elements, begins on a page. The checksum is
verified each time that a file is mapped, since kernels compute with whatever the pages hold.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from functools import cached_property
from math import prod
from typing import BinaryIO

import numpy as np

from ..ir import dtypes
from ..ir.errors import MALFORMED
from .buffers import address_of
from .files import CacheFiles, Damaged
from .later import later
from .records import CacheKey, Form

PAGE = 4096
MAPPED_BYTES = 1 << 16
"""A smaller constant is not worth a file."""
_FORM = Form(b"LOOPNEST ARRAY 2", "array", PAGE, large=True)


class ArrayCache:
    """The arrays of one model by key, mapped from ``files``, each once. Of a model that is larger than half of the cache, the arrays that
    come first are in it, so that they do not displace each other at each start.

    With ``patient``, what is made is stored later (``later.py``), and this process uses it where it is, in memory of its own."""

    def __init__(self, files: CacheFiles, *, patient: bool = False) -> None:
        self.files = files
        self.patient = patient
        self._nbytes = 0
        self._mapped: dict[CacheKey, np.ndarray] = {}
        self._keys: dict[int, CacheKey] = {}  # by address

    def get(self, key: CacheKey, nbytes: int) -> np.ndarray | None:
        """The array of ``nbytes`` stored under ``key``, C-contiguous, read-only and on a page boundary; None when there is none."""
        found = self._mapped.get(key)
        if found is not None or not self.has_room(nbytes):
            return found
        found = self.files.read(_name(key), lambda file: _map(key, nbytes, file))
        if found is not None:
            self._take(key, found)
        return found

    def put(self, key: CacheKey, array: np.ndarray) -> np.ndarray | None:
        """Stores an array and maps it; None when that cannot be done."""
        if not self.has_room(array.nbytes) or not self.files.write(_name(key), _encode(key, array)):
            return None
        if self.patient:
            self._take(key, array)
            return array
        return self.get(key, array.nbytes)

    @staticmethod
    def set_aside(array: np.ndarray) -> None:
        """Takes the pages of a mapped array, which checking it has read, out of this process's memory until somebody reads them."""
        if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            array.base.madvise(mmap.MADV_DONTNEED)

    def put_later(self, key: Callable[[], CacheKey], array: np.ndarray) -> None:
        """Stores an array when there is time, under a key that is worked out then."""
        later(lambda: self.put(key(), array))

    def may_have(self, nbytes: int) -> bool:
        """Whether an array of so many bytes was there when this was first asked."""
        return any(body + nbytes in self._sizes for body in (PAGE, 2 * PAGE))

    @cached_property
    def _sizes(self) -> frozenset[int]:
        return frozenset(file.nbytes for file in self.files.statuses() if file.name.startswith("weights/"))

    def _take(self, key: CacheKey, array: np.ndarray) -> None:
        self._nbytes += array.nbytes
        self._keys[address_of(array)] = key
        self._mapped[key] = array

    def has_room(self, nbytes: int) -> bool:
        """Whether so much more of this model belongs into the cache."""
        return self._nbytes + nbytes <= self.files.max_bytes // 2

    def key_of(self, array: np.ndarray) -> CacheKey | None:
        """The key of an array that is stored, given all of its memory; None for any other."""
        key = self._keys.get(address_of(array))
        return key if key is not None and self._mapped[key].nbytes == array.nbytes else None


def _name(key: CacheKey) -> str:
    return f"weights/{key.digest}-2.array"  # other versions, which may share the directory, have other names


def bytes_of(array: np.ndarray) -> memoryview:
    """The elements of an array in C order."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _encode(key: CacheKey, array: np.ndarray) -> list[bytes | memoryview]:
    fields = {"dtype": dtypes.from_numpy(array.dtype).name, "shape": array.shape}
    return _FORM.encode(key, fields, [bytes_of(array)])


def _map(key: CacheKey, nbytes: int, file: BinaryIO) -> np.ndarray:
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
    if not prod(shape) * dtype.itemsize == nbytes == len(mapped) - record.body:
        raise Damaged("its size does not match its header")
    return np.ndarray(shape, dtype, mapped, record.body)
