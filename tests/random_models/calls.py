"""What callers give: the right numbers in odd arrays, and wrong arrays, names and indices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .hostile import ALL, Hostile

Odd = Callable[[Hostile, np.ndarray], Any]
"""The same numbers in another array."""
ODD: list[Odd] = [
    lambda h, a: a.copy(order="F"),
    lambda h, a: a[tuple(slice(None, None, -1) for _ in a.shape)].copy()[tuple(slice(None, None, -1) for _ in a.shape)],
    lambda h, a: np.repeat(a, 2, -1)[..., ::2] if a.ndim else a,
    lambda h, a: _misaligned(a),
    lambda h, a: _read_only(a),
    lambda h, a: np.stack([a, a])[1],
    lambda h, a: a.view(np.memmap) if h.chance(0.5) else np.ma.masked_array(a),
    lambda h, a: a.transpose().copy().transpose(),
    lambda h, a: _Lender(a),
]


class _Lender:
    def __init__(self, array: np.ndarray) -> None:
        self.array = np.asarray(array)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.array


def _misaligned(array: np.ndarray) -> np.ndarray:
    raw = np.empty(array.nbytes + 1, np.uint8)
    result = raw[1:].view(array.dtype).reshape(array.shape) if array.size else array
    if array.size:
        result[...] = array
    return result


def _read_only(array: np.ndarray) -> np.ndarray:
    copy = np.array(array)
    copy.flags.writeable = False
    return copy


WRONG: list[Odd] = [
    lambda h, a: a.astype(h.one_of(*ALL)),
    lambda h, a: a[None],
    lambda h, a: a.reshape(-1),
    lambda h, a: a[..., :-1] if a.ndim else a,
    lambda h, a: a.astype(a.dtype.newbyteorder(">")),
    lambda h, a: a.tolist(),
    lambda h, a: None,
    lambda h, a: "text",
    lambda h, a: a.astype(object),
    lambda h, a: np.array(["a", "b"]),
    lambda h, a: np.zeros(3, [("a", "f4"), ("b", "i8")]),
    lambda h, a: [a, a],
    lambda h, a: {"a": a},
    lambda h, a: object(),
    lambda h, a: a.astype(np.complex64) if a.dtype.kind in "fiu" else a,
    lambda h, a: np.array(0, "M8[s]"),
    lambda h, a: np.broadcast_to(a, (2, *a.shape)),
    lambda h, a: np.zeros((0, *a.shape[1:]), a.dtype) if a.ndim else a,
    lambda h, a: np.zeros(a.shape, a.dtype)[..., None],
]


def extreme_integers(h: Hostile, array: np.ndarray) -> np.ndarray:
    """Indices, shapes, axes and counts out of any range."""
    if array.dtype.kind not in "iu" or not array.size:
        return array
    copy = array.copy().reshape(-1)
    info = np.iinfo(array.dtype)
    for _ in range(h.between(1, 3)):
        value = h.one_of(
            info.min, info.max, info.max - 1, -1, 0, 1, 2, 100, -100, 2**31, -(2**31) - 1, 2**40, 2**62, 7, 3, -2, -3
        )
        copy[h.between(0, copy.size - 1)] = min(max(value, info.min), info.max)
    return copy.reshape(array.shape)
