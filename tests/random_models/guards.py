"""Arrays that end where memory ends: the page after them, or the one before, is not accessible, so that a kernel which reads or writes
beyond kills its process instead of going unnoticed."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np

from loopnest.runtime import executor
from loopnest.runtime.buffers import Workspaces
from loopnest.runtime.program import ALIGNMENT

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
PAGE = mmap.PAGESIZE


def guarded(nbytes: int, *, at_end: bool, alignment: int = 1) -> np.ndarray:
    """Bytes of 0xAA of which the last (rounded up to ``alignment``), or the first, lies beside a page without access."""
    room = -(-nbytes // alignment) * alignment
    pages = max(1, -(-room // PAGE))
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    whole = np.frombuffer(memory, np.uint8)
    start = whole.ctypes.data
    for page in (start, start + (pages + 1) * PAGE):
        if _LIBC.mprotect(page, PAGE, mmap.PROT_NONE if hasattr(mmap, "PROT_NONE") else 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = PAGE + (pages * PAGE - room if at_end else 0)
    part = whole[offset : offset + nbytes]
    part[:] = 0xAA
    return part


def guarded_copy(array: np.ndarray, *, at_end: bool) -> np.ndarray:
    """The same elements, C-contiguous, beside a page without access."""
    copy = guarded(array.nbytes, at_end=at_end).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def guarded_like(shapes: Sequence[tuple[tuple[int, ...], np.dtype[Any]]], *, at_end: bool) -> list[np.ndarray]:
    """Arrays for outputs."""
    return [guarded(int(np.prod(s)) * d.itemsize, at_end=at_end).view(d).reshape(s) for s, d in shapes]


@contextmanager
def guarded_memory(*, at_end: bool) -> Iterator[None]:
    """Workspaces and packed weights of executables made inside lie beside such pages too."""

    def take(self: Workspaces, nbytes: int) -> np.ndarray:
        return guarded(nbytes, at_end=at_end, alignment=ALIGNMENT)

    blob = executor._blob

    def copied(constant: np.ndarray, nbytes: int) -> np.ndarray:
        found = blob(constant, nbytes)
        copy = guarded(found.nbytes, at_end=at_end, alignment=ALIGNMENT)
        copy[:] = found
        return copy

    with (
        mock.patch.object(Workspaces, "take", take),
        mock.patch.object(Workspaces, "give", lambda self, workspace: None),
        mock.patch.object(executor, "_blob", copied),
    ):
        yield
