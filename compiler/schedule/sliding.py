"""Windows that slide over each channel by itself (depthwise convolution): sums of products without a factor that is common to channels.

    y[c, h, w] = sum_{i, j} x[c, h * s + i, w * s + j] * k[c, i, j]

    for n, c.o, h in parallel:                       blocks of channels, which are a vector, and rows of pixels
        for w.o:
            acc[W] = 0                               W vectors of channels
            for i:
                for w in unroll(W):
                    for j in unroll:
                        acc[w] += x[c.o, h * s + i, (w.o * W + w) * s + j] * k[c.o, i, j]
            y[c.o, h, w.o * W + w] = finish(acc[w])

Neighbouring pixels share what they read: with both inner loops unrolled, a row of x is loaded once for all that it takes part in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ...ir import loops as ir
from ..ops.builder import neutral
from ..ops.context import Op, Reduce
from ..tensor import Tensor
from .contraction import is_contraction

if TYPE_CHECKING:
    from ..lowering import Lowering

TASKS = 16
"""Outer loops become parallel until there are this many tasks."""
SPARE = 2
"""Vector registers of the target's tile that hold what is read, not sums."""


def lower_sliding(lowering: Lowering, op: Op, define: Callable[..., Reduce]) -> bool:
    """Lowers a sum of products of which every factor belongs to one channel; False where the reduction is something else."""
    tensor = lowering.tensors[op.node.outputs[0]]
    if not tensor.layout.block or len(tensor.shape) < 3 or tensor.shape[-1] < 2:
        return False
    axes = [ir.Var(f"i{axis}", extent=lowering.extents(extent)) for axis, extent in enumerate(tensor.shape)]
    reduce = define(*axes)
    term = reduce.term(*(ir.Var(name, extent=ir.index(extent)) for name, extent in reduce.axes))
    if reduce.run > 1 or not is_contraction(reduce, term) or any(isinstance(e, ir.Guarded) for e in ir.walk(term)):
        return False
    loads = [e for e in ir.walk(term) if isinstance(e, ir.Load)]
    if not all(_depends(load, axes[1]) for load in loads) or not all(isinstance(e, int) for _, e in _taps(reduce)):
        return False
    _emit(lowering, tensor, define, axes)
    return True


def _taps(reduce: Reduce) -> list[tuple[str, object]]:
    return [(name, e.value if isinstance(e, ir.Const) else e) for name, e in ((n, ir.index(e)) for n, e in reduce.axes)]


def _emit(lowering: Lowering, tensor: Tensor, define: Callable[..., Reduce], axes: list[ir.Var]) -> None:
    b, block = lowering.builder, tensor.layout.block
    channels = ir.Var("co", extent=ir.Const(-(-tensor.shape[1] // block)))
    outer = [axes[0], channels, *axes[2:-1]]
    loops = [v for v in outer if v.extent is not None and not ir.is_const(v.extent, 1)]
    width = axes[-1].extent
    assert width is not None
    tile_registers = lowering.target.register_tile()
    balanced = _balanced(tensor.shape[-1], tile_registers.rows * tile_registers.vectors - SPARE)
    size = min(tensor.shape[-1], lowering.choices.take("tile.m", balanced, range(1, 2 * lowering.target.vector_registers + 1)))
    wanted = lowering.choices.take("tasks", TASKS, range(1, 1025))
    count, rest = divmod(tensor.shape[-1], size)
    place: list[ir.Expr] = [v if v in loops else ir.ZERO for v in outer]

    def tile(first: ir.Expr, pixels: int) -> None:
        _tile(lowering, tensor, define, place, first, pixels)

    tasks, parallel = 1, 0
    for var in loops:
        if tasks >= wanted:
            break
        assert var.extent is not None
        tasks, parallel = tasks * ir.hint(var.extent), parallel + 1
    with b.collect() as inner, b.nested(loops[parallel:]):
        if count > 1:
            with b.loop("wo", ir.floordiv(width, ir.Const(size))) as wo:
                tile(wo * size, size)
        else:
            tile(ir.ZERO, size)
        if rest:
            tile(ir.floordiv(width, ir.Const(size)) * size if count > 1 else ir.Const(size), rest)
    body: ir.Body = tuple(inner)
    for var in reversed(loops[:parallel] or [ir.Var("once", extent=ir.ONE)]):
        assert var.extent is not None
        body = (ir.For(var, var.extent, body, "parallel"),)
    b.body.extend(body)


def _balanced(count: int, most: int) -> int:
    """Pixels of a tile: so many that none are left over where that can be, else blocks of which the last one is about as large."""
    whole = (size for size in range(min(most, count), most // 2, -1) if count % size == 0)
    return next(whole, -(-count // -(-count // most)))


def _tile(
    lowering: Lowering, tensor: Tensor, define: Callable[..., Reduce], outer: list[ir.Expr], first: ir.Expr, pixels: int
) -> None:
    b, block = lowering.builder, tensor.layout.block
    pixel, lane = ir.Var("w", extent=ir.Const(pixels)), ir.Var("v", extent=ir.Const(block))
    n, channel, *rows = outer
    place = (n, channel * block + lane, *rows, first + pixel)
    reduce = define(*place)
    taps = [ir.Var(name, extent=ir.index(extent)) for name, extent in reduce.axes]
    values = [ir.ZERO if v.extent is not None and ir.is_const(v.extent, 1) else v for v in taps]
    taps = [v for v in taps if any(v is value for value in values)]
    order = [v for v in (n, channel, *rows, *taps, lane) if isinstance(v, ir.Var)]
    term = _packed(lowering, reduce.term(*values), order)
    acc = b.registers("acc", term.dtype, (pixels, block))

    def each(stmt: ir.Stmt, *inner: ir.Var) -> ir.For:
        body: ir.Body = (ir.For(lane, ir.Const(block), (stmt,), "vector"),)
        for var in (*inner, pixel):
            assert var.extent is not None
            body = (ir.For(var, var.extent, body, "unroll"),)
        assert isinstance(body[0], ir.For)
        return body[0]

    b.emit(each(ir.Store(acc, (pixel, lane), neutral("add", term.dtype))))
    with b.nested(taps[:-1]):
        b.emit(each(ir.Store(acc, (pixel, lane), ir.Binary("add", acc(pixel, lane), term)), *taps[-1:]))
    with b.collect() as stored:
        lowering.write(tensor.name, place, reduce.finish(acc(pixel, lane)))
    body: ir.Body = (ir.For(lane, ir.Const(block), tuple(stored), "vector"),)
    b.emit(ir.For(pixel, ir.Const(pixels), body, "unroll"))


def _packed(lowering: Lowering, term: ir.Expr, order: list[ir.Var]) -> ir.Expr:
    """``term`` with constants read from copies that lie in the order of the loops."""

    def packed(load: ir.Load) -> ir.Expr:
        name = next((n for n, buffer in lowering.buffers.items() if buffer is load.buffer and n in lowering.constants), None)
        if name is None:
            return load
        used = [v for v in order if _depends(load, v)]
        return ir.Load(lowering.packed(name, load.index, used), tuple(used))

    assert isinstance(term, ir.Binary)
    return ir.Binary(term.op, *(packed(e) if isinstance(e, ir.Load) else e for e in (term.a, term.b)))


def _depends(e: ir.Expr, var: ir.Var) -> bool:
    return any(x is var for x in ir.walk(e))
