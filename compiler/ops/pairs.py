"""Small integers in pairs: two neighbours along an axis as the halves of one int32, for sums of products of 16-bit numbers.

x86 multiplies pairs and adds the products in one instruction (PMADDWD), twice as many as there are floats in a vector. The nodes
``loopnest.MatMul`` and ``loopnest.Conv`` are the operators of these names on such pairs: ``passes.integer_products`` makes them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...ir import dtypes
from ...ir import loops as ir
from ...ir.graph import Node, TensorType
from .context import Op
from .infer import InferContext
from .registry import injective

DOMAIN = "loopnest"


def is_of_pairs(node: Node) -> bool:
    """Whether a node multiplies pairs."""
    return node.domain == DOMAIN and node.op in ("MatMul", "Conv")


def is_view(node: Node) -> bool:
    """Whether a node makes pairs of numbers of 16 bits, which may lie side by side in memory."""
    return node.domain == DOMAIN and node.op == "Paired"


def product_of(node: Node) -> Callable[[ir.Expr, ir.Expr], ir.Expr]:
    """What is summed of two elements in a product ``node``."""
    return (lambda a, b: ir.Binary("dot16", a, b)) if is_of_pairs(node) else (lambda a, b: a * b)


def pairs_of(shape: tuple[int, ...], axis: int, groups: int) -> tuple[int, ...]:
    """The shape of pairs of elements of each of ``groups`` parts of an axis; an odd last one has zero as its neighbour."""
    each = -(-(shape[axis] // groups) // 2)
    return (*shape[:axis], groups * each, *shape[axis + 1 :])


def in_pairs(array: np.ndarray, axis: int, groups: int = 1) -> np.ndarray:
    """int32 numbers that fit into 16 bits, in pairs."""
    axis %= array.ndim
    shape = pairs_of(array.shape, axis, groups)
    parts = array.reshape(*array.shape[:axis], groups, -1, *array.shape[axis + 1 :])
    parts = np.pad(parts, [(0, parts.shape[i] % 2 if i == axis + 1 else 0) for i in range(parts.ndim)])
    low, high = (parts.take(range(first, parts.shape[axis + 1], 2), axis + 1) for first in (0, 1))
    return np.ascontiguousarray((low & 0xFFFF) | (high << 16)).reshape(shape)


def _infer(context: InferContext) -> TensorType:
    shape = context.shape(0)
    return TensorType(
        dtypes.int32, pairs_of(shape, context.axis(context.attr("axis", 0), len(shape)), context.attr("group", 1))
    )


@injective("Pairs", domain=DOMAIN, infer=_infer)
def pairs(op: Op, index: tuple[ir.Expr, ...]) -> ir.Expr:
    """y[.., j, ..] = (x[.., 2j, ..] - zero) | (x[.., 2j + 1, ..] - zero) << 16, where the zero point (input 1) broadcasts to x"""
    x, groups = op.input(0), op.attr("group", 1)
    axis = op.axis(op.attr("axis", 0), len(index))
    extent = x.sizes[axis] // groups
    each = -(-extent // 2)
    group, place = (ir.ZERO, index[axis]) if groups == 1 else (index[axis] // each, index[axis] % each)

    def half(offset: int) -> ir.Expr:
        at = (*index[:axis], group * extent + (place * 2 + offset), *index[axis + 1 :])
        value = ir.cast(x(*at), dtypes.int32)
        if op.has(1):
            zero = op.input(1)
            own = (ir.ZERO if size == 1 else i for size, i in zip(zero.sizes, at[len(at) - zero.rank :], strict=True))
            value = value - ir.cast(zero(*own), dtypes.int32)
        return ir.guarded(place * 2 + offset < extent, value, 0) if offset and extent % 2 else value

    return (half(0) & 0xFFFF) | ir.Binary("shl", half(1), ir.Const(16, dtypes.int32))


injective("Paired", domain=DOMAIN, infer=_infer, prologue=False)(pairs)
"""``Pairs`` of int16 without a zero point: the same memory where neighbours along the axis lie side by side (see ``layout``)."""
