"""A scheduled nest as Python source: the parallel loops for Numba, and one function per tile.

The text runs as it stands (``codegen.plain`` supplies vector(), select(), minimum() and the rest as plain Python), and it is what a person
reads, what Numba compiles (with the tile functions replaced by LLVM emitted from the same loop IR), and, with the target, the
kernel's identity.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..ir import dtypes
from ..ir import loops as ir
from ..ir.canonical import Canonical
from ..ir.loop_names import Names
from .vecmath import BINARY, UNARY

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "and": "&", "or": "|", "xor": "^",
}  # fmt: skip


@dataclass(frozen=True)
class TileFunction:
    """A tile, the name of its function, and what it takes after ``extents``: buffers, then variables."""

    name: str
    tile: ir.Tile
    buffers: tuple[ir.Buffer, ...]
    variables: tuple[ir.Var, ...]


@dataclass(frozen=True)
class Region:
    """A tile and the parallel loops around it, outermost first; without any, every worker runs the tile."""

    extents: tuple[ir.Expr, ...]
    variables: tuple[ir.Var, ...]
    function: TileFunction


@dataclass(frozen=True)
class KernelSource:
    """``text`` defines ``kernel(buffers, extents, worker, workers)``, which runs ``regions`` one after the other, and their tiles."""

    text: str
    nest: ir.LoopNest
    params: tuple[ir.Param, ...]
    regions: tuple[Region, ...]


def print_kernel(canonical: Canonical) -> KernelSource:
    """The source of a nest whose parameters are numbered; tiles are placed around what stands inside the parallel loops."""
    printer = _Printer(canonical)
    text = printer.kernel()
    return KernelSource(text, canonical.nest, canonical.params, tuple(printer.regions))


def region_lines(tile: str, arguments: Sequence[str], variables: Sequence[str], extents: Sequence[str]) -> list[str]:
    """Nested parallel loops as one loop over tasks, of which each worker does a contiguous share; ``extents`` in the notation of Python."""
    call = [f"code = {tile}({', '.join(arguments)})", "if code != 0:", "    return code"]
    if not extents:
        return call
    lines = [f"tasks = {' * '.join(extents)}"]
    lines.append("for task in range(share(tasks, worker, workers), share(tasks, worker + 1, workers)):")
    for i, variable in enumerate(variables):
        inner = " * ".join(extents[i + 1 :])
        index = f"quotient(task, {inner})" if inner else "task"
        lines.append(f"    {variable} = {index if i == 0 else f'remainder({index}, {extents[i]})'}")
    return lines + [f"    {line}" for line in call]


@dataclass
class _Printer:
    canonical: Canonical
    lines: list[str] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)
    names: Names = field(default_factory=Names)
    known: dict[object, str] = field(default_factory=dict)

    def kernel(self) -> str:
        nest = self.canonical.nest
        for reserved in ("buffers", "extents", "worker", "workers", "tasks", "task", "code", "kernel", *_RESERVED):
            self.names(reserved)
        head = [f'"""{nest.name}', "", *(f"    {note}" for note in nest.notes)]
        for b in nest.buffers:
            axes = ", ".join(self.expr(s) for s in b.shape)
            strides = ", ".join(self.expr(s) for s in b.strides)
            head.append(f"    {self.name(b)}: {b.scope} {b.dtype}[{axes}], strides [{strides}]")
        head += [f"    error {i}: {message}" for i, message in enumerate(nest.errors, 1)]
        head += [f"    {b} may be {a}" for a, b in nest.inplace]
        outer = self.outer()
        return "\n".join([*head, '"""', "", *self.lines, *outer, ""])

    # --- the Numba part --------------------------------------------------------------------------------------------------------

    def outer(self) -> list[str]:
        nest = self.canonical.nest
        body: list[str] = []
        for stmt in nest.body if nest.parallel else (ir.Tile(nest.body),):
            body += self.parallel(stmt)
        used = "\n".join(body)
        head = ["def kernel(buffers, extents, worker, workers):"]
        head += [f"    {self.name(b)} = buffers[{i}]" for i, b in enumerate(nest.buffers) if self.name(b) in used]
        head += [f"    {line}" for line in self.parameters(used)]
        return [*head, *(f"    {line}" for line in body), "    return 0"]

    def parallel(self, stmt: ir.Stmt) -> list[str]:
        """A tile with the parallel loops around it."""
        chain = ir.parallel_chain(stmt) if isinstance(stmt, ir.For) and stmt.kind == "parallel" else []
        extents, variables = [self.expr(loop.extent, 3) for loop in chain], [self.name(loop.var) for loop in chain]
        body = chain[-1].body if chain else (stmt,)
        tile = body[0] if len(body) == 1 and isinstance(body[0], ir.Tile) else ir.Tile(body)
        function = self.tile(tile)
        self.regions.append(Region(tuple(loop.extent for loop in chain), tuple(loop.var for loop in chain), function))
        arguments = ["extents", *(self.name(x) for x in (*function.buffers, *function.variables))]
        return region_lines(function.name, arguments, variables, extents)

    # --- the tiles -------------------------------------------------------------------------------------------------------------

    def tile(self, tile: ir.Tile) -> TileFunction:
        buffers, variables = free_names(tile, self.canonical.nest)
        function = TileFunction(f"tile_{len(self.regions)}", tile, buffers, variables)
        body = self.body(tile.body)
        arguments = ", ".join(["extents", *(self.name(x) for x in (*buffers, *variables))])
        self.lines += ["@tile", f"def {function.name}({arguments}):"]
        self.lines += [f"    {line}" for line in (*self.parameters("\n".join(body)), *body)]
        self.lines += ["    return 0", "", ""]
        return function

    def parameters(self, text: str) -> list[str]:
        words = set(_words(text))
        return [f"{self.name(p)} = extents[{i}]" for i, p in enumerate(self.canonical.params, 1) if self.name(p) in words]

    def body(self, body: ir.Body) -> list[str]:
        return [line for stmt in body for line in self.statement(stmt)] or ["pass"]

    def statement(self, stmt: ir.Stmt) -> list[str]:
        def inside(body: ir.Body) -> list[str]:
            return [f"    {line}" for line in self.body(body)]

        match stmt:
            case ir.For(var, extent, body, kind):
                kinds = {"serial": "range", "parallel": "range", "vector": "vector", "unroll": "unroll"}
                return [f"for {self.name(var)} in {kinds[kind]}({self.expr(extent)}):", *inside(body)]
            case ir.While(condition, body):
                return [f"while {self.expr(condition)}:", *inside(body)]
            case ir.If(condition, then, orelse):
                return [f"if {self.expr(condition)}:", *inside(then), *(["else:", *inside(orelse)] if orelse else [])]
            case ir.Let(var, value):
                return [f"{self.name(var)} = {self.expr(value)}"]
            case ir.Declare(var, value) | ir.Assign(var, value):
                return [f"{self.name(var)} = {self.expr(value)}"]
            case ir.Store(buffer, index, value):
                return [f"{self.access(buffer, index)} = {self.expr(value)}"]
            case ir.Prefetch(buffer, index, level):
                return [f"prefetch({self.name(buffer)}, {self.expr(buffer.offset(index))}, {level})"]
            case ir.Fail(condition, code, value):
                return [f"if {self.expr(condition)}:", f"    extents[0] = {self.expr(value)}", f"    return {code}"]
            case ir.Alloc(buffer):
                shape = ", ".join(self.expr(s) for s in buffer.shape)
                return [f"{self.name(buffer)} = registers(({shape},), {buffer.dtype})"]
            case ir.Tile(body):
                return self.body(body)
            case _:
                raise TypeError(type(stmt).__name__)

    # --- expressions -----------------------------------------------------------------------------------------------------------

    def name(self, thing: ir.Buffer | ir.Var | ir.Param) -> str:
        thing = thing.root if isinstance(thing, ir.Buffer) else thing
        known = self.known.get(thing)
        if known is None:
            known = self.known[thing] = self.names(_identifier(thing.name))
        return known

    def access(self, buffer: ir.Buffer, index: tuple[ir.Expr, ...]) -> str:
        if buffer.scope == "register":
            return f"{self.name(buffer)}[{', '.join(self.expr(i) for i in index)}]"
        return f"{self.name(buffer)}[{self.expr(buffer.offset(index))}]"

    def expr(self, e: ir.Expr, level: int = 0) -> str:
        """``level`` is the binding strength of what stands around: weaker operators get parentheses."""
        match e:
            case ir.Const(value, dtype):
                if dtype is ir.INDEX:
                    return str(value)
                return str(value) if dtype is dtypes.bool_ else f"{dtype}({value!r})"
            case ir.Param() | ir.Var():
                return self.name(e)
            case ir.Load(buffer, index):
                return self.access(buffer, index)
            case ir.Binary(op, a, b) if op in _INFIX:
                strength = _strength(op)
                text = f"{self.expr(a, strength)} {_INFIX[op]} {self.expr(b, strength + 1)}"
                return f"({text})" if strength < level else text
            case ir.Binary(op, a, b):
                names = {"min": "minimum", "max": "maximum", "div": "divide" if not e.dtype.is_float else "/"}
                if names.get(op) == "/":
                    text = f"{self.expr(a, 2)} / {self.expr(b, 3)}"
                    return f"({text})" if level > 2 else text
                return f"{names.get(op, op)}({self.expr(a)}, {self.expr(b)})"
            case ir.Unary(op, a):
                return f"{'logical_not' if op == 'not' else op}({self.expr(a)})"
            case ir.Select(c, a, b):
                return f"select({self.expr(c)}, {self.expr(a)}, {self.expr(b)})"
            case ir.Guarded(c, a, b):
                return f"({self.expr(a)} if {self.expr(c)} else {self.expr(b)})"
            case ir.Cast(a, dtype, saturate):
                return f"{'saturate_' if saturate else ''}{dtype}({self.expr(a)})"
            case ir.Bitcast(a, dtype):
                return f"bits_{dtype}({self.expr(a)})"
            case _:
                raise TypeError(type(e).__name__)


