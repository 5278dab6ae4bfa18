"""Loop nests built by hand, valid and (on purpose) not, for the tests of the interpreter, the verifier and the code generator."""

from __future__ import annotations

from collections.abc import Callable

from loopnest.ir import dtypes
from loopnest.ir import loops as ir
from loopnest.ir.dtypes import DType
from loopnest.ir.loops import Assign, Buffer, Const, Declare, Expr, Fail, For, If, Let, LoopNest, Scope, Store, Tile, Var

F32 = dtypes.float32


def buffer(name: str, scope: Scope, *shape: ir.Operand, dtype: DType = F32) -> Buffer:
    """A row-major buffer."""
    extents = tuple(ir.index(n) for n in shape)
    return Buffer(name, dtype, extents, ir.contiguous(extents), scope)


def const(value: float, dtype: DType = F32) -> Const:
    return Const(value, dtype)


def loop(name: str, extent: ir.Operand, kind: ir.LoopKind = "serial") -> tuple[Var, Expr]:
    """A loop variable and its extent."""
    length = ir.index(extent)
    return Var(name, extent=length), length


def elementwise(n: ir.Operand, lanes: int = 8, shift: int = 0) -> LoopNest:
    """y = relu(x) * 2 in blocks of ``lanes``: parallel blocks, a vector loop over what is left of n. ``shift`` misplaces the load."""
    x, y = buffer("x", "input", n), buffer("y", "output", n)
    length = ir.index(n)
    block, blocks = loop("block", (length + (lanes - 1)) // ir.index(lanes))
    start = Var("start")
    lane, count = loop("lane", ir.minimum(ir.index(lanes), ir.sub(length, start)))
    value = ir.maximum(x(start + lane + shift), const(0.0)) * 2.0
    inner = For(lane, count, (Store(y, (start + lane,), value),), "vector")
    body = Tile((Let(start, block * lanes), inner))
    return LoopNest("elementwise", (x, y), (For(block, blocks, (body,), "parallel"),))


def row_sums(rows: int, columns: int) -> LoopNest:
    """y[i] = sum over j of x[i, j], reduced by a vector loop into a scalar."""
    x, y = buffer("x", "input", rows, columns), buffer("y", "output", rows)
    (i, n), (j, m) = loop("i", rows), loop("j", columns)
    total = Var("total", F32)
    reduction = For(j, m, (Assign(total, total + x(i, j)),), "vector")
    body = (Declare(total, const(0.0)), reduction, Store(y, (i,), total))
    return LoopNest("row_sums", (x, y), (For(i, n, (Tile(body),), "parallel"),))


def gemm(m: int, n: int, k: int, rows: int = 2, columns: int = 8) -> LoopNest:
    """c = a @ b with a register tile of rows x columns; m and n are multiples of it."""
    a, b, c = buffer("a", "input", m, k), buffer("b", "input", k, n), buffer("c", "output", m, n)
    (i, tall), (j, wide), (p, depth) = loop("i", m // rows), loop("j", n // columns), loop("p", k)
    acc = buffer("acc", "register", rows, columns)

    def each(stem: str, statement: Callable[[Var, Var], Store]) -> For:
        (r, height), (v, width) = loop(f"r_{stem}", rows), loop(f"v_{stem}", columns)
        return For(r, height, (For(v, width, (statement(r, v),), "vector"),), "unroll")

    clear = each("clear", lambda r, v: Store(acc, (r, v), const(0.0)))
    multiply = each("multiply", lambda r, v: Store(acc, (r, v), acc(r, v) + a(i * rows + r, p) * b(p, j * columns + v)))
    finish = each("finish", lambda r, v: Store(c, (i * rows + r, j * columns + v), acc(r, v)))
    tile = Tile((ir.Alloc(acc), clear, For(p, depth, (multiply,)), finish))
    return LoopNest("gemm", (a, b, c), (For(i, tall, (For(j, wide, (tile,), "parallel"),), "parallel"),))


def gather(rows: int, columns: int, count: int, *, checked: bool = True, dtype: DType = dtypes.int64) -> LoopNest:
    """y[i] = x[indices[i]], where negative indices count from the end and others fail."""
    x, y = buffer("x", "input", rows, columns), buffer("y", "output", count, columns)
    indices = buffer("indices", "input", count, dtype=dtype)
    (i, n), (j, m) = loop("i", count), loop("j", columns)
    given, at = Var("given"), Var("at")
    check = Fail((given < -rows) | (given >= rows), 1, given)
    body = (
        Let(given, ir.cast(indices(i), ir.INDEX)),
        *((check,) if checked else ()),
        Let(at, ir.select(given < 0, given + rows, given)),
        For(j, m, (Store(y, (i, j), x(at, j)),), "vector"),
    )
    return LoopNest("gather", (x, indices, y), (For(i, n, body),), errors=("index {value} is out of range",))


def pad(n: int, before: int, after: int, *, guard: bool = True) -> LoopNest:
    """y = x with zeros around it; the load is made only inside of x."""
    x, y = buffer("x", "input", n), buffer("y", "output", n + before + after)
    i, length = loop("i", n + before + after)
    at = i - before
    inside = (at >= 0) & (at < n)
    value = ir.guarded(inside, x(i - before), 0.0) if guard else ir.select(inside, x(i - before), 0.0)
    return LoopNest("pad", (x, y), (For(i, length, (Store(y, (i,), value),), "vector"),))


def shared_element(n: int) -> LoopNest:
    """A race: every parallel iteration stores y[0]."""
    x, y = buffer("x", "input", n), buffer("y", "output", 1)
    i, length = loop("i", n)
    return LoopNest("shared_element", (x, y), (For(i, length, (Tile((Store(y, (0 * i,), x(i)),)),), "parallel"),))


def positive_prefix(n: int) -> LoopNest:
    """y[0] = the number of leading positive elements of x, by a while loop; y has one element."""
    x, y = buffer("x", "input", n), buffer("y", "output", 1, dtype=dtypes.int64)
    count = Var("count")
    more = ir.guarded(count < n, x(ir.minimum(count, Const(n - 1))) > 0.0, const(False, dtypes.bool_))
    body = (Declare(count, ir.ZERO), ir.While(more, (Assign(count, count + 1),)), Store(y, (ir.ZERO,), count))
    return LoopNest("positive_prefix", (x, y), body)


def lanes_of_two(n: int) -> LoopNest:
    """y = x where x > 0, else -1, by an If inside a vector loop with a scalar that belongs to each lane."""
    x, y = buffer("x", "input", n), buffer("y", "output", n)
    i, length = loop("i", n)
    value = Var("value", F32)
    choose = If(x(i) > 0.0, (Assign(value, x(i)),))
    body = (Declare(value, const(-1.0)), choose, Store(y, (i,), value))
    return LoopNest("lanes_of_two", (x, y), (For(i, length, body, "vector"),))
