"""Elements in another order: Transpose, Expand, Tile, DepthToSpace, SpaceToDepth, Trilu, ReverseSequence."""

from __future__ import annotations

from ...ir import loops as ir
from ...ir.graph import TensorType
from ..schedule.strided import strided_loops
from .builder import Builder
from .context import Op
from .infer import InferContext, broadcast_shapes, same_as
from .registry import injective, nest


def permutation(context: InferContext) -> tuple[int, ...]:
    """``perm``, by default the axes in reverse."""
    rank = context.rank(0)
    perm = tuple(context.attr("perm") or reversed(range(rank)))
    if sorted(perm) != list(range(rank)):
        raise context.fail(f"perm {perm} is no permutation of {rank} axes")
    return perm


def infer_transpose(context: InferContext) -> TensorType:
    shape = context.shape(0)
    return TensorType(context.dtype(0), tuple(shape[axis] for axis in permutation(context)))


@injective("Transpose", infer=infer_transpose)
def transpose(op: Op, index: tuple[ir.Expr, ...]) -> ir.Expr:
    """y[i[perm[0]], i[perm[1]], ...] = x[i]"""
    place = dict(zip(permutation(op), index, strict=True))
    return op.input(0)(*(place[axis] for axis in range(len(index))))


def infer_expand(context: InferContext) -> TensorType:
    return TensorType(context.dtype(0), broadcast_shapes(context, context.shape(0), context.ints(1) or ()))


@injective("Expand", infer=infer_expand, values=(1,), prologue=False)
def expand(op: Op, index: tuple[ir.Expr, ...]) -> ir.Expr:
    """y[i] = x[i], 0 along the axes where x has one element"""
    x = op.input(0)
    own = index[len(index) - x.rank :]
    return x(*(ir.ZERO if size == 1 else i for i, size in zip(own, x.sizes, strict=True)))


def infer_tile(context: InferContext) -> TensorType:
    shape, repeats = context.shape(0), context.ints(1) or ()
    if len(repeats) != len(shape) or any(r < 0 for r in repeats):
        raise context.fail(f"repeats {repeats} must hold {len(shape)} numbers, none negative")
    return TensorType(context.dtype(0), tuple(e * r for e, r in zip(shape, repeats, strict=True)))


