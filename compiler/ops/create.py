"""Tensors made from little or nothing: ConstantOfShape, Range, EyeLike, OneHot."""

from __future__ import annotations

from math import ceil

import numpy as np

from ...ir import dtypes
from ...ir import loops as ir
from ...ir.dtypes import DType
from ...ir.graph import TensorType
from .concat import parameter
from .context import Op
from .infer import Attributes, InferContext
from .registry import injective


def fill_value(context: Attributes) -> np.ndarray:
    """The attribute ``value``, by default a float32 zero."""
    return np.asarray(context.attr("value", np.zeros(1, np.float32))).reshape(-1)


def infer_constant_of_shape(context: InferContext) -> TensorType:
    shape = context.ints(0) or ()
    if any(extent < 0 for extent in shape):
        raise context.fail(f"the shape {shape} has a negative extent")
    return TensorType(dtypes.from_numpy(fill_value(context).dtype), shape)


@injective("ConstantOfShape", infer=infer_constant_of_shape, values=(0,))
def constant_of_shape(op: Op, index: tuple[ir.Expr, ...]) -> ir.Expr:
    """y[i] = value"""
    return number(fill_value(op)[0], op.out_dtype())


def number(value: object, dtype: DType) -> ir.Const:
    """A NumPy number as a constant of ``dtype``."""
    plain = float(value) if dtype.is_float else bool(value) if dtype.kind == "bool" else int(value)  # type: ignore[call-overload]
    return ir.Const(plain, dtype)


def infer_range(context: InferContext) -> TensorType:
    values = [context.value(i) for i in range(3)]
    start, limit, delta = (np.asarray(v).reshape(-1)[0] for v in values)
    if not delta:
        raise context.fail("the step is 0")
    if context.dtype(0).is_integer:
        count = -((int(start) - int(limit)) // int(delta))
    else:
        count = ceil((float(limit) - float(start)) / float(delta))
    return TensorType(context.dtype(0), (max(0, count),))


@injective("Range", infer=infer_range, values=(0, 1, 2))
def range_(op: Op, index: tuple[ir.Expr, ...]) -> ir.Expr:
    """y[i] = start + i * delta"""
    dtype = op.out_dtype()
    start, delta = (number(np.asarray(op.value(i)).reshape(-1)[0], dtype) for i in (0, 2))
    return ir.Binary("add", start, ir.Binary("mul", ir.cast(index[0], dtype), delta))


def infer_eye_like(context: InferContext) -> TensorType:
    shape, dtype = context.shape(0), context.attr("dtype")
    if len(shape) != 2:
        raise context.fail(f"EyeLike needs a matrix, not {shape}")
    return TensorType(context.dtype(0) if dtype is None else dtypes.from_onnx(dtype), shape)


@injective("EyeLike", infer=infer_eye_like)
def eye_like(op: Op, index: tuple[ir.Expr, ...]) -> ir.Expr:
    """y[i, j] = 1 where j == i + k, else 0"""
    i, j = index
    dtype = op.out_dtype()
    return ir.select(j.eq(i + int(op.attr("k", 0))), number(1, dtype), number(0, dtype))


def infer_one_hot(context: InferContext) -> TensorType:
    depth = int(np.asarray(context.value(1)).reshape(-1)[0])
    indices = context.shape(0)
    if depth < 1:
        raise context.fail(f"depth is {depth}, expected a positive number")
    if context.shape(2) != (2,):
        raise context.fail(f"values have shape {context.shape(2)}, expected (2,)")
    axis = context.axis(context.attr("axis", -1), len(indices) + 1)
    return TensorType(context.dtype(2), (*indices[:axis], depth, *indices[axis:]))


@injective("OneHot", infer=infer_one_hot, values=(1,), prologue=False)
def one_hot(op: Op, index: tuple[ir.Expr, ...]) -> ir.Expr:
    """y[i, d] = values[1] where d == indices[i] (counted from the end where negative), else values[0]"""
    indices, values = op.input(0), op.input(2)
    axis = op.axis(op.attr("axis", -1), len(index))
    depth = parameter("depth", int(np.asarray(op.value(1)).reshape(-1)[0]))
    given = ir.cast(indices(*index[:axis], *index[axis + 1 :]), ir.INDEX)
    wanted = ir.select(given < 0, given + depth, given)
    return ir.select(index[axis].eq(wanted), values(ir.ONE), values(ir.ZERO))
