"""Checks of a nest's expressions and accesses: scopes, dtypes, bounds."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from . import dtypes
from . import loops as ir
from .errors import VerificationError
from .loop_races import Access
from .loop_ranges import Interval, Linear, Ranges
from .loop_values import is_narrow


@dataclass
class Checks:
    """What is known where a walk over a nest stands, and the checks of what stands there.

    ``assumed`` are the values that mutable scalars are taken to have. Where an assignment leaves them they grow (to all values
    if ``widest``), and the nest must be walked again.
    """

    nest: ir.LoopNest
    assumed: dict[ir.Var, Interval]
    widest: bool
    grew: bool = False
    ranges: Ranges = field(default_factory=Ranges)
    undecided: list[str] = field(default_factory=list)
    path: list[str] = field(default_factory=list)
    scope: set[ir.Var] = field(default_factory=set)
    declared: set[ir.Var] = field(default_factory=set)
    buffers: set[ir.Buffer] = field(default_factory=set)
    loops: list[ir.For] = field(default_factory=list)
    conditions: int = 0
    """Statements around that may not run for every iteration."""
    seen: set[ir.Expr] = field(default_factory=set)
    loads: list[Access] = field(default_factory=list)
    stores: list[Access] = field(default_factory=list)
    """The accesses of the statements walked so far."""
    vector: tuple[ir.For, frozenset[ir.Var]] | None = None
    """The vector loop around, with the scalars that were declared outside of it."""

    def error(self, problem: str) -> VerificationError:
        return VerificationError(f"nest {self.nest.name!r}: {self.here()}{problem}")

    def here(self) -> str:
        return f"{', '.join(self.path)}: " if self.path else ""

    @contextmanager
    def at(self, what: str) -> Generator[None]:
        self.path.append(what)
        yield
        self.path.pop()

    @contextmanager
    def conditional(self, condition: ir.Expr, holds: bool = True) -> Generator[None]:
        self.conditions += 1
        with self.ranges.assuming(condition, holds):
            yield
        self.conditions -= 1

    # --- buffers and accesses -------------------------------------------------------------------------------------------------------

    def bring(self, buffer: ir.Buffer) -> None:
        if buffer.scope in ("input", "output") and any(b.name == buffer.name for b in self.buffers):
            raise self.error(f"two buffers are called {buffer.name!r}")
        if len(buffer.shape) != len(buffer.strides):
            raise self.error(f"buffer {buffer.name!r} has {len(buffer.shape)} axes and {len(buffer.strides)} strides")
        for e in (*buffer.shape, *buffer.strides, *_start(buffer)):
            if e.dtype is not ir.INDEX or any(isinstance(x, ir.Var | ir.Load) for x in ir.walk(e)):
                raise self.error(f"an extent, stride or start of buffer {buffer.name!r} is not an expression of parameters")
        self.buffers.add(buffer)

    def view(self, buffer: ir.Buffer) -> None:
        """A view must lie inside of its buffer. Memory that begins before index 0 may go on behind the last index, too."""
        root = buffer.root
        if root in self.buffers:
            if root.start is None and _reach(buffer) > _reach(root):
                raise self.error(f"{buffer.name!r} is seen as {_reach(buffer)} elements; it has {_reach(root)}")
            self.buffers.add(buffer)

    def access(self, buffer: ir.Buffer, index: tuple[ir.Expr, ...], verb: str) -> tuple[ir.Buffer, tuple[Linear, ...]]:
        """Checks rank and bounds."""
        if buffer.base is not None and buffer not in self.buffers:
            self.view(buffer)
        if buffer not in self.buffers:
            raise self.error(f"{buffer.scope} buffer {buffer.name!r} is {verb}, but it is no argument and not allocated here")
        if len(index) != len(buffer.shape):
            raise self.error(f"{buffer.name!r}, of rank {len(buffer.shape)}, is {verb} with {len(index)} indices")
        for i in index:
            if i.dtype is not ir.INDEX:
                raise self.error(f"{buffer.name!r} is indexed with a {i.dtype}")
        forms = tuple(self.ranges.linear(i) for i in index)
        if not self.ranges.impossible:
            for axis, (form, extent) in enumerate(zip(forms, buffer.shape, strict=True)):
                self.bounds(buffer, axis, form, index[axis], ir.hint(extent), verb)
        return buffer, forms

    def bounds(self, buffer: ir.Buffer, axis: int, form: Linear, index: ir.Expr, extent: int, verb: str) -> None:
        low, high = self.ranges.bound(form, 0)
        if low < 0 or high >= extent:
            low, high = self.ranges.bound(form)
        if low > high or (low >= 0 and high < extent):
            return
        shape = ", ".join(str(ir.hint(e)) for e in buffer.shape)
        what = f"{buffer.scope} {buffer.name!r} of shape [{shape}] is {verb} on axis {axis}"
        if low >= extent or high < 0:
            raise self.error(f"{what} at {low} to {high}: out of bounds")
        for sign in (1, -1):
            witness = None if self.conditions else self.extreme(form, index, sign)
            if witness is not None and not 0 <= witness < extent:
                raise self.error(f"{what} at {witness}: out of bounds")
        self.undecided.append(f"{self.here()}{what} at {low} to {high}")

    def extreme(self, form: Linear, index: ir.Expr, sign: int) -> int | None:
        """The index in an iteration where it is large (sign 1) or small (-1); None where that depends on data."""
        at: dict[ir.Var, int] = {}
        for loop in self.loops:
            extent = self.ranges.evaluate(loop.extent, at)
            if extent is None or extent < 1:
                return None
            at[loop.var] = extent - 1 if form.terms.get(loop.var, 0) * sign > 0 else 0
        return self.ranges.evaluate(index, at)

    def remember(self, access: tuple[ir.Buffer, tuple[Linear, ...]], value: frozenset[ir.Var] = frozenset()) -> Access:
        buffer, forms = access
        atoms = {atom for form in forms for atom in form.terms}
        mentioned = frozenset[ir.Var]().union(*(self.ranges.mentions(form) for form in forms))
        points = (self.ranges.atom(loop.var) for loop in self.loops)
        pinned = frozenset(loop.var for loop, (low, high) in zip(self.loops, points, strict=True) if low == high)
        intervals = {a: self.ranges.atom(a) for a in atoms}
        flat = Linear({}, sum(map(ir.hint, _start(buffer))))
        for form, stride in zip(forms, buffer.strides, strict=True):
            flat = flat.plus(form, ir.hint(stride))
        return Access(self.here(), buffer, forms, flat, intervals, mentioned, value, pinned, certain=not self.conditions)

    # --- expressions ----------------------------------------------------------------------------------------------------------------

    def condition(self, e: ir.Expr) -> None:
        if e.dtype is not dtypes.bool_:
            raise self.error(f"the condition is a {e.dtype}")

    def same_dtype(self, var: ir.Var, value: ir.Expr) -> None:
        if var.dtype is not value.dtype:
            raise self.error(f"{var.name!r} is a {var.dtype} and gets a {value.dtype}")

    def expression(self, e: ir.Expr) -> None:
        if e in self.seen:
            return
        self.seen.add(e)
        if isinstance(e, ir.Guarded):
            self.guarded(e)
            return
        for child in ir.operands(e):
            self.expression(child)
        match e:
            case ir.Var():
                if e not in self.scope:
                    raise self.error(f"variable {e.name!r} is used where it has no value")
            case ir.Load(buffer, index):
                access = self.access(buffer, index, "loaded")
                if self.vector is not None:
                    self.loads.append(self.remember(access))
            case ir.Select(c, a, b):
                self.sides(c, a, b)
            case ir.Unary(_, a) | ir.Binary(_, a, _) if is_narrow(a.dtype):
                raise self.error(f"{e.op!r} is computed on {a.dtype}, which must be cast to float32 first")
            case ir.Binary("dot16", a, _) if a.dtype is not dtypes.int32:
                raise self.error(f"'dot16' is computed on {a.dtype}, not int32")
            case ir.Bitcast(a, dtype) if a.dtype.itemsize != dtype.itemsize:
                raise self.error(f"the bits of a {a.dtype} are read as {dtype}")
            case _:
                pass

    def guarded(self, e: ir.Guarded) -> None:
        self.expression(e.condition)
        self.expression(e.b)
        self.sides(e.condition, e.a, e.b)
        seen = self.seen
        self.seen = set(seen)
        with self.conditional(e.condition):
            self.expression(e.a)
        self.seen = seen

    def sides(self, condition: ir.Expr, a: ir.Expr, b: ir.Expr) -> None:
        self.condition(condition)
        if a.dtype is not b.dtype:
            raise self.error(f"the sides of a select are {a.dtype} and {b.dtype}")


def _start(buffer: ir.Buffer) -> tuple[ir.Expr, ...]:
    return () if buffer.start is None else (buffer.start,)


def _reach(buffer: ir.Buffer) -> int:
    """Elements up to the last that the shape reaches."""
    steps = ((ir.hint(n) - 1) * ir.hint(s) for n, s in zip(buffer.shape, buffer.strides, strict=True))
    return 1 + sum(map(ir.hint, _start(buffer))) + sum(steps)