_RESERVED = (
    *("share", "quotient", "remainder", "tile", "vector", "unroll", "range", "registers", "select", "prefetch"),
    *("minimum", "maximum", "divide", "rem", "shl", "shr", "dot16", "neg", "logical_not"),
    *(dtype.name for dtype in dtypes.ALL),
    *UNARY,
    *BINARY,
    *keyword.kwlist,
)  # fmt: skip


def _strength(op: str) -> int:
    if op in ir.COMPARISONS:
        return -1
    if op in ir.LOGICAL:
        return 0
    return 1 if op in ("add", "sub") else 2


def _identifier(name: str) -> str:
    cleaned = "".join(c if c.isalnum() and c.isascii() else "_" for c in name)
    return cleaned if cleaned and not cleaned[0].isdigit() else f"v{cleaned}"


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def free_names(tile: ir.Tile, nest: ir.LoopNest) -> tuple[tuple[ir.Buffer, ...], tuple[ir.Var, ...]]:
    """The kernel's buffers and the outer variables that a tile uses, in a fixed order."""
    used_buffers: set[ir.Buffer] = set()
    free: dict[ir.Var, None] = {}
    bound: set[ir.Var] = set()
    for stmt in ir.statements(tile.body):
        if isinstance(stmt, ir.For | ir.Let | ir.Declare):
            bound.add(stmt.var)
        if isinstance(stmt, ir.Store | ir.Prefetch):
            used_buffers.add(stmt.buffer.root)
        for e in ir.expressions(stmt):
            for x in ir.walk(e):
                if isinstance(x, ir.Load):
                    used_buffers.add(x.buffer.root)
                elif isinstance(x, ir.Var):
                    free[x] = None
    return tuple(b for b in nest.buffers if b in used_buffers), tuple(v for v in free if v not in bound)
