"""Transposed convolution (ONNX ConvTranspose) in gather form: sub-pixel convolutions.

Output elements that are ``stride`` apart meet the same taps of the weight, so each of the ``stride`` phases of an axis is a dense
convolution with stride 1 over a grid of its own (Shi et al., "Is the deconvolution layer the same as a convolutional layer?", 2016):

    y[o] = sum_k x[(o + pad - k * dilation) / stride] * w[k]           where the division leaves no remainder
    y[q * stride + phase] = sum_t x[q + offset - t * back] * w[first + t * step]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import gcd

from ...ir import loops as ir
from ...ir.graph import TensorType
from .context import Op, Part, Reduce
from .convolution import kernel_extents, window
from .infer import InferContext
from .registry import reduction_by_parts


def infer_conv_transpose(context: InferContext) -> TensorType:
    x, w = context.shape(0), context.shape(1)
    groups = context.attr("group", 1)
    if len(x) < 3 or len(w) != len(x) or w[0] != x[1] or w[0] % groups:
        raise context.fail(f"weight {w} with {groups} groups does not fit the input {x}")
    if context.has(2) and context.shape(2) != (w[1] * groups,):
        raise context.fail(f"the bias has shape {context.shape(2)}, expected {(w[1] * groups,)}")
    _, sizes = transposed_padding(context, x[2:])
    return TensorType(context.dtype(0), (x[0], w[1] * groups, *sizes))


def transposed_padding(context: InferContext, sizes: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Padding before each spatial axis, and the output's spatial extents (ONNX ConvTranspose: output_shape, output_padding, auto_pad)."""
    rank = len(sizes)
    _, dilated = kernel_extents(context)
    strides = window(context, "strides", rank)
    extra = tuple(context.attr("output_padding") or (0,) * rank)
    for name, count in (("output_padding", rank), ("pads", 2 * rank)):
        given = tuple(context.attr(name, ()))
        if len(given) not in (0, count):
            raise context.fail(f"{name} is {given}, expected {count} numbers")
    full = [s * (n - 1) + e + k for n, s, e, k in zip(sizes, strides, extra, dilated, strict=True)]
    mode, wanted = context.attr("auto_pad", "NOTSET"), context.attr("output_shape")
    if wanted is None and mode not in ("SAME_UPPER", "SAME_LOWER"):
        pads = tuple(context.attr("pads") or (0,) * (2 * rank)) if mode != "VALID" else (0,) * (2 * rank)
        return pads[:rank], tuple(f - p - q for f, p, q in zip(full, pads[:rank], pads[rank:], strict=True))
    shape = tuple(wanted)[-rank:] if wanted is not None else tuple(n * s for n, s in zip(sizes, strides, strict=True))
    total = [max(0, f - o) for f, o in zip(full, shape, strict=True)]
    before = tuple(t - t // 2 if mode != "SAME_UPPER" else t // 2 for t in total)
    return before, shape


@dataclass(frozen=True)
class Phases:
    """Phases of one axis with as many outputs and taps: for i < ``several``, the outputs q * stride + ``phase`` + i for q < ``count``. Tap
    t < ``taps`` is ``first`` + i + t * ``step`` of the weight, and reads the input at q + ``offset`` - t * ``back``."""

    several: int
    phase: int
    count: int
    taps: int
    first: int
    step: int
    offset: int
    back: int
    cycle: int = 0
    """If not 0, the phases come in the order of their first taps: number i is (phase + i) % cycle, and reads from offset + (the carry)."""

    def place(self, i: ir.Expr) -> ir.Expr:
        """Which phase number ``i`` is."""
        return ir.mod(i + self.phase, ir.Const(self.cycle)) if self.cycle else i + self.phase

    def start(self, i: ir.Expr) -> ir.Expr:
        """The offset of phase number ``i``."""
        if not self.cycle:
            return ir.Const(self.offset)
        return self.offset - ir.floordiv(i + self.phase, ir.Const(self.cycle))


@dataclass(frozen=True)
class Axis:
    """One spatial axis: extents of input, output and weight, and how they meet."""

    size: int
    out: int
    kernel: int
    stride: int
    dilation: int
    pad: int

    def phases(self) -> list[Phases]:
        """Each phase."""
        common = gcd(self.stride, self.dilation)
        step, back = self.stride // common, self.dilation // common
        found: list[Phases] = []
        for phase in range(min(self.stride, self.out)):
            count = (self.out - phase + self.stride - 1) // self.stride
            meets = (k for k in range(min(step, self.kernel)) if (phase + self.pad - k * self.dilation) % self.stride == 0)
            first = next(meets, None)
            taps = 0 if first is None else (self.kernel - first + step - 1) // step
            offset = (phase + self.pad - (first or 0) * self.dilation) // self.stride
            found.append(Phases(1, phase, count, taps, first or 0, step, offset, back))
        return found

    def runs(self) -> list[Phases]:
        """All phases, those together that one loop can serve."""
        if self.stride > 1 and self.dilation == 1 and self.kernel % self.stride == 0 and self.out % self.stride == 0:
            taps, count, phase = self.kernel // self.stride, self.out // self.stride, -self.pad % self.stride
            offset = (self.pad + phase) // self.stride
            return [Phases(self.stride, phase, count, taps, 0, self.stride, offset, 1, cycle=self.stride)]
        found: list[Phases] = []
        for phase in self.phases():
            last = found[-1] if found else None
            if last and replace(last, several=1, phase=phase.phase, first=last.first + last.several) == phase:
                found[-1] = replace(last, several=last.several + 1)
            else:
                found.append(phase)
        return found

    def reach(self) -> tuple[int, int]:
        """How far the input is read before its first element and behind its last one."""
        used = [p for p in self.phases() if p.taps]
        before = max((p.back * (p.taps - 1) - p.offset for p in used), default=0)
        after = max((p.count - 1 + p.offset - (self.size - 1) for p in used), default=0)
        return max(0, before), max(0, after)


def axes_of(context: InferContext) -> list[Axis]:
    """The spatial axes of a ConvTranspose."""
    sizes = context.shape(0)[2:]
    before, out = transposed_padding(context, sizes)
    strides, dilations = window(context, "strides", len(out)), window(context, "dilations", len(out))
    rows = zip(sizes, out, context.shape(1)[2:], strides, dilations, before, strict=True)
    return [_one_phase_per_tap(Axis(*row)) for row in rows]


def _one_phase_per_tap(axis: Axis) -> Axis:
    """Of a single input element any stride may be assumed: with the kernel's extent every output is a phase and meets its one tap."""
    if axis.size == 1 and axis.dilation == 1 and axis.out == axis.kernel and axis.pad == 0:
        return replace(axis, stride=axis.kernel)
    return axis


@reduction_by_parts("ConvTranspose", infer=infer_conv_transpose)
def conv_transpose(op: Op) -> list[Part]:
    """y[n, c, q * stride + phase] = bias[c] + sum_{i, t} x[n, i, q + offset - t * back] * w[i, c, first + t * step], phase by phase"""
    axes = axes_of(op)
    return [_part(op, axes, runs) for runs in product(*(axis.runs() for axis in axes))]


def _part(op: Op, axes: Sequence[Axis], runs: Sequence[Phases]) -> Part:
    """A grid of batch, channels, phases of each axis, and outputs of each axis."""
    middle = 2 + len(axes)

    def index(place: Sequence[ir.Expr]) -> tuple[ir.Expr, ...]:
        each = zip(place[2:middle], place[middle:], axes, runs, strict=True)
        return (*place[:2], *(q * axis.stride + run.place(i) for i, q, axis, run in each))

    def define(*place: ir.Expr) -> Reduce:
        return _convolution(op, axes, runs, place)

    return Part((*op.out_sizes()[:2], *(run.several for run in runs), *(run.count for run in runs)), index, define)


def _convolution(op: Op, axes: Sequence[Axis], runs: Sequence[Phases], place: Sequence[ir.Expr]) -> Reduce:
    """One element of a grid."""
    x, w = op.input(0), op.input(1)
    (n, c), numbers, out = place[:2], place[2 : 2 + len(axes)], place[2 + len(axes) :]
    before, after = zip(*(axis.reach() for axis in axes), strict=True)
    groups = op.attr("group", 1)
    per_group_in, per_group_out = w.sizes[0] // groups, w.sizes[1]
    group = ir.ZERO if groups == 1 else c // per_group_out
    channel = c if groups == 1 else c - group * per_group_out

    def term(i: ir.Expr, *taps: ir.Expr) -> ir.Expr:
        source = group * per_group_in + i
        at = [q + run.start(number) - t * run.back for q, run, number, t in zip(out, runs, numbers, taps, strict=True)]
        kernel = [number + run.first + t * run.step for run, number, t in zip(runs, numbers, taps, strict=True)]
        return x.padded((n, source, *at), (0, 0, *before), (0, 0, *after)) * w(source, channel, *kernel)

    def finish(total: ir.Expr) -> ir.Expr:
        return total + op.input(2)(c) if op.has(2) else total

    if any(run.taps == 0 for run in runs):
        return Reduce("add", (), lambda: ir.wrap(0, x.dtype), finish)
    taps = [(f"t{i}", run.taps) for i, run in enumerate(runs)]
    return Reduce("add", (("ci", per_group_in), *taps), term, finish)
