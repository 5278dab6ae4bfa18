"""Linear quantization (ONNX operator specification), y = saturate(round(x / scale) + zero_point), and back; products of quantized integers.

A scale is one number, or one per index of an axis, or one per block of ``block_size`` indices of an axis; zero points have its shape.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ...ir import dtypes
from ...ir import loops as ir
from ...ir.dtypes import DType
from ...ir.graph import TensorType
from .builder import Builder
from .context import Op
from .convolution import infer_conv
from .infer import InferContext, broadcast
from .matmul import infer_matmul
from .pairs import DOMAIN
from .registry import injective, nest, pointwise


def _check_scale(context: InferContext) -> None:
    """The shape of the scale (input 1) must be one of the three forms, that of the zero point (input 2) the same, or both one number."""
    shape, scale = context.shape(0), context.shape(1)
    if context.has(2) and context.shape(2) != scale and not prod(context.shape(2)) == prod(scale) == 1:
        raise context.fail(f"the scale has shape {scale}, the zero point {context.shape(2)}")
    if all(extent == 1 for extent in scale):
        return
    axis, block = context.axis(context.attr("axis", 1), len(shape)), context.attr("block_size", 0)
    if block:
        expected = tuple(-(-n // block) if i == axis else n for i, n in enumerate(shape))
    else:
        expected = (shape[axis],)
    if scale != expected:
        raise context.fail(f"the scale has shape {scale}, expected {expected} for input {shape} and axis {axis}")


def _of_element(op: Op, i: int, index: tuple[ir.Expr, ...]) -> ir.Expr:
    """The scale or zero point of an element."""
    operand, block = op.input(i), op.attr("block_size", 0)
    if all(size == 1 for size in operand.sizes):
        return operand(*(ir.ZERO for _ in operand.sizes))
    axis = op.axis(op.attr("axis", 1), len(index))
    if not block:
        return operand(index[axis])
    return operand(*(place // block if at == axis else place for at, place in enumerate(index)))


def _attribute_dtype(context: InferContext, name: str) -> DType | None:
    number = context.attr(name, 0)
    return dtypes.from_onnx(number) if number else None


def _infer_quantize(context: InferContext) -> TensorType:
    _check_scale(context)
    wanted = _attribute_dtype(context, "output_dtype")
    if context.has(2):
        dtype = context.dtype(2)
        if wanted not in (None, dtype):
            raise context.fail(f"output_dtype is {wanted}, the zero point is {dtype}")
    else:
        dtype = wanted or dtypes.uint8
    return TensorType(dtype, context.shape(0))


@injective("QuantizeLinear", infer=_infer_quantize)
def quantize_linear(op: Op, index: tuple[ir.Expr, ...]) -> ir.Expr:
    """The quotient is rounded to ``precision``, by default that of the scale, before it is rounded to a whole number (ties to even)."""
    to = op.output_types[0].dtype
    x, scale = (ir.cast(value, dtypes.float32) for value in (op.input(0)(*index), _of_element(op, 1, index)))
    quotient = x / scale
    precision = _attribute_dtype(op, "precision") or op.dtype(1)
    if precision in (dtypes.float16, dtypes.bfloat16):
        quotient = ir.cast(ir.cast(quotient, precision), dtypes.float32)
    value = ir.unary("round", quotient) if to.is_integer else quotient
    if op.has(2):
        value = value + ir.cast(_of_element(op, 2, index), dtypes.float32)
    return ir.cast(value, to, saturate=to.is_integer or bool(op.attr("saturate", 1)))


def _infer_levels(context: InferContext) -> TensorType:
    return TensorType(dtypes.int16, broadcast(context).shape)


@pointwise("Levels", domain=DOMAIN, infer=_infer_levels)
def levels(op: Op, x: ir.Expr, scale: ir.Expr | None = None) -> ir.Expr:
    """The rounded quotient of x and a scale (by default 1) from ``low`` to ``high``: what QuantizeLinear adds its zero point to."""
    value = ir.unary("round", x if scale is None else x / scale)
    low, high = (ir.wrap(float(op.attr(name, 0)), value.dtype) for name in ("low", "high"))
    value = ir.select(value > low, value, low)  # a NaN is the lowest one
    return ir.cast(ir.select(value < high, value, high), dtypes.int16)


def _infer_dequantize(context: InferContext) -> TensorType:
    _check_scale(context)
    return TensorType(_attribute_dtype(context, "output_dtype") or context.dtype(1), context.shape(0))


@injective("DequantizeLinear", infer=_infer_dequantize)
def dequantize_linear(op: Op, index: tuple[ir.Expr, ...]) -> ir.Expr:
    """(x - zero_point) * scale"""
    value = op.input(0)(*index)
    if op.has(2):
        between = dtypes.float32 if value.dtype.is_float else dtypes.int32
        value = ir.cast(value, between) - ir.cast(_of_element(op, 2, index), between)
    return ir.cast(value, dtypes.float32) * ir.cast(_of_element(op, 1, index), dtypes.float32)


def infer_matmul_integer(context: InferContext) -> TensorType:
    product = infer_matmul(context)
    for i in (0, 1):
        if context.has(2 + i):
            zeros, shape = context.shape(2 + i), context.shape(i)
            aligned = _column(zeros) if i == 0 else zeros
            if len(aligned) > len(shape) or any(z not in (1, n) for z, n in zip(aligned[::-1], shape[::-1], strict=False)):
                raise context.fail(f"the zero point of input {i} has shape {zeros}, which does not fit {shape}")
    return TensorType(dtypes.int32, product.shape)


def _column(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Zero points of the left matrix given as a vector are those of its rows."""
    return (*shape, 1) if len(shape) == 1 and shape != (1,) else shape


def infer_conv_integer(context: InferContext) -> TensorType:
    product = infer_conv(replace(context, types=context.types[:2]))
    zeros, filters = (context.shape(i) if context.has(i) else () for i in (2, 3))
    if prod(zeros) != 1:
        raise context.fail(f"the zero point of the input has shape {zeros}, expected one number")
    if prod(filters) != 1 and filters != context.shape(1)[:1]:
        raise context.fail(f"the zero point of the weight has shape {filters}, expected {context.shape(1)[:1]}")
    return TensorType(dtypes.int32, product.shape)


@nest("MatMulInteger", infer=infer_matmul_integer)
@nest("ConvInteger", infer=infer_conv_integer)
def whole(op: Op, b: Builder) -> None:
    raise AssertionError(f"{op.node} reached lowering as a whole: passes.integer_products takes it apart")
