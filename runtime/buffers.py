"""Aligned memory: fresh arrays for outputs, and the reusable workspace that one call runs in."""

from __future__ import annotations

from typing import Any

import numpy as np

from .program import ALIGNMENT


def aligned(nbytes: int) -> int:
    """``nbytes`` rounded up to a whole number of cache lines."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> tuple[np.ndarray, int]:
    """An uninitialised C-contiguous array of ``nbytes`` bytes at an address divisible by 64, and that address."""
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = raw.__array_interface__["data"][0]
    offset = -start % ALIGNMENT
    return np.ndarray(shape, dtype, raw, offset), start + offset


class Workspace:
    """One block of uninitialised memory at an aligned address; used by one call at a time."""

    __slots__ = ("address", "memory", "nbytes")

    def __init__(self, nbytes: int) -> None:
        array, self.address = aligned_empty((nbytes,), np.dtype(np.uint8), nbytes)
        self.memory = memoryview(array)
        self.nbytes = nbytes


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
