"""Element types: every ONNX tensor dtype as one frozen record, with its NumPy representation.

Source: the ``TensorProto.DataType`` enumeration of the ONNX specification (IR version 14).
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import Literal

import numpy as np

from .frozen import Frozen

Kind = Literal["float", "int", "uint", "bool", "complex", "string"]


class DType(Frozen):
    """One element type.

    ``name`` is the ONNX name in lower case, ``onnx`` its number in ``TensorProto.DataType``, ``bits`` the size of a value.
    """

    name: str
    onnx: int
    kind: Kind
    bits: int

    @cached_property
    def numpy(self) -> np.dtype:
        """The NumPy dtype that holds a value; ml_dtypes supplies what NumPy lacks."""
        if self.kind == "string":
            return np.dtype(object)
        name = _NUMPY_NAME.get(self.name, self.name)
        if self.name in _ML_DTYPES:
            import ml_dtypes

            return np.dtype(getattr(ml_dtypes, name))
        return np.dtype(name)

    @property
    def itemsize(self) -> int:
        """Bytes of one element in memory, where sub-byte types take one byte each."""
        return 8 if self.kind == "string" else max(1, self.bits // 8)

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        return self.kind in ("int", "uint")

    @property
    def is_numeric(self) -> bool:
        """True for what a kernel can compute on: all but strings."""
        return self.kind != "string"

    __eq__ = object.__eq__  # there is one of each
    __hash__ = object.__hash__

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"dtypes.{self.name}"

    def __reduce__(self) -> tuple[object, ...]:
        return (by_name, (self.name,))


float32 = DType("float32", 1, "float", 32)
uint8 = DType("uint8", 2, "uint", 8)
int8 = DType("int8", 3, "int", 8)
uint16 = DType("uint16", 4, "uint", 16)
int16 = DType("int16", 5, "int", 16)
int32 = DType("int32", 6, "int", 32)
int64 = DType("int64", 7, "int", 64)
string = DType("string", 8, "string", 64)
bool_ = DType("bool", 9, "bool", 8)
float16 = DType("float16", 10, "float", 16)
float64 = DType("float64", 11, "float", 64)
uint32 = DType("uint32", 12, "uint", 32)
uint64 = DType("uint64", 13, "uint", 64)
complex64 = DType("complex64", 14, "complex", 64)
complex128 = DType("complex128", 15, "complex", 128)
bfloat16 = DType("bfloat16", 16, "float", 16)
float8e4m3fn = DType("float8e4m3fn", 17, "float", 8)
float8e4m3fnuz = DType("float8e4m3fnuz", 18, "float", 8)
float8e5m2 = DType("float8e5m2", 19, "float", 8)
float8e5m2fnuz = DType("float8e5m2fnuz", 20, "float", 8)
uint4 = DType("uint4", 21, "uint", 4)
int4 = DType("int4", 22, "int", 4)
float4e2m1 = DType("float4e2m1", 23, "float", 4)
float8e8m0 = DType("float8e8m0", 24, "float", 8)
uint2 = DType("uint2", 25, "uint", 2)
int2 = DType("int2", 26, "int", 2)

ALL: tuple[DType, ...] = tuple(value for value in list(globals().values()) if isinstance(value, DType))

_NUMPY_NAME = {
    "float8e4m3fn": "float8_e4m3fn",
    "float8e4m3fnuz": "float8_e4m3fnuz",
    "float8e5m2": "float8_e5m2",
    "float8e5m2fnuz": "float8_e5m2fnuz",
    "float4e2m1": "float4_e2m1fn",
    "float8e8m0": "float8_e8m0fnu",
}
_ML_DTYPES = {"bfloat16", "uint4", "int4", "uint2", "int2", *_NUMPY_NAME}
_BY_ONNX = {dtype.onnx: dtype for dtype in ALL}
_BY_NAME = {dtype.name: dtype for dtype in ALL}


def by_name(name: str) -> DType:
    """The dtype called ``name``; ``KeyError`` when there is none."""
    return _BY_NAME[name]


def from_onnx(number: int) -> DType:
    """The dtype of an ONNX ``TensorProto.DataType`` number; ``KeyError`` when there is none."""
    return _BY_ONNX[number]


def from_numpy(dtype: np.dtype | type) -> DType:
    """The dtype that a NumPy (or ml_dtypes) dtype holds; ``KeyError`` when there is none."""
    found = _from_numpy(np.dtype(dtype))
    if found is None:
        raise KeyError(f"no ONNX dtype holds NumPy's {np.dtype(dtype)}")
    return found


@cache
def _from_numpy(dtype: np.dtype) -> DType | None:
    if dtype.kind in "OUST":
        return string
    for candidate in ALL:
        if candidate.name == dtype.name or _NUMPY_NAME.get(candidate.name) == dtype.name:
            return candidate
    return None
