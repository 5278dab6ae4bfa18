"""Normalizations over the trailing axes, or over the spatial axes of each channel (ONNX operator specification, opset 17 to 23).

Mean and variance are computed in two passes over data that is in cache; the narrow floats are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable

from ...ir import dtypes
from ...ir import loops as ir
from ...ir.dtypes import DType
from ...ir.graph import TensorType, Type
from .builder import Builder
from .context import Op, Operand
from .infer import InferContext, broadcast_shapes
from .lines import Index, Line, aligned, lines
from .registry import nest

_STASH: dict[int, DType] = {1: dtypes.float32, 10: dtypes.float16, 11: dtypes.float64, 16: dtypes.bfloat16}


def _first_axis(context: InferContext) -> int:
    return context.axis(context.attr("axis", -1), context.rank(0))


def _infer_layer(context: InferContext) -> list[Type]:
    shape, axis = context.shape(0), _first_axis(context)
    for i in range(1, context.n_inputs):
        if context.has(i) and broadcast_shapes(context, shape, context.shape(i)) != shape:
            raise context.fail(f"input {i} of shape {context.shape(i)} does not broadcast to {shape}")
    stash = _STASH.get(context.attr("stash_type", 1))
    if stash is None:
        raise context.fail(f"stash_type {context.attr('stash_type')} is no float type")
    reduced = TensorType(stash, (*shape[:axis], *(1 for _ in shape[axis:])))
    return [context.tensor(0), reduced, reduced]


def _mean(line: Line, name: str, term: Callable[[Index], ir.Expr], **options: object) -> ir.Expr:
    total = line.reduce(name, "add", term, **options)  # type: ignore[arg-type]
    return line.b.let(f"mean_{name}", total / ir.cast(line.length, total.dtype))


def _standardized(line: Line, x: Operand, epsilon: float) -> tuple[Callable[[Index], ir.Expr], ir.Expr, ir.Expr]:
    """(x - mean) / sqrt(variance + epsilon) by element; the mean, and 1 / sqrt(variance + epsilon)."""
    read, kept = line.reader(x)
    mean = _mean(line, "x", lambda k: x(*line.at(k)), keep=kept)

    def square(k: Index) -> ir.Expr:
        line.ahead(x, k)
        difference = line.b.let("difference", read(k) - mean)
        return difference * difference

    scale = line.b.let("scale", ir.unary("rsqrt", _mean(line, "square", square) + epsilon))
    return (lambda k: (read(k) - mean) * scale), mean, scale


@nest("LayerNormalization", infer=_infer_layer, prologue=True, epilogue=True)
def layer_normalization(op: Op, b: Builder) -> None:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the axes from ``axis`` on; outputs 1 and 2: the mean, 1 / sqrt(...)."""
    x, axis = op.input(0), _first_axis(op)
    with lines(b, x, range(axis, x.rank)) as line:
        standardized, mean, scale = _standardized(line, x, op.attr("epsilon", 1e-5))
        with line.each() as k:
            value = standardized(k) * aligned(op.input(1), line.at(k))
            if op.has(2):
                value = value + aligned(op.input(2), line.at(k))
            op.output(0).store(line.at(k), value)
        first = line.at([0] * len(line.axes))
        for i, statistic in ((1, mean), (2, scale)):
            if op.wants(i):
                op.output(i).store(first, ir.cast(statistic, op.output(i).dtype))


def _infer_rms(context: InferContext) -> TensorType:
    _infer_layer(context)
    return TensorType(context.dtype(1), context.shape(0))


