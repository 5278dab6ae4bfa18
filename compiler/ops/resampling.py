"""Where the elements of a resized axis come from: input indices and weights, as tables made while planning.

Source: the ONNX operator specification, Resize (opset 19): coordinate transformation modes, nearest modes, cubic convolution with
coefficient ``a``, antialiasing by stretching the filter where an axis shrinks, and ``exclude_outside``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import floor

import numpy as np

Weights = Callable[[np.ndarray, float], np.ndarray]


@dataclass(frozen=True)
class Axis:
    """A resized axis: extents before and after, the scale between them, and the part of the input to take (``tf_crop_and_resize``)."""

    axis: int
    before: int
    after: int
    scale: float
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True)
class Taps:
    """``y[o] = sum_k weights[k, o] * x[indices[k, o]]``, or the extrapolation value where ``outside[o]``. float64, int64, bool."""

    indices: np.ndarray
    weights: np.ndarray
    outside: np.ndarray | None = None


COORDINATES = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize",
)  # fmt: skip
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def coordinates(axis: Axis, mode: str) -> np.ndarray:
    """The place in the input of each element of the output."""
    at = np.arange(axis.after, dtype=np.float64)
    whole = axis.scale * axis.before
    if mode == "align_corners":
        return np.zeros_like(at) if whole == 1 else at * (axis.before - 1) / (whole - 1)
    if mode == "asymmetric":
        return at / axis.scale
    if mode == "tf_crop_and_resize":
        span = (axis.end - axis.start) * (axis.before - 1)
        return axis.start * (axis.before - 1) + (np.full_like(at, span / 2) if whole == 1 else at * span / (whole - 1))
    if mode == "pytorch_half_pixel" and whole == 1:
        return np.full_like(at, -0.5)
    offset = axis.before / 2 * (1 - axis.after / whole) if mode == "half_pixel_symmetric" else 0.0
    return offset + (at + 0.5) / axis.scale - 0.5


def outside_of(axis: Axis, mode: str, at: np.ndarray) -> np.ndarray | None:
    """Where ``tf_crop_and_resize`` leaves the input; None if nowhere."""
    outside = (at < 0) | (at > axis.before - 1)
    return outside if mode == "tf_crop_and_resize" and outside.any() else None


def nearest(axis: Axis, mode: str, rounding: str) -> Taps:
    at = coordinates(axis, mode)
    left = np.floor(at)
    fraction = at - left
    up = {
        "round_prefer_floor": fraction > 0.5,
        "round_prefer_ceil": fraction >= 0.5,
        "floor": np.zeros_like(fraction, np.bool_),
        "ceil": fraction > 0,
    }[rounding]
    index = np.clip((left + up).astype(np.int64), 0, axis.before - 1)
    return Taps(index[None], np.ones((1, axis.after)), outside_of(axis, mode, at))


def linear(fraction: np.ndarray, scale: float) -> np.ndarray:
    """Weights of the neighbours of places ``fraction`` in (0, 1] after an element; with ``scale`` < 1, of a tent stretched by 1 / scale."""
    start = floor(-1 / scale) + 1
    distance = (np.arange(start, 2 - start)[:, None] - fraction) * scale
    weights = np.clip(1 - np.abs(distance), 0, 1)
    return weights / weights.sum(axis=0)


def cubic(a: float) -> Weights:
    """The weights of cubic convolution (Keys 1981) with coefficient ``a``, stretched by 1 / scale where the scale is below 1."""

    def weights(fraction: np.ndarray, scale: float) -> np.ndarray:
        start = floor(-2 / scale) + 1
        x = np.abs((np.arange(start, 2 - start)[:, None] - fraction) * scale)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        values = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
        return values / values.sum(axis=0)

    return weights


def interpolated(axis: Axis, mode: str, weights: Weights, *, antialias: bool, exclude_outside: bool) -> Taps:
    """The taps of a filter; elements beyond the border are those at the border, or left out."""
    at = coordinates(axis, mode)
    left = np.ceil(at) - 1
    values = weights(at - left, min(axis.scale, 1.0) if antialias else 1.0)
    count = len(values)
    indices = (left + 1 - count // 2).astype(np.int64) + np.arange(count)[:, None]
    if exclude_outside:
        values = np.where((indices < 0) | (indices >= axis.before), 0.0, values)
        total = values.sum(axis=0)
        values = values / np.where(total == 0, 1.0, total)
    return Taps(np.clip(indices, 0, axis.before - 1), values, outside_of(axis, mode, at))
