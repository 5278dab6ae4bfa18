"""The loops that LSTM, GRU and RNN share.

    for d, rows of the batch in parallel:
        for s in steps:
            for block of hidden units:
                sums[R, G, V] = 0                                      vector registers: R rows, G gates, V hidden units
                for k in hidden units:
                    sums[r, g, v] += H[r, k] * R[d, g, v, k]           weights packed in this order
                H'[r, v] = update(sums, x[t])

The state is double-buffered in scratch memory, since every hidden unit of a step reads all of the step before.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ...ir import loops as ir
from ...ir.graph import Node
from .builder import Builder, neutral
from .context import Op
from .infer import Attributes
from .registry import lookup

ROWS = 4
"""Rows of the batch at a time, at most, where nothing else is asked for."""
VECTORS = 8
"""Vectors of hidden units at a time, at most."""


@dataclass(frozen=True)
class Unit:
    """Hidden unit ``j`` of row ``row`` of a tile, whose place in the batch is ``batch``, at time ``time``."""

    row: ir.Expr
    j: ir.Expr
    batch: ir.Expr
    time: ir.Expr


class Recurrence:
    """Emits the loops; ``emit`` calls the operator's ``step``, which calls ``products``, which call its updates, which ``advance``."""

    def __init__(self, op: Op, b: Builder, defaults: Sequence[str], *, remembers: bool = False) -> None:
        self.op, self.b = op, b
        self.weights = op.input(1)
        self.directions, _, self.units = self.weights.sizes
        self.dtype = op.input(0).dtype
        shape = op.input(0).shape
        self.steps, self.batch = (shape[1], shape[0]) if op.attr("layout", 0) else (shape[0], shape[1])
        self.remembers = remembers
        self.functions = _activations(op, tuple(defaults) * self.directions, len(defaults))
        self.rows = 1
        self.direction: ir.Expr = ir.ZERO

    # --- loops -----------------------------------------------------------------------------------------------------------------

    def emit(self, step: Callable[[Recurrence], None]) -> None:
        """All directions and rows; ``step`` emits one time step for ``rows`` rows."""
        assert self.op.target is not None
        tile = self.op.target.register_tile()
        self.budget = tile.rows * tile.vectors
        gates = self.weights.sizes[1] // max(1, self.units)
        batch = ir.hint(self.batch)
        fitting = max(1, min(batch, self.budget // gates))
        most = self.op.choices.take(
            "tile.m", min(fitting, ROWS), range(1, fitting + 1), "there are not as many rows or registers"
        )
        for rows, count, first in ((most, self.batch // most, ir.ZERO), (batch % most, ir.ONE, self.batch // most * most)):
            if rows:
                with (
                    self.b.loop("d", ir.Const(self.directions), "parallel") as d,
                    self.b.loop("block", count, "parallel") as block,
                ):
                    self.rows, self.direction, self.first = rows, d, first + block * rows
                    self._either_direction(step)

    def _either_direction(self, step: Callable[[Recurrence], None]) -> None:
        """The loops over time: the same for both directions unless their activations differ."""
        self.activations = self.functions[0]
        if len(set(self.functions)) == 1:
            self._over_time(step)
            return
        with self.b.when(self.direction.eq(0)):
            self._over_time(step)
        self.activations = self.functions[1]
        with self.b.otherwise():
            self._over_time(step)

    def _over_time(self, step: Callable[[Recurrence], None]) -> None:
        b, rows, units = self.b, self.rows, ir.Const(self.units)
        self.state = b.scratch("h", self.dtype, (2, rows, units))
        self.cell = b.scratch("c", self.dtype, (rows, units)) if self.remembers else None
        self._transpose_weights()
        states = [self.state] if self.cell is None else [self.state, self.cell]
        for i, buffer in enumerate(states):
            with self._each_unit() as (r, j):
                given = self.op.input(3 + i)(*self._state_index(r, j)) if self.op.has(3 + i) else neutral("add", self.dtype)
                b.store(buffer, (ir.ZERO, r, j)[-len(buffer.shape) :], given)
        with b.loop("s", self.steps) as s:
            self.s, self.now = s, b.let("now", s % 2)
            step(self)
        last = b.let("last", self.steps % 2)
        for i, buffer in enumerate(states):
            if self.op.wants(1 + i):
                with self._each_unit() as (r, j):
                    self.op.output(1 + i).store(self._state_index(r, j), buffer(*(last, r, j)[-len(buffer.shape) :]))

    @contextmanager
    def _each_unit(self) -> Generator[tuple[ir.Var, ir.Var]]:
        with self.b.loop("r", ir.Const(self.rows)) as r, self.b.loop("j", ir.Const(self.units), "vector") as j:
            yield r, j

    def _state_index(self, r: ir.Expr, j: ir.Expr) -> tuple[ir.Expr, ...]:
        n = self.first + r
        return (n, self.direction, j) if self.op.attr("layout", 0) else (self.direction, n, j)

    def _transpose_weights(self) -> None:
        """Weights that are data are turned once, so that the inner loop walks them."""
        self.turned = None
        if self.op.value(1) is not None and self.weights.buffer is not None:
            return
        rows = ir.Const(self.weights.sizes[1])
        self.turned = self.b.scratch("turned", self.dtype, (ir.Const(self.units), rows))
        with self.b.loop("k", ir.Const(self.units)) as k, self.b.loop("j", rows, "vector") as j:
            self.b.store(self.turned, (k, j), self.weights(self.direction, j, k))

    # --- one step --------------------------------------------------------------------------------------------------------------

    def products(
        self,
        first: int,
        gates: int,
        factor: Callable[[ir.Expr, ir.Expr], ir.Expr],
        update: Callable[[Unit, Sequence[ir.Expr]], None],
    ) -> None:
        """``update(unit, sums)`` for every hidden unit j, with ``sums[g] = sum_k factor(row, k) * R[first + g, j, k]``."""
        assert self.op.target is not None
        lanes = self.op.target.lanes(self.dtype.bits)
        most = max(1, min(VECTORS, self.budget // (self.rows * gates)))
        vectors = next((v for v in range(most, most // 2, -1) if self.units % (v * lanes) == 0), most)
        wanted = self.op.choices.take("tile.n", vectors * lanes, range(lanes, VECTORS * lanes + 1, lanes))
        columns = min(wanted, self.units)
        blocks, rest = divmod(self.units, columns)
        for start, count, width in ((0, blocks, columns), (blocks * columns, 1, rest)):
            if width:
                with self.b.loop("jo", ir.Const(count)) as jo:
                    self._tile(ir.ZERO if count == 1 else jo, start, width, first, gates, factor, update)

    def _tile(
        self,
        block: ir.Expr,
        start: int,
        width: int,
        first: int,
        gates: int,
        factor: Callable[[ir.Expr, ir.Expr], ir.Expr],
        update: Callable[[Unit, Sequence[ir.Expr]], None],
    ) -> None:
        b = self.b
        sums = b.registers("sums", self.dtype, (self.rows, gates, width))
        with self._unrolled(gates, width) as (r, g, v):
            b.store(sums, (r, g, v), neutral("add", self.dtype))
        with b.loop("k", ir.Const(self.units)) as k, self._unrolled(gates, width) as (r, g, v):
            weight = self._weight(block, start + block * width, first, k, g, v)
            b.store(sums, (r, g, v), ir.Binary("add", sums(r, g, v), factor(r, k) * weight))
        with b.loop("r", ir.Const(self.rows), "unroll") as r:
            self._update(r, start + block * width, width, lambda v: [sums(r, g, v) for g in range(gates)], update)

    @contextmanager
    def _unrolled(self, gates: int, width: int) -> Generator[tuple[ir.Var, ir.Var, ir.Var]]:
        """Loops over all registers of a tile: rows, gates, hidden units."""
        b = self.b
        rows, columns = ir.Const(self.rows), ir.Const(width)
        with b.loop("g", ir.Const(gates), "unroll") as g, b.loop("r", rows, "unroll") as r, b.loop("v", columns, "vector") as v:
            yield r, g, v

    def _weight(self, block: ir.Expr, start: ir.Expr, first: int, k: ir.Var, g: ir.Var, v: ir.Var) -> ir.Expr:
        row = (g + first) * self.units + start + v
        if self.turned is not None:
            return self.turned(k, row)
        order = [x for x in (self.direction, block, k, g, v) if isinstance(x, ir.Var)]
        return self.op.packed(1, (self.direction, row, k), order)

    def _update(
        self,
        r: ir.Expr,
        start: ir.Expr,
        width: int,
        sums: Callable[[ir.Expr], list[ir.Expr]],
        update: Callable[[Unit, Sequence[ir.Expr]], None],
    ) -> None:
        """The update where the row's sequence goes on; elsewhere the state stays and Y is zero."""
        b, n, s = self.b, self.first + r, self.s
        length = self.steps
        if self.op.has(2):
            length = b.let("length", ir.cast(self.op.input(2)(n), ir.INDEX))
            outside = ir.logical("or", length < 0, length > self.steps)
            b.fail_if(outside, "sequence length {value} is negative or more than there are steps", length)
        time = b.let("t", self._time(length))

        def units(emit: Callable[[Unit, ir.Expr], None]) -> None:
            with b.loop("v", ir.Const(width), "vector") as v:
                emit(Unit(r, start + v, n, time), v)

        if not self.op.has(2):
            units(lambda unit, v: update(unit, sums(v)))
            return
        with b.when(s < length):
            units(lambda unit, v: update(unit, sums(v)))
        with b.otherwise():
            units(lambda unit, v: self._stay(unit))

    def _time(self, length: ir.Expr) -> ir.Expr:
        direction = self.op.attr("direction", "forward")
        backward = length - 1 - self.s
        if direction == "bidirectional":
            return ir.select(self.direction.eq(0), self.s, backward)
        return backward if direction == "reverse" else self.s

    # --- for updates -----------------------------------------------------------------------------------------------------------

    def hidden(self, row: ir.Expr, k: ir.Expr) -> ir.Expr:
        """The state before this step."""
        return self.state(self.now, row, k)

    def previous(self, unit: Unit) -> ir.Expr:
        return self.hidden(unit.row, unit.j)

    def memory(self, unit: Unit) -> ir.Expr:
        """The cell before this step (LSTM)."""
        assert self.cell is not None
        return self.cell(unit.row, unit.j)

    def projected(self, unit: Unit, gate: int) -> ir.Expr:
        """What the input gives to a gate."""
        place = (unit.batch, unit.time) if self.op.attr("layout", 0) else (unit.time, unit.batch)
        return self.op.input(0)(*place, self.direction, unit.j + gate * self.units)

    def activate(self, which: int, value: ir.Expr, *, clipped: bool = True) -> ir.Expr:
        """Activation f, g or h (0, 1, 2) of a value, clipped first where the node says so."""
        clip = self.op.attr("clip", 0.0)
        if clip and clipped:
            low, high = ir.wrap(-clip, value.dtype), ir.wrap(clip, value.dtype)
            value = ir.minimum(ir.maximum(value, low), high)
        return self.activations[which](value)

    def advance(self, unit: Unit, state: ir.Expr, memory: ir.Expr | None = None) -> None:
        """Stores the unit's new state, and its output."""
        value = self.b.let("state", state)
        self._store(unit, value, value, unit.time)
        if self.cell is not None and memory is not None:
            self.b.store(self.cell, (unit.row, unit.j), memory)

    def _stay(self, unit: Unit) -> None:
        self._store(unit, self.previous(unit), neutral("add", self.dtype), self.s)

    def _store(self, unit: Unit, state: ir.Expr, output: ir.Expr, time: ir.Expr) -> None:
        self.b.store(self.state, (ir.ONE - self.now, unit.row, unit.j), state)
        if self.op.wants(0):
            batch_first = self.op.attr("layout", 0)
            place = (unit.batch, time, self.direction) if batch_first else (time, self.direction, unit.batch)
            self.op.output(0).store((*place, unit.j), output)


@dataclass(frozen=True)
class Activation:
    """An activation function by the name of its ONNX operator."""

    name: str
    alpha: float = 0.0
    beta: float = 0.0

    def __call__(self, x: ir.Expr) -> ir.Expr:
        if self.name == "Affine":
            return x * self.alpha + self.beta
        if self.name == "ScaledTanh":
            return ir.unary("tanh", x * self.beta) * self.alpha
        definition = lookup("", self.name)
        assert definition is not None
        return definition.define(Attributes(Node(self.name, (), (), {"alpha": self.alpha, "beta": self.beta})), x)


_KNOWN: dict[str, tuple[str, tuple[float, ...]]] = {
    "relu": ("Relu", ()),
    "tanh": ("Tanh", ()),
    "sigmoid": ("Sigmoid", ()),
    "softsign": ("Softsign", ()),
    "softplus": ("Softplus", ()),
    "leakyrelu": ("LeakyRelu", (0.01,)),
    "thresholdedrelu": ("ThresholdedRelu", (1.0,)),
    "elu": ("Elu", (1.0,)),
    "hardsigmoid": ("HardSigmoid", (0.2, 0.5)),
    "affine": ("Affine", (1.0, 0.0)),
    "scaledtanh": ("ScaledTanh", (1.0, 1.0)),
}
"""The operator, and the defaults of alpha and beta where it has them."""


def _activations(op: Op, defaults: Sequence[str], each: int) -> list[tuple[Activation, ...]]:
    """The activations of each direction, ``each`` of them. Those that have an alpha or a beta take the next one given."""
    names = op.attr("activations") or defaults
    if len(names) != len(defaults):
        raise op.fail(f"{len(names)} activations, expected {len(defaults)}")
    given = [iter(op.attr(key) or ()) for key in ("activation_alpha", "activation_beta")]
    found: list[Activation] = []
    for name in names:
        if name.lower() not in _KNOWN:
            raise op.fail(f"unknown activation {name!r}; known are {', '.join(known for known, _ in _KNOWN.values())}")
        known, parameters = _KNOWN[name.lower()]
        found.append(Activation(known, *(next(values, default) for values, default in zip(given, parameters, strict=False))))
    return [tuple(found[i : i + each]) for i in range(0, len(found), each)]