@nest("RMSNormalization", infer=_infer_rms, prologue=True, epilogue=True)
def rms_normalization(op: Op, b: Builder) -> None:
    """x / sqrt(mean(x * x) + epsilon) * scale over the axes from ``axis`` on."""
    x, y = op.input(0), op.output(0)
    with lines(b, x, range(_first_axis(op), x.rank)) as line:
        kept = line.keep("x", x.dtype) if x.buffer is None else None

        def square(k: Index) -> ir.Expr:
            value = b.let("value", x(*line.at(k)))
            if kept is not None:
                kept.store(k, value)
            return value * value

        factor = b.let("factor", ir.unary("rsqrt", _mean(line, "square", square) + op.attr("epsilon", 1e-5)))
        with line.each() as k:
            value = (kept(k) if kept is not None else x(*line.at(k))) * factor
            weight = aligned(op.input(1), line.at(k))
            y.store(line.at(k), ir.cast(value, y.dtype) * ir.cast(weight, y.dtype))


def _infer_per_channel(context: InferContext) -> TensorType:
    shape = context.shape(0)
    if len(shape) < 3:
        raise context.fail(f"the input has shape {shape}; at least one spatial axis is required")
    for i in (1, 2):
        if context.shape(i) != shape[1:2]:
            raise context.fail(
                f"input {i} has shape {context.shape(i)}, one number for each of {shape[1]} channels is required"
            )
    return context.tensor(0)


@nest("InstanceNormalization", infer=_infer_per_channel, prologue=True, epilogue=True)
def instance_normalization(op: Op, b: Builder) -> None:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the spatial axes of each channel."""
    x, y = op.input(0), op.output(0)
    with lines(b, x, range(2, x.rank)) as line:
        standardized, _, _ = _standardized(line, x, op.attr("epsilon", 1e-5))
        channel = line.at([0] * len(line.axes))[1]
        weight, bias = b.let("weight", op.input(1)(channel)), b.let("bias", op.input(2)(channel))
        with line.each() as k:
            y.store(line.at(k), standardized(k) * weight + bias)


def _infer_group(context: InferContext) -> TensorType:
    groups, channels = context.attr("num_groups", 0), context.shape(0)[1]
    if groups < 1 or channels % groups:
        raise context.fail(f"{channels} channels do not fall into {groups} groups")
    return _infer_per_channel(context)


@nest("GroupNormalization", infer=_infer_group)
def group_normalization(op: Op, b: Builder) -> None:
    """(x - mean) / sqrt(variance + epsilon) over the channels of a group and their spatial axes, then scale and bias by channel."""
    groups = op.attr("num_groups", 1)
    n, c, *spatial = op.input(0).shape
    each = c // groups
    x, y = (tensor.reshape(n, ir.Const(groups), each, *spatial) for tensor in (op.input(0), op.output(0)))
    assert isinstance(x, Operand)
    with lines(b, x, range(2, x.rank)) as line:
        standardized, _, _ = _standardized(line, x, op.attr("epsilon", 1e-5))
        with line.each() as k:
            channel = line.at(k)[1] * each + k[0]
            y.store(line.at(k), standardized(k) * op.input(1)(channel) + op.input(2)(channel))  # type: ignore[union-attr]


def _infer_lp(context: InferContext) -> Type:
    context.axis(context.attr("axis", -1), context.rank(0))
    if context.attr("p", 2) not in (1, 2):
        raise context.fail(f"p is {context.attr('p')}; 1 and 2 are allowed")
    return context.tensor(0)


@nest("LpNormalization", infer=_infer_lp, prologue=True, epilogue=True)
def lp_normalization(op: Op, b: Builder) -> None:
    """x / (the sum of |x|, or the root of that of x * x, along an axis); zeros stay zeros."""
    x, y = op.input(0), op.output(0)
    with lines(b, x, (op.axis(op.attr("axis", -1), x.rank),)) as line:
        read, kept = line.reader(x)
        if kept is not None:
            with line.each() as k:
                kept.store(k, x(*line.at(k)))
        if op.attr("p", 2) == 1:
            norm = line.reduce("norm", "add", lambda k: ir.unary("abs", read(k)))
        else:
            norm = ir.unary("sqrt", line.reduce("norm", "add", lambda k: read(k) * read(k)))
        norm = b.let("length", norm)
        divisor = b.let("divisor", ir.select(norm.eq(0.0), ir.Const(1.0, norm.dtype), norm))
        with line.each() as k:
            y.store(line.at(k), read(k) / divisor)