@nest("Tile", infer=infer_tile, values=(1,), epilogue=True)
def tile(op: Op, b: Builder) -> None:
    """y[r0 * n0 + i0, ...] = x[i0, ...] for every copy r"""
    x, y = op.input(0), op.output(0)
    repeats = [size // own if own else 0 for size, own in zip(y.sizes, x.sizes, strict=True)]
    pairs = [e for r, own in zip(repeats, x.shape, strict=True) for e in (ir.Const(r), own)]

    def emit(place: list[ir.Expr]) -> None:
        copies, inside = place[::2], place[1::2]
        y.store([r * extent + i for r, i, extent in zip(copies, inside, x.shape, strict=True)], x(*inside))

    strided_loops(b, pairs, emit)


def infer_depth_to_space(context: InferContext) -> TensorType:
    shape, block = context.shape(0), context.attr("blocksize", 1)
    if len(shape) != 4 or shape[1] % (block * block):
        raise context.fail(
            f"blocksize {block} needs an input of rank 4 with a multiple of {block * block} channels, not {shape}"
        )
    n, c, h, w = shape
    return TensorType(context.dtype(0), (n, c // (block * block), h * block, w * block))


@nest("DepthToSpace", infer=infer_depth_to_space, prologue=True, epilogue=True)
def depth_to_space(op: Op, b: Builder) -> None:
    """y[n, c, h * B + i, w * B + j] = x[n, (i * B + j) * C + c, h, w] (DCR), x[n, (c * B + i) * B + j, h, w] (CRD)"""
    x, y = op.input(0), op.output(0)
    block, columns_first = op.attr("blocksize", 1), op.attr("mode", "DCR") == "CRD"

    def emit(place: list[ir.Expr]) -> None:
        n, c, h, i, w, j = place
        channel = (c * block + i) * block + j if columns_first else (i * block + j) * y.shape[1] + c
        y.store((n, c, h * block + i, w * block + j), x(n, channel, h, w))

    strided_loops(b, (x.shape[0], y.shape[1], x.shape[2], ir.Const(block), x.shape[3], ir.Const(block)), emit)


def infer_space_to_depth(context: InferContext) -> TensorType:
    shape, block = context.shape(0), context.attr("blocksize", 1)
    if len(shape) != 4 or shape[2] % block or shape[3] % block:
        raise context.fail(
            f"blocksize {block} needs an input of rank 4 whose height and width are multiples of it, not {shape}"
        )
    n, c, h, w = shape
    return TensorType(context.dtype(0), (n, c * block * block, h // block, w // block))


@nest("SpaceToDepth", infer=infer_space_to_depth, prologue=True, epilogue=True)
def space_to_depth(op: Op, b: Builder) -> None:
    """y[n, (i * B + j) * C + c, h, w] = x[n, c, h * B + i, w * B + j]; mode CRD: y[n, (c * B + i) * B + j, h, w]"""
    x, y = op.input(0), op.output(0)
    block, columns_first = op.attr("blocksize", 1), op.attr("mode", "DCR") == "CRD"

    def emit(place: list[ir.Expr]) -> None:
        n, i, j, c, h, w = place
        channel = (c * block + i) * block + j if columns_first else (i * block + j) * x.shape[1] + c
        y.store((n, channel, h, w), x(n, c, h * block + i, w * block + j))

    strided_loops(b, (x.shape[0], ir.Const(block), ir.Const(block), x.shape[1], y.shape[2], y.shape[3]), emit)


def infer_trilu(context: InferContext) -> TensorType:
    if context.rank(0) < 2:
        raise context.fail(f"Trilu needs an input of rank 2 or more, not {context.shape(0)}")
    return context.tensor(0)


@injective("Trilu", infer=infer_trilu, values=(1,))
def trilu(op: Op, index: tuple[ir.Expr, ...]) -> ir.Expr:
    """y[..., i, j] = x[..., i, j] where j - i >= k (upper) or j - i <= k (lower), else 0"""
    x = op.input(0)
    k = (op.ints(1) or (0,))[0]
    i, j = index[-2:]
    kept = ir.compare("ge", j, i + k) if op.attr("upper", 1) else ir.compare("le", j, i + k)
    value = x(*index)
    return ir.select(kept, value, ir.wrap(0, value.dtype))


def infer_reverse_sequence(context: InferContext) -> TensorType:
    shape = context.shape(0)
    axes = (context.attr("batch_axis", 1), context.attr("time_axis", 0))
    if len(shape) < 2 or sorted(axes) != [0, 1]:
        raise context.fail(f"batch_axis and time_axis must be 0 and 1 of an input of rank 2 or more, not {axes} of {shape}")
    if context.shape(1) != (shape[axes[0]],):
        raise context.fail(f"sequence_lens has shape {context.shape(1)}, expected {(shape[axes[0]],)}")
    return same_as(0)(context)


@nest("ReverseSequence", infer=infer_reverse_sequence, prologue=False, epilogue=True)
def reverse_sequence(op: Op, b: Builder) -> None:
    """The first ``sequence_lens[batch]`` steps of each sequence in reverse, the others where they were."""
    x, y, lengths = op.input(0), op.output(0), op.input(1)
    batch_axis, time_axis = op.attr("batch_axis", 1), op.attr("time_axis", 0)

    def emit(place: list[ir.Expr]) -> None:
        steps = x.shape[time_axis]
        length = b.let("length", ir.cast(lengths(place[batch_axis]), ir.INDEX))
        wrong = (length < 0) | (length > steps)
        b.fail_if(wrong, f"sequence length {{value}} is outside [0, {x.sizes[time_axis]}], the steps of {x.name!r}", length)
        t = place[time_axis]
        source = b.let("source", ir.select(t < length, length - 1 - t, t))
        y.store(place, x(*(source if axis == time_axis else i for axis, i in enumerate(place))))

    strided_loops(b, y.shape, emit)
