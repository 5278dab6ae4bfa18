"""Softmax, LogSoftmax and Hardmax (ONNX operator specification, opset 13): along any axis; the result has the type of the input."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from ...ir import loops as ir
from ...ir.graph import Type
from .builder import Builder
from .context import Op, Operand, Result
from .infer import InferContext
from .lines import LARGE, Index, Line, lines
from .registry import nest

LONG = 256
"""Elements of a line from which on the last ones, fewer than a vector, may be done one by one."""


def _axis(context: InferContext) -> int:
    return context.axis(context.attr("axis", -1), context.rank(0))


def _infer(context: InferContext) -> Type:
    _axis(context)
    return context.tensor(0)


@nest("Softmax", infer=_infer, prologue=True, epilogue=True)
def softmax(op: Op, b: Builder) -> None:
    """exp(x - max) / sum(exp(x - max)): the maximum, the exponentials and their sum, the scaling, each line in cache meanwhile.

    The maximum may pass over NaN: the sum does not.
    """
    x, y = op.input(0), op.output(0)
    with lines(b, x, (_axis(op),)) as line:
        read, kept = line.reader(x)
        highest = line.reduce("highest", "max_fast", lambda k: x(*line.at(k)), keep=kept)
        powers = kept or (line.stored(y) if _streams(line, y) else line.keep("powers", x.dtype))
        total = line.reduce("total", "add", _power(line, x, read, highest), keep=powers)
        scale = b.let("scale", 1.0 / total)
        with line.each() as k:
            y.store(line.at(k), powers(k) * scale)


@nest("LogSoftmax", infer=_infer, prologue=True, epilogue=True)
def log_softmax(op: Op, b: Builder) -> None:
    """(x - max) - log(sum(exp(x - max)))"""
    x, y = op.input(0), op.output(0)
    with lines(b, x, (_axis(op),)) as line:
        read, kept = line.reader(x)
        highest = line.reduce("highest", "max_fast", lambda k: x(*line.at(k)), keep=kept)
        total = line.reduce("total", "add", _power(line, x, read, highest))
        shift = b.let("shift", ir.unary("log", total))
        with line.each() as k:
            y.store(line.at(k), (read(k) - highest) - shift)


@nest("Hardmax", infer=_infer, prologue=True, epilogue=True)
def hardmax(op: Op, b: Builder) -> None:
    """1 at the first maximum of each line, 0 elsewhere."""
    x, y = op.input(0), op.output(0)
    with lines(b, x, (_axis(op),)) as line:
        read, kept = line.reader(x)
        highest = line.reduce("highest", "max", lambda k: x(*line.at(k)), keep=kept)
        first = first_where(line, lambda k: read(k).eq(highest) | ir.unary("isnan", read(k)))
        with line.each() as k:
            y.store(line.at(k), ir.select(k[0].eq(first), ir.Const(1.0, y.dtype), 0.0))


def _power(line: Line, x: Operand, read: Callable[[Index], ir.Expr], highest: ir.Expr) -> Callable[[Index], ir.Expr]:
    """exp(x - max) of an element of the line."""

    def power(k: Index) -> ir.Expr:
        line.ahead(x, k)
        return ir.unary("exp_down", read(k) - highest)

    return power


def _streams(line: Line, y: Result) -> bool:
    """Whether the exponentials had better lie where the result goes than in memory of their own: the first store to it takes its time,
    which computing them hides."""
    plain = y.buffer is not None and y.element is y.dtype and line.lane is None
    return plain and ir.hint(line.length) >= LONG and prod(y.sizes) >= LARGE


def first_where(line: Line, holds: Callable[[Index], ir.Expr], *, last: bool = False) -> ir.Expr:
    """The first (or last) position of a line along one axis at which ``holds(k)``; 0 where it holds nowhere."""
    nowhere = ir.Const(-1) if last else line.length

    def position(k: Index) -> ir.Expr:
        return ir.select(holds(k), k[0], nowhere)

    return line.reduce("position", "max" if last else "min", position, first=nowhere)
