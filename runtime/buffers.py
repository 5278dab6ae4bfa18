"""Aligned memory: fresh arrays for outputs, and the reusable workspaces that calls run in."""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from .program import ALIGNMENT

RECYCLED = 1 << 16
"""Outputs of at least so many bytes are recycled: the system hands out larger blocks page by page, which costs more than many a kernel."""


def aligned(nbytes: int) -> int:
    """``nbytes`` rounded up to a whole number of cache lines."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> tuple[np.ndarray, int]:
    """An uninitialised C-contiguous array of ``nbytes`` bytes at an address divisible by 64, and that address."""
    return _aligned_view(np.empty(nbytes + ALIGNMENT, np.uint8), shape, dtype)


def _aligned_view(raw: np.ndarray, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[np.ndarray, int]:
    start = address_of(raw)
    offset = -start % ALIGNMENT
    return np.ndarray(shape, dtype, raw, offset), start + offset


def _portable_address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _direct_address() -> Callable[[np.ndarray], int] | None:
    """Reads the data pointer out of the array object, where NumPy's C ABI has it: first field after the object header.

    Fifteen times as fast as ``__array_interface__``, which describes the whole array. None where a trial shows another layout.
    """
    field = object.__basicsize__
    words = ctypes.cast(8, ctypes.POINTER(ctypes.c_int64))  # words[i] reads address 8 + 8 * i; a pointer to 0 refuses to

    def address(array: np.ndarray) -> int:
        return words[(id(array) + field - 8) >> 3]

    trials = [np.empty(3), np.empty((4, 5), np.int8)[1:, 2:], np.zeros(())]
    if sys.implementation.name != "cpython" or any(address(array) != _portable_address(array) for array in trials):
        return None
    return address


address_of: Callable[[np.ndarray], int] = _direct_address() or _portable_address
"""Where an array's first element lies."""


class Workspaces:
    """A free list of workspaces, shared by the programs that are given it: as many blocks as calls ever ran at once, each as large as
    the largest of these programs needs; and the memory of their ``outputs``. Safe from many threads (list operations are atomic)."""

    __slots__ = ("free", "outputs")

    def __init__(self) -> None:
        self.free: list[np.ndarray] = []
        self.outputs = Outputs()

    def take(self, nbytes: int) -> np.ndarray:
        """Uninitialised bytes at an aligned address, at least ``nbytes``; a free block that is too small is dropped for a larger one."""
        try:
            workspace = self.free.pop()
        except IndexError:
            workspace = None
        if workspace is None or workspace.nbytes < nbytes:
            workspace, _ = aligned_empty((nbytes,), np.dtype(np.uint8), nbytes)
        return workspace

    def give(self, workspace: np.ndarray) -> None:
        """Returns a workspace that its call is done with."""
        self.free.append(workspace)

    def trim(self) -> int:
        """Drops the memory that no call uses; how many bytes that was."""
        nbytes = self.outputs.trim()
        while True:
            try:
                nbytes += self.free.pop().nbytes
            except IndexError:
                return nbytes


def _count_references() -> Callable[[object], int] | None:
    """What counts the references to an object exactly; None where nothing does (no reference counts, or threads without a global lock)."""
    if sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return None
    return sys.getrefcount


class Outputs:
    """Memory of outputs that was handed out, the oldest first: a block that no array lies in any more is handed out again.

    A caller who holds the results of one call until the next one returns gets two blocks per output in turn, which are as many as are
    kept; one who lets go of them before gets the same one again. A block still in use when its turn comes then belongs to its holder.
    Safe from many threads: a block is taken off the list atomically.
    """

    __slots__ = ("_handed_out",)

    def __init__(self) -> None:
        self._handed_out: deque[np.ndarray] = deque()

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int, count: int) -> np.ndarray:
        """An uninitialised array on a cache line; ``count`` is how many recycled outputs the calling program has."""
        raw = self._oldest(nbytes + ALIGNMENT, count)
        if raw is None:
            raw = np.empty(nbytes + ALIGNMENT, np.uint8)
        result, _ = _aligned_view(raw, shape, dtype)
        self._handed_out.append(raw)
        return result

    def _oldest(self, nbytes: int, count: int) -> np.ndarray | None:
        """The oldest block, when there is one per output and it is free and of about this size; where it is not, it stays until there are
        two."""
        raw = None
        while _REFERENCES is not None and len(self._handed_out) >= count:
            try:
                raw = self._handed_out.popleft()
            except IndexError:
                return None
            if nbytes <= raw.nbytes < 2 * nbytes and _REFERENCES(raw) == _ALONE:
                return raw
            if len(self._handed_out) < 2 * count - 1:
                self._handed_out.appendleft(raw)
                return None
        return None

    def trim(self) -> int:
        """Forgets all blocks, those in use too, which belong to their holders; their bytes."""
        nbytes = 0
        while True:
            try:
                nbytes += self._handed_out.pop().nbytes
            except IndexError:
                return nbytes

    @staticmethod
    def recycles(nbytes: int) -> bool:
        """Whether an output of so many bytes is worth it."""
        return nbytes >= RECYCLED and _REFERENCES is not None


_REFERENCES = _count_references()


def _alone() -> int:
    """The count of an object that only a local variable refers to."""
    raw = None
    handed_out = deque([np.empty(1, np.uint8)])
    while handed_out:
        raw = handed_out.popleft()
    return _REFERENCES(raw) if _REFERENCES is not None else 0


_ALONE = _alone()
