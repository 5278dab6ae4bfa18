"""Einsum (ONNX operator specification, opset 28): sums of products by index letters, as NumPy's ``einsum``.

A letter twice in one operand takes its diagonal, "..." stands for axes that broadcast, letters missing in the result are summed over.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import reduce

from ...ir import loops as ir
from ...ir.graph import TensorType
from .context import Op, Reduce
from .infer import InferContext
from .registry import reduction


@dataclass(frozen=True)
class Equation:
    """The labels of the axes of each operand and of the result; broadcast axes are labelled by their number from the right."""

    operands: tuple[tuple[str, ...], ...]
    result: tuple[str, ...]
    sizes: dict[str, int]

    @property
    def summed(self) -> tuple[str, ...]:
        return tuple(label for label in self.sizes if label not in self.result)


def parse(context: InferContext) -> Equation:
    """The equation of a node; raises ``ModelError`` where it is malformed or does not suit the operands."""
    text = str(context.attr("equation", "")).replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != context.n_inputs:
        raise context.fail(f"equation {text!r} is for {len(terms)} operands, not for {context.n_inputs}")
    operands = tuple(_labels(context, term, context.rank(i)) for i, term in enumerate(terms))
    sizes: dict[str, int] = {}
    for i, labels in enumerate(operands):
        for label, extent in zip(labels, context.shape(i), strict=True):
            if sizes.setdefault(label, extent) == 1:
                sizes[label] = extent
            elif extent not in (1, sizes[label]):
                raise context.fail(f"equation {text!r}: axis {label!r} has {sizes[label]} elements and {extent}")
    dots = sorted((label for label in sizes if label.isdigit()), key=int, reverse=True)
    if arrow:
        result = tuple(_letters(context, right, dots))
    else:
        counts = Counter(label for labels in operands for label in labels if not label.isdigit())
        result = (*dots, *sorted(label for label, count in counts.items() if count == 1))
    if len(set(result)) != len(result) or any(label not in sizes for label in result):
        raise context.fail(f"equation {text!r}: the result repeats an axis, or has one that no operand has")
    return Equation(operands, result, sizes)


def _labels(context: InferContext, term: str, rank: int) -> tuple[str, ...]:
    letters = term.replace("...", "")
    dots = rank - len(letters)
    if dots < 0 or (dots and "..." not in term):
        raise context.fail(f"term {term!r} of the equation is not for a tensor of rank {rank}")
    return tuple(_letters(context, term, [str(i) for i in reversed(range(dots))]))


def _letters(context: InferContext, term: str, dots: list[str]) -> list[str]:
    before, ellipsis, after = term.partition("...")
    if not (before + after).isalpha() and before + after:
        raise context.fail(f"term {term!r} of the equation holds something else than letters")
    return [*before, *(dots if ellipsis else []), *after]


def _infer(context: InferContext) -> TensorType:
    equation = parse(context)
    return TensorType(context.dtype(0), tuple(equation.sizes[label] for label in equation.result))


@reduction("Einsum", infer=_infer)
def einsum(op: Op, index: tuple[ir.Expr, ...]) -> Reduce:
    equation = parse(op)
    extents: dict[str, ir.Expr] = {}
    for i, labels in enumerate(equation.operands):
        for label, extent, size in zip(labels, op.input(i).shape, op.input(i).sizes, strict=True):
            if size == equation.sizes[label]:
                extents[label] = extent
    place = dict(zip(equation.result, index, strict=True))

    def term(*inner: ir.Expr) -> ir.Expr:
        at = place | dict(zip(equation.summed, inner, strict=True))
        factors: list[ir.Expr] = []
        for i, labels in enumerate(equation.operands):
            x = op.input(i)
            factors.append(x(*(ir.ZERO if size == 1 else at[label] for label, size in zip(labels, x.sizes, strict=True))))
        return reduce(lambda a, b: a * b, factors)

    return Reduce("add", tuple((f"k_{label}", extents[label]) for label in equation.summed), term)
