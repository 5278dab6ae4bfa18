"""What ONNX Runtime and ONNX's reference make of a model, None where they refuse it, and how far results are apart."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.shape_inference
from onnx.reference import ReferenceEvaluator

from .growing import onnxruntime

EXACT = 2e-5
"""Tolerances up to this one are of each element, larger ones of the largest."""
_EPSILON = {"float16": 2e-3, "bfloat16": 2e-2}


def by_onnxruntime(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[Any] | None:
    if any(a.dtype == ml_dtypes.bfloat16 for a in feeds.values()):
        return None
    try:
        return list(onnxruntime(onnx.shape_inference.infer_shapes(model), dict(feeds)))
    except Exception:
        return None


def by_reference(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[Any] | None:
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return list(ReferenceEvaluator(model).run(None, dict(feeds)))
    except Exception:
        return None


def difference(ours: Sequence[Any], theirs: Sequence[Any], tolerance: float) -> str:
    """The first difference of two lists of arrays in words, "" where there is none; NaN is like NaN."""
    if len(ours) != len(theirs):
        return f"{len(ours)} outputs instead of {len(theirs)}"
    for at, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        found = _difference(np.asarray(a), np.asarray(b), tolerance)
        if found:
            return f"output {at}: {found}"
    return ""


def _difference(a: np.ndarray, b: np.ndarray, tolerance: float) -> str:
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{a.dtype}{list(a.shape)} instead of {b.dtype}{list(b.shape)}"
    bad = a != b if a.dtype.kind in "iubO" else _far(a, b, max(tolerance, _EPSILON.get(a.dtype.name, 0.0)), tolerance > EXACT)
    if not bad.any():
        return ""
    first = tuple(np.argwhere(bad)[0].tolist())
    return f"{np.count_nonzero(bad)} of {bad.size} differ, first at {list(first)}: {a[first]} instead of {b[first]}"


def _far(a: np.ndarray, b: np.ndarray, tolerance: float, of_the_largest: bool) -> np.ndarray:
    with np.errstate(all="ignore"):
        x, y = a.astype(np.float64), b.astype(np.float64)
        scale = np.abs(y[np.isfinite(y)]).max(initial=0.0) if of_the_largest else np.abs(y)
        return ~((x == y) | (np.isnan(x) & np.isnan(y)) | (np.abs(x - y) <= tolerance * scale + 1e-6))
