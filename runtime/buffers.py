"""Aligned memory: fresh arrays for outputs, and the reusable workspace that one call runs in."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .program import ALIGNMENT


def aligned(nbytes: int) -> int:
    """``nbytes`` rounded up to a whole number of cache lines."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> tuple[np.ndarray, int]:
    """An uninitialised C-contiguous array of ``nbytes`` bytes at an address divisible by 64, and that address."""
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
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


class Workspace:
    """Uninitialised memory at an aligned address, for one call at a time; ``owner`` is a token of who wrote its fixed parts."""

    __slots__ = ("address", "memory", "nbytes", "owner")

    def __init__(self, nbytes: int) -> None:
        array, self.address = aligned_empty((nbytes,), np.dtype(np.uint8), nbytes)
        self.memory = array.data
        self.nbytes = nbytes
        self.owner: object = None


class Workspaces:
    """A free list of workspaces, shared by the programs that are given it: as many blocks as calls ever ran at once, each as large as
    the largest of these programs needs. Safe from many threads (list operations are atomic)."""

    __slots__ = ("_free",)

    def __init__(self) -> None:
        self._free: list[Workspace] = []

    def take(self, nbytes: int) -> Workspace:
        """A workspace of at least ``nbytes``; a free one that is too small is dropped for a larger one."""
        try:
            workspace = self._free.pop()
        except IndexError:
            return Workspace(nbytes)
        return workspace if workspace.nbytes >= nbytes else Workspace(nbytes)

    def give(self, workspace: Workspace) -> None:
        """Returns a workspace that its call is done with."""
        self._free.append(workspace)
