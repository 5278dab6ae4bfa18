"""The memory of the loop interpreter: a buffer on a flat array that knows which elements have a value, and who stored them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import loops as ir
from .errors import VerificationError
from .loop_values import Value

NOBODY = 0


@dataclass
class Memory:
    """A buffer at run time: its shape, strides and start as numbers.

    ``written`` marks the elements that have a value, ``writers`` holds the task that stored each; None where all have one, or nobody asks.
    """

    nest: str
    buffer: ir.Buffer
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int
    data: np.ndarray
    written: np.ndarray | None = None
    writers: np.ndarray | None = None

    @property
    def size(self) -> int:
        """Elements up to the last that the shape reaches."""
        return (
            0 if 0 in self.shape else 1 + self.start + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        )

    def forget(self) -> None:
        """Fresh memory: every element undefined."""
        self.data = np.zeros(self.size, self.data.dtype)
        self.written = np.zeros(self.size, np.bool_)

    def read(self, at: Sequence[Value], mask: np.ndarray | None, task: int) -> Value:
        """The element (or one per lane) at an index."""
        offset = self._locate(at, mask, "loaded")
        if self.written is not None and not np.all(self.written[offset]):
            raise self._error(at, ~self.written[offset], "is loaded, but nothing was stored there before")
        self._check_owner(at, offset, task, "loaded")
        return self.data[offset]

    def write(self, at: Sequence[Value], new: Value, mask: np.ndarray | None, task: int) -> None:
        """Stores a value (or one per active lane; the last one where all lanes have the same index)."""
        offset = self._locate(at, mask, "stored")
        self._check_owner(at, offset, task, "stored")
        if np.ndim(offset) == 0 and np.ndim(new):
            new = new[-1] if mask is None else new[mask][-1]
        elif np.ndim(offset) and mask is not None:
            offset = offset[mask]
            new = new[mask] if np.ndim(new) else new
        self.data[offset] = np.asarray(new, self.data.dtype)
        if self.writers is not None:
            self.writers[offset] = task
        if self.written is not None:
            self.written[offset] = True

    def check_complete(self) -> None:
        """Every element of the shape must have been stored."""
        if self.written is None or 0 in self.shape:
            return
        axes = np.ix_(*(np.arange(n) for n in self.shape))
        offsets = np.full(self.shape, self.start, np.int64) + sum(i * s for i, s in zip(axes, self.strides, strict=True))
        missing = np.argwhere(~self.written[offsets])
        if len(missing):
            raise self._error(missing[0].tolist(), True, f"is never stored ({len(missing)} elements are not)")

    def _locate(self, at: Sequence[Value], mask: np.ndarray | None, verb: str) -> Value:
        """The offset of an index, in elements; for inactive lanes that of an active one."""
        if len(at) != len(self.shape):
            raise self._error(at, True, f"is {verb} with {len(at)} indices")
        offset: Value = self.start
        for i, extent, stride in zip(at, self.shape, self.strides, strict=True):
            outside = i < 0 or i >= extent if np.ndim(i) == 0 else (i < 0) | (i >= extent)
            if mask is not None and np.ndim(outside):
                outside &= mask
            if np.any(outside):
                raise self._error(at, outside, f"is {verb}: out of bounds")
            offset = offset + i * stride
        outside = np.greater_equal(offset, len(self.data)) & (True if mask is None else mask)
        if np.any(outside):
            raise self._error(at, outside, f"is {verb}: outside of the memory of {len(self.data)} elements")
        if mask is not None and np.ndim(offset):
            offset = np.where(mask, offset, offset[int(np.argmax(mask))])
        return offset

    def _check_owner(self, at: Sequence[Value], offset: Value, task: int, verb: str) -> None:
        """An element that one parallel iteration stored may not be touched by another."""
        if self.writers is None:
            return
        others = (self.writers[offset] != NOBODY) & (self.writers[offset] != task)
        if np.any(others):
            raise self._error(at, others, f"is {verb} by one parallel iteration and was stored by another: a race")

    def _error(self, at: Sequence[Value], wrong: Value, problem: str) -> VerificationError:
        """Names the element, of the first lane that is ``wrong``."""
        lane = int(np.argmax(wrong)) if np.ndim(wrong) else 0
        index = ", ".join(str(x[lane] if np.ndim(x) else x) for x in at)
        shape = ", ".join(map(str, self.shape))
        return VerificationError(
            f"nest {self.nest!r}: {self.buffer.scope} {self.buffer.name!r}[{index}] of shape [{shape}] {problem}"
        )
