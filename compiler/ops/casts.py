"""Conversions between dtypes: Cast, CastLike, BitCast (ONNX operator specification)."""

from __future__ import annotations

from ...ir import dtypes
from ...ir import loops as ir
from ...ir.dtypes import DType
from ...ir.graph import TensorType
from .context import Op, compute_dtype
from .infer import InferContext
from .registry import injective, pointwise


def _infer_cast(context: InferContext) -> TensorType:
    return TensorType(dtypes.from_onnx(context.attr("to", 0)), context.shape(0))


@pointwise("Cast", infer=_infer_cast)
def cast(op: Op, x: ir.Expr) -> ir.Expr:
    return convert(x, op.output_types[0].dtype, bool(op.attr("saturate", 1)), op.attr("round_mode", "up"))


@injective("CastLike", infer=lambda context: TensorType(context.dtype(1), context.shape(0)))
def cast_like(op: Op, index: tuple[ir.Expr, ...]) -> ir.Expr:
    x = op.input(0)(*index)
    return convert(x, op.output_types[0].dtype, bool(op.attr("saturate", 1)), op.attr("round_mode", "up"))


def convert(x: ir.Expr, to: DType, saturate: bool = True, round_mode: str = "up") -> ir.Expr:
    """``x`` as ``to``, held in what that is computed in. ``saturate`` is for the 8-bit floats, ``round_mode`` for float8e8m0."""
    if to is dtypes.float8e8m0 and round_mode != "up":
        return ir.cast(_exponent(ir.cast(x, dtypes.float32), saturate, round_mode), compute_dtype(to))
    return ir.cast(ir.cast(x, to, saturate=saturate and to.is_float and to.bits == 8), compute_dtype(to))


def _exponent(x: ir.Expr, saturate: bool, round_mode: str) -> ir.Expr:
    """float8e8m0, the exponent of a float32, rounded "down" or to "nearest" (half up)."""
    bits = ir.Bitcast(x, dtypes.uint32)
    code = ir.Binary("shr", bits, ir.Const(23, dtypes.uint32)) & 0xFF
    if round_mode == "nearest":
        half = (bits & 0x40_0000).ne(0)
        more = (bits & 0x3F_FFFF).ne(0) | code.ne(0)
        up = half & more & (code < (0xFE if saturate else 0xFF))
        code = code + ir.cast(up, dtypes.uint32)
    return ir.Bitcast(ir.cast(code, dtypes.uint8), dtypes.float8e8m0)


def _infer_bit_cast(context: InferContext) -> TensorType:
    source, to = context.dtype(0), dtypes.from_onnx(context.attr("to", 0))
    if source.bits != to.bits:
        raise context.fail(f"BitCast needs dtypes of one width: {source} has {source.bits} bits, {to} has {to.bits}")
    return TensorType(to, context.shape(0))


@pointwise("BitCast", infer=_infer_bit_cast)
def bit_cast(op: Op, x: ir.Expr) -> ir.Expr:
    """Whole bytes keep their bits; integers of one width convert by keeping them too, and bool counts as an integer of one byte."""
    source, to = op.dtype(0), op.output_types[0].dtype
    held = ir.cast(x, source)
    for dtype in (_bits_of(source), _bits_of(to), to):
        held = ir.cast(held, dtype) if not (held.dtype.is_float or dtype.is_float) else _as(held, dtype)
    return ir.cast(held, compute_dtype(to))


def _bits_of(dtype: DType) -> DType:
    """The unsigned integer as wide as ``dtype``."""
    return dtypes.by_name(f"uint{dtype.bits}")


def _as(x: ir.Expr, dtype: DType) -> ir.Expr:
    return x if x.dtype is dtype else ir.Bitcast(x, dtype)
