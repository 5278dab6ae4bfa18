"""What values an integer expression can take: intervals of linear forms under the conditions that hold around it.

An index is a sum of atoms (loop variables, and whatever is not linear) with integer coefficients; parameters have their hints. A condition
``a < b`` is kept as a bound on such a sum, so that ``16 * i + j`` inside of ``for j in range(min(16, n - 16 * i))`` is known to be below n.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import gcd
from typing import TypeAlias

from . import dtypes
from . import loops as ir
from .dtypes import DType

Atom: TypeAlias = Hashable
Interval: TypeAlias = tuple[int, int]
"""Inclusive; low > high where there is no value."""
UNKNOWN = 1 << 63
_DEPTH = 2
"""Conditions combined to bound one sum."""


@dataclass(frozen=True, eq=False)
class Linear:
    """constant + the sum of coefficient * atom; no coefficient is zero."""

    terms: dict[Atom, int]
    constant: int

    def plus(self, other: Linear, factor: int = 1) -> Linear:
        terms = dict(self.terms)
        for atom, k in other.terms.items():
            terms[atom] = terms.get(atom, 0) + factor * k
        return Linear({a: k for a, k in terms.items() if k}, self.constant + factor * other.constant)

    def times(self, factor: int) -> Linear:
        return Linear({a: k * factor for a, k in self.terms.items()} if factor else {}, self.constant * factor)

    def same(self, other: Linear) -> bool:
        return self.constant == other.constant and self.terms == other.terms


def full_range(dtype: DType) -> Interval:
    """All values of an integer dtype or bool; everything for others."""
    if dtype is dtypes.bool_:
        return 0, 1
    if dtype.kind == "uint":
        return 0, (1 << dtype.bits) - 1
    return (-(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1) if dtype.kind == "int" else (-UNKNOWN, UNKNOWN)


@dataclass
class Ranges:
    """Intervals at one point of a nest. ``enter``, ``let`` and ``learn`` say what is known from here on; ``assuming`` undoes it."""

    known: dict[ir.Var, Interval] = field(default_factory=dict)
    """Loop variables, and scalars that are no alias."""
    lets: dict[ir.Var, ir.Expr] = field(default_factory=dict)
    mutable: set[ir.Var] = field(default_factory=set)
    facts: tuple[tuple[dict[Atom, int], int], ...] = ()
    """Sums of two atoms or more that are at most a number."""
    narrowed: dict[Atom, Interval] = field(default_factory=dict)
    impossible: bool = False
    """The conditions contradict each other: this point is never reached."""
    atoms: dict[Atom, ir.Expr] = field(default_factory=dict)
    _linear: dict[ir.Expr, Linear] = field(default_factory=dict)
    _keys: dict[ir.Expr, Atom] = field(default_factory=dict)
    _intervals: dict[Atom, Interval] = field(default_factory=dict)
    _mentions: dict[Atom, frozenset[ir.Var]] = field(default_factory=dict)

    # --- linear forms ---------------------------------------------------------------------------------------------------------------

    def linear(self, e: ir.Expr) -> Linear:
        found = self._linear.get(e)
        if found is None:
            found = self._linear[e] = self._make_linear(e)
        return found

    def _make_linear(self, e: ir.Expr) -> Linear:
        match e:
            case ir.Const(value, dtype) if dtype.kind in ("int", "uint", "bool"):
                return Linear({}, int(value))  # type: ignore[arg-type]
            case ir.Param():
                return Linear({}, e.hint)
            case ir.Var() if e in self.lets and e.dtype.is_integer:
                return self.linear(self.lets[e])
            case ir.Binary("add" | "sub" as op, a, b) if e.dtype is ir.INDEX:
                return self.linear(a).plus(self.linear(b), 1 if op == "add" else -1)
            case ir.Binary("mul", a, b) if e.dtype is ir.INDEX:
                for x, y in ((self.linear(a), self.linear(b)), (self.linear(b), self.linear(a))):
                    if not y.terms:
                        return x.times(y.constant)
            case ir.Unary("neg", a) if e.dtype is ir.INDEX:
                return self.linear(a).times(-1)
            case ir.Cast(a, dtype) if (
                dtype.is_integer and a.dtype.is_integer and _inside(full_range(a.dtype), full_range(dtype))
            ):
                return self.linear(a)
            case _:
                pass
        return self._atom(e)

    def _atom(self, e: ir.Expr) -> Linear:
        if isinstance(e, ir.Binary) and e.dtype is ir.INDEX:
            a, b = self.linear(e.a), self.linear(e.b)
            if not a.terms and not b.terms and (value := _fold(e.op, a.constant, b.constant)) is not None:
                return Linear({}, value)
        key: Atom = e if isinstance(e, ir.Var) else self.key(e)
        self.atoms.setdefault(key, e)
        return Linear({key: 1}, 0)

    def key(self, e: ir.Expr) -> Atom:
        """What is not linear, by structure: equal for expressions that have equal values wherever both stand; loads only from inputs."""
        found = self._keys.get(e)
        if found is None:
            found = self._keys[e] = self._make_key(e)
        return found

    def _make_key(self, e: ir.Expr) -> Atom:
        if isinstance(e, ir.Var | ir.Param) or (isinstance(e, ir.Load) and e.buffer.scope != "input"):
            return e
        if isinstance(e, ir.Const):
            return "const", e.dtype, e.value
        detail = (e.buffer,) if isinstance(e, ir.Load) else (e.op,) if isinstance(e, ir.Unary | ir.Binary) else ()
        detail += (e.dtype, e.saturate) if isinstance(e, ir.Cast) else (e.dtype,)
        return (type(e).__name__, *detail, *(self._operand_key(x) for x in ir.operands(e)))

    def _operand_key(self, e: ir.Expr) -> Atom:
        if e.dtype is not ir.INDEX:
            return self.key(e)
        form = self.linear(e)
        return frozenset(form.terms.items()), form.constant

    def mentions(self, form: Linear) -> frozenset[ir.Var]:
        """The variables that a form depends on, lets looked through."""
        return frozenset[ir.Var]().union(*(self._atom_mentions(atom) for atom in form.terms))

    def _atom_mentions(self, atom: Atom) -> frozenset[ir.Var]:
        found = self._mentions.get(atom)
        if found is None:
            found = self._mentions[atom] = frozenset(self.variables((self.atoms[atom],)))
        return found

    def variables(self, roots: Iterable[ir.Expr]) -> set[ir.Var]:
        """The variables in expressions, and in what their lets stand for."""
        pending, seen = list(roots), set[ir.Expr]()
        while pending:
            e = pending.pop()
            if e not in seen:
                seen.add(e)
                pending.extend(ir.operands(e))
                if isinstance(e, ir.Var) and e in self.lets:
                    pending.append(self.lets[e])
        return {e for e in seen if isinstance(e, ir.Var)}

    # --- what is known --------------------------------------------------------------------------------------------------------------

    def enter(self, loop: ir.For) -> None:
        """The loop's variable is between 0 and its extent."""
        extent, var = self.linear(loop.extent), self.linear(loop.var)
        _, high = self.bound(extent)
        self.known[loop.var] = (0, high - 1)
        self._intervals.clear()
        if high <= 0:
            self.impossible = True
        elif extent.terms:
            self._at_most_zero(var.plus(extent, -1).plus(Linear({}, 1)))

    def let(self, var: ir.Var, value: ir.Expr) -> None:
        """``var`` stands for ``value``, or, where that may change, has its present interval."""
        if var in self.lets or var in self.known:
            self._linear.clear()
            self._keys.clear()
            self._mentions.clear()
        self.lets.pop(var, None)
        if self.mutable and not self.mutable.isdisjoint(self.variables((value,))):
            self.known[var] = self.interval(value) if value.dtype.is_integer else full_range(value.dtype)
            self._intervals.clear()
        else:
            self.lets[var] = value

    def forget(self, variables: set[ir.Var]) -> None:
        """Drops what conditions said about scalars that are assigned."""
        if variables:
            self.narrowed = {a: i for a, i in self.narrowed.items() if variables.isdisjoint(self._atom_mentions(a))}
            self.facts = tuple(f for f in self.facts if all(variables.isdisjoint(self._atom_mentions(a)) for a in f[0]))
            self._intervals.clear()

    @contextmanager
    def assuming(self, condition: ir.Expr | None = None, holds: bool = True) -> Generator[None]:
        """Inside, ``condition`` holds (or does not); what is learned inside is forgotten at the end."""
        saved = self.facts, dict(self.narrowed), self.impossible, self._intervals
        self._intervals = dict(saved[3]) if condition is None else {}
        if condition is not None:
            self.learn(condition, holds)
        try:
            yield
        finally:
            self.facts, self.narrowed, self.impossible, self._intervals = saved

    def learn(self, condition: ir.Expr, holds: bool = True) -> None:
        """``condition`` holds (or does not) from here on."""
        match condition:
            case ir.Const(value):
                self.impossible |= bool(value) is not holds
            case ir.Var() if condition in self.lets:
                self.learn(self.lets[condition], holds)
            case ir.Unary("not", a):
                self.learn(a, not holds)
            case ir.Binary("and" | "or" as op, a, b) if (op == "and") is holds:
                self.learn(a, holds)
                self.learn(b, holds)
            case ir.Binary(op, a, b) if op in ir.COMPARISONS and a.dtype.is_integer:
                self._compare(op if holds else _NEGATED[op], self.linear(a).plus(self.linear(b), -1))
            case _:
                pass

    def _compare(self, op: str, difference: Linear) -> None:
        one = Linear({}, 1)
        if op in ("lt", "le", "eq"):
            self._at_most_zero(difference.plus(one) if op == "lt" else difference)
        if op in ("gt", "ge", "eq"):
            self._at_most_zero(difference.times(-1).plus(one) if op == "gt" else difference.times(-1))

    def _at_most_zero(self, form: Linear) -> None:
        """Keeps form <= 0."""
        self.impossible |= self.bound(form, 0)[0] > 0
        for each in self._weaker(form):
            self._keep(each)
        self._intervals.clear()

    def _weaker(self, form: Linear) -> list[Linear]:
        """What is at most ``form``: min(x, y) that it subtracts replaced by x and by y, likewise max that it adds."""
        forms = [form]
        for atom, k in form.terms.items():
            e = self.atoms[atom]
            if isinstance(e, ir.Binary) and e.op == ("min" if k < 0 else "max"):
                sides = [Linear({atom: -1}, 0).plus(self.linear(side)) for side in (e.a, e.b)]
                forms += [each.plus(side, k) for each in forms for side in sides]
        return forms

    def _keep(self, form: Linear) -> None:
        if len(form.terms) == 1:
            ((atom, k),) = form.terms.items()
            low, high = self.narrowed.get(atom, (-UNKNOWN, UNKNOWN))
            if k > 0:
                high = min(high, -form.constant // k)
            else:
                low = max(low, -(-form.constant // -k))
            self.narrowed[atom] = (low, high)
        elif form.terms:
            common = gcd(*form.terms.values())
            self.facts += (({a: k // common for a, k in form.terms.items()}, -form.constant // common),)

    # --- intervals ------------------------------------------------------------------------------------------------------------------

    def interval(self, e: ir.Expr) -> Interval:
        """Inclusive bounds of an integer expression at this point."""
        return self.bound(self.linear(e))

    def bound(self, form: Linear, depth: int = _DEPTH) -> Interval:
        """Inclusive bounds of a form; a lower ``depth`` makes them wider and cheaper."""
        return -self._highest(form.times(-1), depth), self._highest(form, depth)

    def _highest(self, form: Linear, depth: int) -> int:
        best = form.constant
        for atom, k in form.terms.items():
            low, high = self.atom(atom)
            best += k * (high if k > 0 else low)
        if depth == 0 or not form.terms:
            return best
        for each in self._weaker(form.times(-1))[1:]:
            best = min(best, self._highest(each.times(-1), depth - 1))
        for terms, most in self.facts:
            factors = {form.terms[a] // k for a, k in terms.items() if form.terms.get(a, 0) // k > 0}
            for factor in factors:
                rest = form.plus(Linear(terms, 0), -factor)
                if len(rest.terms) < len(form.terms):
                    best = min(best, factor * most + self._highest(rest, depth - 1))
        return best

    def atom(self, atom: Atom) -> Interval:
        """Inclusive bounds of one atom."""
        found = self._intervals.get(atom)
        if found is None:
            low, high = self._value(self.atoms[atom])
            if atom in self.narrowed:
                lowest, highest = self.narrowed[atom]
                low, high = max(low, lowest), min(high, highest)
            found = self._intervals[atom] = (low, high)
        return found

    def _value(self, e: ir.Expr) -> Interval:
        everything = full_range(e.dtype)
        match e:
            case ir.Var():
                return self.known.get(e, everything)
            case ir.Select(c, a, b) | ir.Guarded(c, a, b) if e.dtype.is_integer:
                return self._either(c, a, b)
            case ir.Cast(a, dtype) if a.dtype is dtypes.bool_ and dtype.is_integer:
                return 0, 1
            case ir.Cast(a, dtype, saturate) if a.dtype.is_integer and dtype.is_integer:
                low, high = self.interval(a)
                if saturate:
                    return max(low, everything[0]), min(high, everything[1])
                return (low, high) if _inside((low, high), everything) else everything
            case ir.Binary(op, a, b) if a.dtype.is_integer and op in _ON_INTERVALS:
                first, second = self.interval(a), self.interval(b)
                if first[0] > first[1] or second[0] > second[1]:
                    return _NOTHING
                result = _ON_INTERVALS[op](first, second)
                if result is not None and op in ("min", "max") and a.dtype is ir.INDEX:
                    low, high = self.bound(self.linear(a).plus(self.linear(b)))
                    return (result[0], min(result[1], high // 2)) if op == "min" else (max(result[0], -(-low // 2)), result[1])
                return result if result is not None and _inside(result, everything) else everything
            case ir.Unary("abs", a) if a.dtype.is_integer:
                low, high = self.interval(a)
                return (max(low, -high, 0), max(abs(low), abs(high)))
            case _:
                return everything

    def _either(self, condition: ir.Expr, a: ir.Expr, b: ir.Expr) -> Interval:
        sides: list[Interval] = []
        for side, holds in ((a, True), (b, False)):
            with self.assuming(condition, holds):
                low, high = self.interval(side)
                if not self.impossible and low <= high:
                    sides.append((low, high))
        if not sides:
            return full_range(a.dtype)
        return min(low for low, _ in sides), max(high for _, high in sides)

    # --- single values --------------------------------------------------------------------------------------------------------------

    def evaluate(self, e: ir.Expr, at: dict[ir.Var, int]) -> int | None:
        """The value of an index expression for values of its loop variables; None when it depends on more."""
        match e:
            case ir.Const(value, dtype) if dtype is ir.INDEX:
                return int(value)  # type: ignore[arg-type]
            case ir.Param():
                return e.hint
            case ir.Var():
                return self.evaluate(self.lets[e], at) if e in self.lets else at.get(e)
            case ir.Binary(op, a, b) if e.dtype is ir.INDEX:
                x, y = self.evaluate(a, at), self.evaluate(b, at)
                return None if x is None or y is None else _fold(op, x, y)
            case _:
                return None


_NOTHING: Interval = (0, -1)
_NEGATED = {"lt": "ge", "ge": "lt", "gt": "le", "le": "gt", "eq": "ne", "ne": "eq"}


def _inside(inner: Interval, outer: Interval) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def _fold(op: str, a: int, b: int) -> int | None:
    match op:
        case "add":
            return a + b
        case "sub":
            return a - b
        case "mul":
            return a * b
        case "floordiv" if b:
            return a // b
        case "mod" if b:
            return a % b
        case "min":
            return min(a, b)
        case "max":
            return max(a, b)
        case _:
            return None


def _products(a: Interval, b: Interval) -> Interval:
    corners = [x * y for x in a for y in b]
    return min(corners), max(corners)


def _quotients(a: Interval, b: Interval) -> Interval | None:
    if b[0] < 1:
        return None
    corners = [x // y for x in a for y in b]
    return min(corners), max(corners)


def _remainders(a: Interval, b: Interval) -> Interval | None:
    if b[0] < 1:
        return None
    if b[0] == b[1] and a[0] // b[0] == a[1] // b[0]:
        return a[0] % b[0], a[1] % b[0]
    return (0, b[1] - 1) if a[0] < 0 else (0, min(a[1], b[1] - 1))


def _natural(a: Interval, b: Interval) -> bool:
    return a[0] >= 0 and b[0] >= 0


_ON_INTERVALS = {
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "mul": _products,
    "floordiv": _quotients,
    "mod": _remainders,
    "div": lambda a, b: _quotients(a, b) if _natural(a, b) else None,
    "rem": lambda a, b: _remainders(a, b) if _natural(a, b) else None,
    "min": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "max": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "and": lambda a, b: (0, min(x[1] for x in (a, b) if x[0] >= 0)) if max(a[0], b[0]) >= 0 else None,
    "shr": lambda a, b: (a[0] >> b[1], a[1] >> b[0]) if _natural(a, b) and b[1] < 64 else None,
}
