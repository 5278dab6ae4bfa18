"""Matrix multiplication: MatMul (batched, broadcast) and Gemm."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...ir import loops as ir
from ...ir.graph import TensorType
from .context import Op, Operand, Reduce
from .infer import InferContext, broadcast_shapes
from .pairs import product_of
from .registry import reduction


def infer_matmul(context: InferContext) -> TensorType:
    """numpy.matmul: the last two axes are matrices, a vector gets an axis of one for the product."""
    a, b = context.shape(0), context.shape(1)
    if not a or not b:
        raise context.fail("MatMul needs operands of rank 1 or more")
    left = (1, *a) if len(a) == 1 else a
    right = (*b, 1) if len(b) == 1 else b
    if left[-1] != right[-2]:
        raise context.fail(f"cannot multiply {a} by {b}: inner extents {left[-1]} and {right[-2]} differ")
    batch = broadcast_shapes(context, left[:-2], right[:-2])
    shape = (*batch, *(left[-2:-1] if len(a) > 1 else ()), *(right[-1:] if len(b) > 1 else ()))
    return TensorType(context.dtype(0), shape)


@reduction("MatMul", infer=infer_matmul, moves=True)
def matmul(op: Op, index: tuple[ir.Expr, ...]) -> Reduce:
    """y[..., m, n] = sum_k a[..., m, k] * b[..., k, n]"""
    a, b = op.input(0), op.input(1)
    left, right = factors(a, b, index)
    product = product_of(op.node)
    return Reduce("add", (("k", depth(b)),), lambda k: product(a(*left(k)), b(*right(k))))


reduction("MatMul", domain="loopnest", infer=infer_matmul)(matmul)


Place = Callable[[ir.Expr], tuple[ir.Expr, ...]]


def factors(a: Operand, b: Operand, index: Sequence[ir.Expr]) -> tuple[Place, Place]:
    """Where the factors of the ``k``-th product of an element lie in the two operands."""
    rest = list(index)
    n = [rest.pop()] if b.rank > 1 else []
    m = [rest.pop()] if a.rank > 1 else []
    left, right = _batch(a, rest), _batch(b, rest)
    return lambda k: (*left, *m, k), lambda k: (*right, k, *n)


def depth(b: Operand) -> ir.Expr:
    """The extent that is summed over."""
    return b.shape[-2 if b.rank > 1 else 0]


def _batch(operand: Operand, index: list[ir.Expr]) -> list[ir.Expr]:
    """The batch index of a broadcast operand."""
    count = max(0, operand.rank - 2)
    own = index[len(index) - count :] if count else []
    return [ir.ZERO if size == 1 else i for i, size in zip(own, operand.sizes[:count], strict=True)]


def infer_gemm(context: InferContext) -> TensorType:
    a, b = context.shape(0), context.shape(1)
    if len(a) != 2 or len(b) != 2:
        raise context.fail(f"Gemm needs matrices, it has {a} and {b}")
    m, k = reversed(a) if context.attr("transA", 0) else a
    k2, n = reversed(b) if context.attr("transB", 0) else b
    if k != k2:
        raise context.fail(f"cannot multiply {a} by {b}: inner extents {k} and {k2} differ")
    if context.has(2) and broadcast_shapes(context, context.shape(2), (m, n)) != (m, n):
        raise context.fail(f"input C of shape {context.shape(2)} does not broadcast to {(m, n)}")
    return TensorType(context.dtype(0), (m, n))


@reduction("Gemm", infer=infer_gemm, moves=True)
def gemm(op: Op, index: tuple[ir.Expr, ...]) -> Reduce:
    """y[m, n] = alpha * sum_k a[m, k] * b[k, n] + beta * c[m, n]"""
    a, b = op.input(0), op.input(1)
    m, n = index
    alpha, beta = op.attr("alpha", 1.0), op.attr("beta", 1.0)
    across, turned = op.attr("transA", 0), op.attr("transB", 0)

    def term(k: ir.Expr) -> ir.Expr:
        return (a(k, m) if across else a(m, k)) * (b(n, k) if turned else b(k, n))

    def finish(total: ir.Expr) -> ir.Expr:
        scaled = total if alpha == 1.0 else total * ir.wrap(alpha, total.dtype)
        if not op.has(2):
            return scaled
        c = op.input(2)
        own = index[2 - c.rank :]
        value = c(*(ir.ZERO if size == 1 else i for i, size in zip(own, c.sizes, strict=True)))
        return scaled + (value if beta == 1.0 else value * ir.wrap(beta, total.dtype))

    return Reduce("add", (("k", b.shape[1 if turned else 0]),), term, finish)
