"""Random operators (ONNX operator specification): every element has numbers of its own, a function of the seed and of its place.

The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011), whose counter is the
element's number: no state, any order, any number of workers, the same result. Without the attribute ``seed``, each call draws its own.
"""

from __future__ import annotations

import math
import struct

from ...ir import dtypes
from ...ir import loops as ir
from ...ir.dtypes import DType
from ...ir.graph import TensorType
from ..seeds import seed_input
from .builder import Builder
from .context import Op
from .infer import InferContext
from .registry import injective, nest

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
U32, U64 = dtypes.uint32, dtypes.uint64


def seed_of(op: Op) -> ir.Expr:
    """The seed as int64: the bits of the attribute, or an input that differs from call to call."""
    seed = op.attr("seed")
    if seed is None:
        return op.input(seed_input(op.node.op))(ir.ZERO)
    return ir.Const(struct.unpack("<I", struct.pack("<f", seed))[0])


def philox(seed: ir.Expr, counter: ir.Expr, stream: int = 0) -> tuple[ir.Expr, ir.Expr, ir.Expr, ir.Expr]:
    """Four uniform uint32 for an int64 seed and counter."""

    def const(value: int) -> ir.Expr:
        return ir.Const(value, U32)

    keys = [ir.cast(seed, U32), ir.cast(seed // (1 << 32), U32)]
    words = [ir.cast(counter, U32), ir.cast(counter // (1 << 32), U32), const(stream), const(0)]
    for _ in range(_ROUNDS):
        (low0, high0), (low1, high1) = (_multiply(words[2 * i], _MULTIPLIERS[i]) for i in range(2))
        words = [high1 ^ words[1] ^ keys[0], low1, high0 ^ words[3] ^ keys[1], low0]
        keys = [key + const(step) for key, step in zip(keys, _WEYL, strict=True)]
    return words[0], words[1], words[2], words[3]


def _multiply(x: ir.Expr, factor: int) -> tuple[ir.Expr, ir.Expr]:
    """The low and the high half of a 64-bit product."""
    product = ir.cast(x, U64) * ir.Const(factor, U64)
    return ir.cast(product, U32), ir.cast(ir.Binary("shr", product, ir.Const(32, U64)), U32)


def unit(high: ir.Expr, low: ir.Expr, dtype: DType, *, positive: bool = False) -> ir.Expr:
    """A uniform float in [0, 1) from 24 bits (float64: from 53 bits of two words); with ``positive`` in (0, 1]."""
    bits = 53 if dtype is dtypes.float64 else 24
    whole = ir.Binary("shr", high, ir.Const(8, U32))
    number = ir.cast(whole, dtypes.int32)
    if bits == 53:
        rest = ir.cast(ir.Binary("shr", low, ir.Const(3, U32)), dtypes.int64)
        number = ir.cast(number, dtypes.int64) * (1 << 29) + rest
    value = ir.cast(number, dtype)
    return (value + 1.0 if positive else value) * 2.0**-bits


def _normal(seed: ir.Expr, counter: ir.Expr, dtype: DType) -> ir.Expr:
    """A standard normal number (Box and Muller 1958)."""
    a, b, c, d = philox(seed, counter)
    radius = ir.unary("sqrt", ir.unary("log", unit(a, b, dtype, positive=True)) * -2.0)
    return radius * ir.unary("cos", unit(c, d, dtype) * (2.0 * math.pi))


def _uniform(seed: ir.Expr, counter: ir.Expr, dtype: DType) -> ir.Expr:
    a, b, _, _ = philox(seed, counter)
    return unit(a, b, dtype)


def _infer(context: InferContext) -> TensorType:
    """``dtype``, or that of the input, or float32; the shape of the input or of the attribute."""
    number = context.attr("dtype", 0)
    dtype = dtypes.from_onnx(number) if number else context.dtype(0) if context.has(0) else dtypes.float32
    return TensorType(dtype, context.shape(0) if context.has(0) else tuple(context.attr("shape", ())))


def _counter(op: Op, index: tuple[ir.Expr, ...]) -> ir.Expr:
    """The number of an element of output 0."""
    place: ir.Expr = ir.ZERO
    for i, extent in zip(index, op.out_shape(), strict=True):
        place = place * extent + i
    return place


@injective("RandomUniform", "RandomUniformLike", infer=_infer)
def random_uniform(op: Op, index: tuple[ir.Expr, ...]) -> ir.Expr:
    low, high = op.attr("low", 0.0), op.attr("high", 1.0)
    return _uniform(seed_of(op), _counter(op, index), op.out_dtype()) * (high - low) + low


@injective("RandomNormal", "RandomNormalLike", infer=_infer)
def random_normal(op: Op, index: tuple[ir.Expr, ...]) -> ir.Expr:
    return _normal(seed_of(op), _counter(op, index), op.out_dtype()) * op.attr("scale", 1.0) + op.attr("mean", 0.0)


@injective("Bernoulli", infer=_infer)
def bernoulli(op: Op, index: tuple[ir.Expr, ...]) -> ir.Expr:
    """1 with the probability that the input gives, else 0."""
    probability = op.input(0)(*index)
    drawn = _uniform(seed_of(op), _counter(op, index), probability.dtype)
    return ir.cast(drawn < probability, op.out_dtype())


def _infer_multinomial(context: InferContext) -> TensorType:
    if context.rank(0) != 2:
        raise context.fail(f"Multinomial needs logits of shape (batch, classes), they have {context.shape(0)}")
    dtype = dtypes.from_onnx(context.attr("dtype", dtypes.int32.onnx))
    return TensorType(dtype, (context.shape(0)[0], context.attr("sample_size", 1)))


@nest("Multinomial", infer=_infer_multinomial)
def multinomial(op: Op, b: Builder) -> None:
    """Class numbers drawn with probabilities softmax(logits): how many partial sums of them a uniform number exceeds."""
    logits, drawn = op.input(0), op.output(0)
    (batch, classes), dtype = logits.shape, logits.dtype
    sums = b.scratch("sums", dtype, (classes,))
    seed = seed_of(op)
    with b.loop("n", batch, "parallel") as n:
        top = b.reduce("top", "max", classes, lambda c: logits(n, c))
        total = b.scalar("total", ir.wrap(0.0, dtype))
        with b.loop("c", classes) as c:
            b.assign(total, total + ir.unary("exp", logits(n, c) - top))
            b.store(sums, (c,), total)
        with b.loop("s", drawn.shape[1]) as s:
            level = b.let("level", _uniform(seed, n * drawn.shape[1] + s, dtype) * total)
            below = b.reduce("below", "add", classes, lambda c: ir.cast(sums(c) <= level, dtypes.int64))
            drawn.store((n, s), ir.cast(ir.minimum(below, classes - 1), drawn.dtype))
