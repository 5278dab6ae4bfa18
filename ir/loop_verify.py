"""Checks a loop nest without running it: scopes, dtypes, bounds of every access, independence of parallel and vector iterations.

What is certainly wrong raises; an access or a loop that interval analysis cannot decide is listed in the report.
Parameters have their hints.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from . import dtypes
from . import loops as ir
from .errors import VerificationError
from .loop_checks import Checks
from .loop_races import Access, carried, collide
from .loop_ranges import Interval, full_range
from .loop_values import REDUCTIONS

_EXACT = 2
"""Walks after which a mutable scalar that takes more values than assumed is taken to have all of its dtype."""


@dataclass(frozen=True)
class Report:
    """A nest that has no certain defect; ``undecided`` tells, a sentence each, what could not be proved."""

    undecided: tuple[str, ...] = ()


def verify(nest: ir.LoopNest) -> Report:
    """Raises ``VerificationError`` naming nest, statement and buffer when ``nest`` is invalid."""
    assumed: dict[ir.Var, Interval] = {}
    walks = 0
    while True:
        walk = _Walk(nest, assumed, widest=walks >= _EXACT)
        walk.run()
        if not walk.grew:
            return Report(tuple(dict.fromkeys(walk.undecided)))
        walks += 1


@dataclass
class _Walk(Checks):
    """One walk over a nest: what its statements and loops do to each other."""

    # --- the nest -------------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        nest = self.nest
        self.ranges.mutable = {s.var for s in ir.statements(nest.body) if isinstance(s, ir.Assign)}
        for buffer in nest.buffers:
            if buffer.scope == "register":
                raise self.error(f"register buffer {buffer.name!r} is an argument")
            self.bring(buffer)
        inputs, outputs = ({b.name for b in nest.buffers if b.scope == scope} for scope in ("input", "output"))
        for source, target in nest.inplace:
            if source not in inputs or target not in outputs:
                raise self.error(f"the in-place pair ({source!r}, {target!r}) is not an input and an output")
        self.top()

    def top(self) -> None:
        if not self.nest.parallel:
            self.body(self.nest.body)
            return
        for stmt in self.nest.body:
            if isinstance(stmt, ir.For) and stmt.kind == "parallel":
                self.parallel(stmt)
                continue
            if not isinstance(stmt, ir.Tile):
                raise self.error(f"{_describe(stmt)} stands beside a parallel loop: only tiles may, as every worker runs them")
            first = len(self.stores)
            self.body((stmt,))
            for store in self.stores[first:]:
                if store.buffer.scope == "output":
                    raise self.error(f"every worker stores to {store.buffer.name!r} outside of the parallel loops")

    def parallel(self, loop: ir.For) -> None:
        chain = ir.parallel_chain(loop)
        first = len(self.stores)
        for inner in chain:
            if not self.ranges.variables((inner.extent,)).isdisjoint(other.var for other in chain):
                raise self.error(f"the extent of parallel loop {inner.var.name!r} depends on a parallel loop around it")
        self.chain(chain)
        by_buffer: dict[ir.Buffer, list[Access]] = {}
        for store in self.stores[first:]:
            if store.buffer.scope == "output":
                by_buffer.setdefault(store.buffer.root, []).append(store)
        for buffer, stores in by_buffer.items():
            for inner in chain:
                self.independent(inner, buffer, stores)

    def chain(self, chain: Sequence[ir.For]) -> None:
        if not chain:
            return
        with self.entered(chain[0]):
            if len(chain) > 1:
                self.chain(chain[1:])
            else:
                self.body(chain[0].body)

    def independent(self, loop: ir.For, buffer: ir.Buffer, stores: list[Access]) -> None:
        """No two iterations may store to one element."""
        if self.ranges.interval(loop.extent)[1] <= 1:
            return
        verdict = collide(stores, loop.var, self.ranges)
        if verdict == "always":
            offender = next(store for store in stores if loop.var not in store.mentioned)
            raise VerificationError(
                f"nest {self.nest.name!r}: {offender.where}race: every iteration of {loop.kind} loop {loop.var.name!r} stores to the same "
                f"elements of {buffer.name!r}"
            )
        if verdict == "maybe":
            self.undecided.append(
                f"iterations of {loop.kind} loop {loop.var.name!r} may store to one element of {buffer.name!r}"
            )

    # --- statements -----------------------------------------------------------------------------------------------------------------

    def body(self, body: ir.Body) -> None:
        scope, declared, buffers = set(self.scope), set(self.declared), set(self.buffers)
        with self.ranges.assuming():
            for stmt in body:
                self.seen = set()
                self.statement(stmt)
        self.scope, self.declared, self.buffers = scope, declared, buffers

    def statement(self, stmt: ir.Stmt) -> None:
        match stmt:
            case ir.For():
                self.loop(stmt)
            case ir.Tile(body):
                self.body(body)
            case ir.Alloc(buffer):
                self.alloc(buffer)
            case _:
                with self.at(_describe(stmt)):
                    for e in ir.expressions(stmt):
                        self.expression(e)
                    self.simple(stmt)

    def simple(self, stmt: ir.Stmt) -> None:
        match stmt:
            case ir.Let(var, value):
                self.same_dtype(var, value)
                self.scope.add(var)
                self.ranges.let(var, value)
            case ir.Declare(var, value):
                self.same_dtype(var, value)
                self.declare(var, value)
            case ir.Assign(var, value):
                self.assign(var, value)
            case ir.Store(buffer, index, value):
                self.store(buffer, index, value)
            case ir.Prefetch(buffer, index):
                self.prefetch(buffer, index)
            case ir.If(condition, then, orelse):
                self.condition(condition)
                for side, holds in ((then, True), (orelse, False)):
                    with self.conditional(condition, holds):
                        self.body(side)
            case ir.While(condition, body):
                self.while_(condition, body)
            case ir.Fail(condition, code, value):
                self.condition(condition)
                if not 1 <= code <= len(self.nest.errors):
                    raise self.error(f"error code {code} has no message: there are {len(self.nest.errors)}")
                if not (value.dtype.is_integer or value.dtype is dtypes.bool_ or value.dtype.kind == "float"):
                    raise self.error(f"the reported value is a {value.dtype}")
                self.ranges.learn(condition, holds=False)
            case _:
                raise TypeError(type(stmt).__name__)

    @contextmanager
    def entered(self, loop: ir.For) -> Generator[None]:
        """Inside of a loop: its variable is in scope, and what its body assigns is no longer known."""
        self.expression(loop.extent)
        if loop.var.dtype is not ir.INDEX or loop.extent.dtype is not ir.INDEX:
            raise self.error(f"loop {loop.var.name!r} counts in {loop.var.dtype}, up to a {loop.extent.dtype}")
        if any(outer.var is loop.var for outer in self.loops):
            raise self.error(f"loop variable {loop.var.name!r} is that of a loop around it, too")
        may_be_empty = self.ranges.bound(self.ranges.linear(loop.extent), 0)[0] < 1
        with self.at(f"{loop.kind} loop {loop.var.name!r}"), self.ranges.assuming():
            self.ranges.forget(_assigned(loop.body))
            self.ranges.enter(loop)
            self.conditions += may_be_empty
            self.scope.add(loop.var)
            self.loops.append(loop)
            yield
            self.loops.pop()
            self.scope.discard(loop.var)
            self.conditions -= may_be_empty

    def loop(self, loop: ir.For) -> None:
        if loop.kind == "parallel":
            raise self.error(f"parallel loop {loop.var.name!r} is not at the top of the nest")
        if loop.kind == "unroll" and not isinstance(loop.extent, ir.Const):
            raise self.error(f"loop {loop.var.name!r} is unrolled, but its extent is not constant")
        if loop.kind == "vector" and self.vector is None:
            self.vector_loop(loop)
            return
        with self.entered(loop):
            self.body(loop.body)

    def vector_loop(self, loop: ir.For) -> None:
        first_load, first_store = len(self.loads), len(self.stores)
        self.vector = (loop, frozenset(self.declared))
        with self.entered(loop):
            self.body(loop.body)
            self.reductions(loop)
        self.vector = None
        loads, stores = self.loads[first_load:], self.stores[first_store:]
        inner = {s.var for s in ir.statements(loop.body) if isinstance(s, ir.Declare)} | {loop.var}
        for buffer in dict.fromkeys(store.buffer.root for store in stores):
            mine = [store for store in stores if store.buffer.root is buffer]
            still = [store for store in mine if store.mentioned.isdisjoint(inner)]
            moving = [store for store in mine if store not in still]
            if any(not store.value.isdisjoint(inner) for store in still):
                self.independent(loop, buffer, still)
            if moving:
                self.independent(loop, buffer, moving)
            for load in loads:
                if load.buffer.root is buffer:
                    self.not_carried(loop, load, mine)

    def not_carried(self, loop: ir.For, load: Access, stores: Iterable[Access]) -> None:
        """No iteration of a vector loop may load what another one stores."""
        for store in stores:
            verdict = carried(load, store, loop, self.ranges)
            text = (
                f"an iteration of vector loop {loop.var.name!r} {{}} an element of {load.buffer.name!r} that another one stores"
            )
            if verdict == "always":
                raise VerificationError(f"nest {self.nest.name!r}: {load.where}{text.format('loads')}")
            if verdict == "maybe":
                self.undecided.append(text.format("may load"))

    def reductions(self, loop: ir.For) -> None:
        """Scalars from outside are only changed as var = op(var, e), and read nowhere else."""
        assert self.vector is not None
        assigns = [s for s in ir.statements(loop.body) if isinstance(s, ir.Assign) and s.var in self.vector[1]]
        for stmt in assigns:
            value = stmt.value
            if not (isinstance(value, ir.Binary) and value.a is stmt.var and value.op in REDUCTIONS):
                raise self.error(f"{stmt.var.name!r} is declared outside and assigned in a form that is not a reduction")
        if assigns:
            reduced = {s.var for s in assigns}
            roots = [s.value.b if s in assigns else e for s in ir.statements(loop.body) for e in ir.expressions(s)]  # type: ignore[union-attr]
            read = reduced & self.ranges.variables(roots)
            if read:
                raise self.error(f"{read.pop().name!r} is reduced and read in one loop")

    def while_(self, condition: ir.Expr, body: ir.Body) -> None:
        self.condition(condition)
        if self.vector is not None:
            raise self.error(f"a while loop stands inside vector loop {self.vector[0].var.name!r}")
        with self.ranges.assuming():
            self.ranges.forget(_assigned(body))
            with self.conditional(condition):
                self.body(body)

    def alloc(self, buffer: ir.Buffer) -> None:
        if buffer.scope != "register":
            raise self.error(f"{buffer.scope} buffer {buffer.name!r} is allocated: only register buffers are")
        self.bring(buffer)

    def declare(self, var: ir.Var, value: ir.Expr) -> None:
        self.scope.add(var)
        self.declared.add(var)
        if var in self.ranges.mutable:
            if var.dtype.is_integer:
                first = self.ranges.interval(value)
                self.ranges.known[var] = self.assumed[var] = _hull(self.assumed.get(var, first), first)
            self.ranges.forget({var})
        else:
            self.ranges.let(var, value)

    def assign(self, var: ir.Var, value: ir.Expr) -> None:
        self.same_dtype(var, value)
        if var not in self.declared:
            raise self.error(f"{var.name!r} is assigned, but not declared")
        if var.dtype.is_integer and not self.ranges.impossible:
            new, known = self.ranges.interval(value), self.assumed[var]
            low, high = full_range(var.dtype) if self.widest else new
            self.assumed[var] = (low if new[0] < known[0] else known[0], high if new[1] > known[1] else known[1])
            self.grew |= self.assumed[var] != known
        self.ranges.forget({var})

    def store(self, buffer: ir.Buffer, index: tuple[ir.Expr, ...], value: ir.Expr) -> None:
        if buffer.scope == "input":
            raise self.error(f"stores into input {buffer.name!r}")
        if value.dtype is not buffer.dtype:
            raise self.error(f"stores a {value.dtype} into {buffer.name!r}, which holds {buffer.dtype}")
        access = self.access(buffer, index, "stored")
        self.stores.append(self.remember(access, frozenset(self.ranges.variables((value,)))))

    def prefetch(self, buffer: ir.Buffer, index: tuple[ir.Expr, ...]) -> None:
        """A hint may lie outside of the buffer."""
        if buffer.root not in self.buffers or buffer.scope == "register" or len(index) != len(buffer.shape):
            raise self.error(f"{buffer.scope} buffer {buffer.name!r} cannot be prefetched with {len(index)} indices here")
        if any(i.dtype is not ir.INDEX for i in index):
            raise self.error(f"{buffer.name!r} is indexed with something that is no {ir.INDEX}")


def _describe(stmt: ir.Stmt) -> str:
    match stmt:
        case ir.Store(buffer):
            return f"store to {buffer.name!r}"
        case ir.Let(var) | ir.Declare(var) | ir.Assign(var):
            return f"{type(stmt).__name__.lower()} {var.name!r}"
        case ir.For(var):
            return f"{stmt.kind} loop {var.name!r}"
        case _:
            return type(stmt).__name__.lower()


def _assigned(body: ir.Body) -> set[ir.Var]:
    return {s.var for s in ir.statements(body) if isinstance(s, ir.Assign)}


def _hull(a: Interval, b: Interval) -> Interval:
    return min(a[0], b[0]), max(a[1], b[1])
