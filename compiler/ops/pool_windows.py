"""The windows of pooling: how many outputs an axis has, which input elements each sees, which of them lie inside of the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...ir import loops as ir
from ...ir.graph import TensorType
from .infer import InferContext


@dataclass(frozen=True)
class Window:
    """The windows along one axis of ``size`` elements: output ``o`` sees ``kernel`` elements from ``o * stride - before`` on,
    ``dilation`` apart."""

    kernel: int
    stride: int
    dilation: int
    before: int
    after: int
    size: ir.Expr
    out: ir.Expr

    @property
    def reach(self) -> int:
        """Elements from the first to the last of a window."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def inner(self) -> tuple[int, ir.Expr]:
        """From which output on windows lie inside of the input, and from which on they no longer do."""
        first = -(-self.before // self.stride)
        if ir.hint(self.size) + self.before < first * self.stride + self.reach:
            return 0, ir.ZERO
        return first, (self.size + (self.before - self.reach)) // self.stride + 1

    @property
    def always_inside(self) -> bool:
        first, end = self.inner
        return first == 0 and ir.hint(end) == ir.hint(self.out)

    def start(self, o: ir.Expr) -> ir.Expr:
        return o * self.stride - self.before

    def is_inside(self, o: ir.Expr) -> ir.Expr:
        start = self.start(o)
        return (start >= 0) & (start + self.reach <= self.size)

    def first(self, o: ir.Expr) -> ir.Expr:
        """The first element of the window that is inside of the input."""
        if not self.before:
            return ir.ZERO
        return ir.maximum((self.dilation - 1 - self.start(o)) // self.dilation, ir.ZERO)

    def end(self, o: ir.Expr, margin: int = 0) -> ir.Expr:
        """One past the last element of the window inside of the input, extended by ``margin``."""
        return ir.minimum((self.size + (margin + self.dilation - 1) - self.start(o)) // self.dilation, ir.Const(self.kernel))


def windows_of(context: InferContext) -> list[Window]:
    """The windows of a pooling node along each spatial axis, with extents as numbers (see ``convPoolShapeInference`` in onnx)."""
    shape = context.shape(0)
    rank = len(shape) - 2
    if rank < 1:
        raise context.fail(f"the input has shape {shape}; at least one spatial axis is required")
    kernel, strides, dilations = (_numbers(context, name, rank) for name in ("kernel_shape", "strides", "dilations"))
    before, after = _padding(context, kernel, strides, dilations)
    ceil = bool(context.attr("ceil_mode", 0))
    found: list[Window] = []
    for k, s, d, p, q, size in zip(kernel, strides, dilations, before, after, shape[2:], strict=True):
        room = size + p + q - ((k - 1) * d + 1)
        out = (room + (s - 1 if ceil else 0)) // s + 1
        if ceil and (out - 1) * s >= size + p:
            out -= 1
        if -s < room < 0 and size > 0:
            out = 1  # as ONNX Runtime has it: one window over what there is
        elif out < 0 or room < 0:
            raise context.fail(
                f"a window of {(k - 1) * d + 1} elements does not fit into {size} elements with {p} + {q} of padding"
            )
        found.append(Window(k, s, d, p, q, ir.Const(size), ir.Const(out)))
    return found


def infer_pool(context: InferContext) -> TensorType:
    """Batch and channels stay, each spatial axis has one element a window."""
    out = tuple(ir.hint(window.out) for window in windows_of(context))
    return TensorType(context.dtype(0), (*context.shape(0)[:2], *out))


def with_extents(windows: Sequence[Window], sizes: Sequence[ir.Expr], outs: Sequence[ir.Expr]) -> list[Window]:
    """The windows with extents as index expressions."""
    return [replace(w, size=size, out=out) for w, size, out in zip(windows, sizes, outs, strict=True)]


def _numbers(context: InferContext, name: str, rank: int) -> list[int]:
    """An attribute with a positive number for each spatial axis; all but the kernel are 1 by default."""
    numbers = context.attr(name)
    if numbers is None and name != "kernel_shape":
        return [1] * rank
    if numbers is None or len(numbers) != rank or min(numbers) < 1:
        raise context.fail(f"{name} is {numbers}; a positive number for each of {rank} spatial axes is required")
    return [int(n) for n in numbers]


def _padding(context: InferContext, kernel: list[int], strides: list[int], dilations: list[int]) -> tuple[list[int], list[int]]:
    rank, pads, mode = len(kernel), context.attr("pads"), context.attr("auto_pad", "NOTSET")
    if pads is not None and mode == "NOTSET":
        if len(pads) != 2 * rank or min(pads) < 0:
            raise context.fail(f"pads is {pads}; two numbers from 0 on for each of {rank} spatial axes are required")
        return [int(p) for p in pads[:rank]], [int(p) for p in pads[rank:]]
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        return [0] * rank, [0] * rank
    total = [
        max(0, (k - 1) * d + 1 - (size % s or s))
        for k, s, d, size in zip(kernel, strides, dilations, context.shape(0)[2:], strict=True)
    ]
    small, big = [t // 2 for t in total], [t - t // 2 for t in total]
    return (small, big) if mode == "SAME_UPPER" else (big, small)
