"""DFT, STFT and MelWeightMatrix (ONNX operator specification, opset 20)."""

from __future__ import annotations

from math import prod

from ...ir import dtypes
from ...ir import loops as ir
from ...ir.graph import TensorType
from .builder import Builder
from .context import Op, Operand
from .fourier import Fourier, Signal
from .infer import InferContext
from .registry import nest


def infer_dft(context: InferContext) -> TensorType:
    shape = list(context.shape(0))
    if len(shape) < 2 or shape[-1] not in (1, 2):
        raise context.fail(f"the input has shape {tuple(shape)}, its last axis must hold real (and imaginary) parts")
    axis, inverse, onesided = dft_axis(context), context.attr("inverse", 0), context.attr("onesided", 0)
    length = dft_length(context)
    if length < 1:
        raise context.fail(f"the transform has length {length}")
    shape[axis] = length // 2 + 1 if onesided and not inverse else length
    shape[-1] = 1 if onesided and inverse else 2
    return TensorType(context.dtype(0), tuple(shape))


def dft_axis(context: InferContext) -> int:
    given = context.ints(2)
    axis = context.axis(given[0] if given else -2, context.rank(0))
    if axis == context.rank(0) - 1:
        raise context.fail("the last axis holds real and imaginary parts and is not transformed")
    return axis


def dft_length(context: InferContext) -> int:
    """The length of the whole signal: given, or that of the axis (of which a one-sided spectrum has the first half)."""
    given = context.ints(1)
    if given:
        return given[0]
    extent = context.shape(0)[dft_axis(context)]
    return 2 * (extent - 1) if context.attr("onesided", 0) and context.attr("inverse", 0) else extent


@nest("DFT", infer=infer_dft, values=(1, 2))
def dft(op: Op, b: Builder) -> None:
    """y[m, k] = sum_n e^(-2 pi i k n / N) x[m, n]; the inverse with the other sign, divided by N."""
    axis, n, inverse = dft_axis(op), dft_length(op), bool(op.attr("inverse", 0))
    shape, out = op.input(0).shape, op.out_shape()
    before = [prod_of(extents[:axis]) for extents in (shape, out)]
    after = [prod_of(extents[axis + 1 : -1]) for extents in (shape, out)]
    x = op.input(0).reshape(before[0], shape[axis], after[0], shape[-1])
    y = op.output().reshape(before[1], out[axis], after[1], out[-1])
    extent, bins, parts = x.sizes[1], y.sizes[1], x.sizes[3]
    fourier = Fourier(n, x.dtype, op.table, inverse=inverse)
    with b.loop("m", before[0], "parallel") as m, b.loop("a", after[0], "parallel") as a:
        signals = [Signal(b.scratch(name, x.dtype, (2, n))) for name in ("signal", "other")]
        with b.loop("k", ir.Const(n), "vector") as k:
            if inverse and op.attr("onesided", 0):
                value = _mirrored(x, m, a, k, n, extent)
            else:
                inside = ir.TRUE if extent >= n else k < extent
                value = tuple(
                    ir.guarded(inside, x(m, k, a, part), 0) if part < parts else ir.wrap(0, x.dtype) for part in (0, 1)
                )
            signals[0].store(b, k, (value[0], value[1]))
        result = fourier.transform(b, *signals)
        scale = 1 / n if inverse else 1.0
        with b.loop("k", ir.Const(bins), "vector") as k:
            for part in range(y.sizes[3]):
                y.store((m, k, a, part), result(k)[part] * scale)


def _mirrored(x: Operand, m: ir.Expr, a: ir.Expr, k: ir.Expr, n: int, extent: int) -> tuple[ir.Expr, ...]:
    """Element ``k`` of the whole spectrum of a real signal, of which ``x`` holds the first half: X[n - k] = conj(X[k])."""
    direct = k < n // 2 + 1
    place = ir.select(direct, k, n - k)
    real, imaginary = (
        ir.guarded(place < extent, x(m, place, a, part), 0) if part < x.sizes[3] else ir.wrap(0, x.dtype) for part in (0, 1)
    )
    ends = ir.logical("or", k.eq(0), (k * 2).eq(n))
    zero = ir.wrap(0, x.dtype)
    return real, ir.select(ends, zero, ir.select(direct, imaginary, -imaginary))


def prod_of(extents: tuple[ir.Expr, ...]) -> ir.Expr:
    return prod(extents, start=ir.ONE)


def infer_stft(context: InferContext) -> TensorType:
    shape = context.shape(0)
    if len(shape) != 3 or shape[2] not in (1, 2):
        raise context.fail(f"the signal has shape {shape}, expected [batch, length, 1 or 2]")
    step, length = (context.ints(1) or (0,))[0], stft_length(context)
    if context.has(2) and context.shape(2) != (length,):
        raise context.fail(f"the window has shape {context.shape(2)}, the frames have length {length}")
    if step < 1 or not 1 <= length <= shape[1]:
        raise context.fail(f"frames of {length} every {step} elements do not fit a signal of {shape[1]}")
    onesided = context.attr("onesided", 1)
    if onesided and shape[2] == 2:
        raise context.fail("the spectrum of a complex signal is not one-sided")
    frames = 1 + (shape[1] - length) // step
    return TensorType(context.dtype(0), (shape[0], frames, length // 2 + 1 if onesided else length, 2))


def stft_length(context: InferContext) -> int:
    given = context.ints(3)
    if given:
        return given[0]
    return context.shape(2)[0] if context.has(2) else context.shape(0)[1]


@nest("STFT", infer=infer_stft, values=(1, 3))
def stft(op: Op, b: Builder) -> None:
    """y[m, f] = DFT(window * x[m, f * step : f * step + length])"""
    x, y, n, step = op.input(0), op.output(), stft_length(op), (op.ints(1) or (0,))[0]
    window = op.input(2) if op.has(2) else None
    fourier = Fourier(n, x.dtype, op.table, inverse=False)
    with b.loop("m", y.shape[0], "parallel") as m, b.loop("f", y.shape[1], "parallel") as f:
        signals = [Signal(b.scratch(name, x.dtype, (2, n))) for name in ("frame", "other")]
        with b.loop("k", ir.Const(n), "vector") as k:
            value = [x(m, f * step + k, part) if part < x.sizes[2] else ir.wrap(0, x.dtype) for part in (0, 1)]
            if window is not None:
                value = [part * window(k) for part in value]
            signals[0].store(b, k, (value[0], value[1]))
        result = fourier.transform(b, *signals)
        with b.loop("k", ir.Const(y.sizes[2]), "vector") as k:
            for part in (0, 1):
                y.store((m, f, k, part), result(k)[part])


def infer_mel(context: InferContext) -> TensorType:
    bins, length = (int((context.ints(i) or (0,))[0]) for i in (0, 1))
    return TensorType(dtypes.from_onnx(context.attr("output_datatype", 1)), (length // 2 + 1, bins))


@nest("MelWeightMatrix", infer=infer_mel, values=(0, 1, 2, 3, 4))
def mel_weight_matrix(op: Op, b: Builder) -> None:
    raise AssertionError(f"{op.node} reached lowering: its inputs are known while planning, and so is its value")
