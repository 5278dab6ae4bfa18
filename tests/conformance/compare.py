"""Does what an engine returned equal what the suite expects? The rules of onnx.backend.test.runner, a little stricter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np


class Mismatch(AssertionError):
    """An output differs; `what` is one of count, type, dtype, shape, value."""

    def __init__(self, what: str, text: str) -> None:
        super().__init__(text)
        self.what = what


def check_outputs(expected: Sequence[Any], got: Sequence[Any], rtol: float, atol: float) -> None:
    """Raises Mismatch unless both hold equal values: same dtype and shape; floats |got - expected| <= atol + rtol |expected|
    with NaN and inf in the same places; integers, booleans and strings exact; sequences and optionals element by element.
    """
    if len(expected) != len(got):
        raise Mismatch("count", f"{len(got)} outputs, expected {len(expected)}")
    for index, (want, have) in enumerate(zip(expected, got, strict=True)):
        _check(f"output {index}", want, have, rtol, atol)


def _check(where: str, want: Any, have: Any, rtol: float, atol: float) -> None:
    if want is None or have is None:
        if want is not have:
            raise Mismatch("type", f"{where} is {_kind(have)}, expected {_kind(want)}")
    elif isinstance(want, (list, tuple)):
        if not isinstance(have, (list, tuple)):
            raise Mismatch("type", f"{where} is {_kind(have)}, expected a sequence")
        if len(want) != len(have):
            raise Mismatch("count", f"{where} has {len(have)} elements, expected {len(want)}")
        for index, (w, h) in enumerate(zip(want, have, strict=True)):
            _check(f"{where}[{index}]", w, h, rtol, atol)
    else:
        if not isinstance(have, (np.ndarray, np.generic)):
            raise Mismatch("type", f"{where} is {_kind(have)}, expected an array")
        _check_array(where, np.asarray(want), np.asarray(have), rtol, atol)


def _kind(value: Any) -> str:
    return "empty" if value is None else type(value).__name__


def _check_array(where: str, want: np.ndarray, have: np.ndarray, rtol: float, atol: float) -> None:
    if have.shape != want.shape:
        raise Mismatch("shape", f"{where} has shape {have.shape}, expected {want.shape}")
    if _is_text(want) != _is_text(have) or (not _is_text(want) and have.dtype != want.dtype):
        raise Mismatch("dtype", f"{where} has dtype {have.dtype}, expected {want.dtype}")
    if _is_text(want):
        equal = np.asarray(want.astype(object) == have.astype(object), bool)
    elif _is_exact(want.dtype):
        equal = want.astype(np.int64) == have.astype(np.int64) if want.dtype.kind == "V" else want == have
    else:
        if want.dtype == ml_dtypes.bfloat16:
            rtol = max(rtol, 2**-6)
        if want.dtype.kind != "c":
            common = np.float64 if want.dtype == np.float64 else np.float32
            want, have = want.astype(common), have.astype(common)
        with np.errstate(all="ignore"):
            equal = np.isclose(have, want, rtol=rtol, atol=atol, equal_nan=True)
    if not np.all(equal):
        _report(where, want, have, np.asarray(equal))


def _is_text(array: np.ndarray) -> bool:
    return array.dtype.kind in "OUS"


def _is_exact(dtype: np.dtype) -> bool:
    return dtype.kind in "biu" or dtype in (ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.int2, ml_dtypes.uint2)


def _report(where: str, want: np.ndarray, have: np.ndarray, equal: np.ndarray) -> None:
    wrong = ~equal
    position = tuple(int(i) for i in np.argwhere(wrong)[0]) if wrong.ndim else ()
    text = f"{where}: {int(wrong.sum())} of {wrong.size} elements differ; at {position} {have[position]!r}, expected {want[position]!r}"
    if want.dtype.kind == "f":
        with np.errstate(all="ignore"):
            difference = np.abs(have.astype(np.float64) - want.astype(np.float64))
        finite = difference[np.isfinite(difference)]
        text += f"; largest difference {float(finite.max()) if finite.size else float('nan'):.3g}"
    raise Mismatch("value", text)
