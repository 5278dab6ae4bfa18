"""LSTM, GRU and RNN (ONNX operator specification, opset 22): their types, and the recurrence that is left of them.

``passes.recurrent`` takes the product of all time steps with the input weights out of the operator:

    LSTM(x, W, R, B)  =>  loopnest.LSTM(x @ W^T + b, R)

Recurrent inputs: 0 projected x [T, B, D, G * H] (layout 1: [B, T, D, G * H]), 1 R [D, G * H, H], 2 sequence_lens [B], 3 initial_h,
4 initial_c, 5 peepholes P [D, 3 * H], 6 the bias of GRU's hidden gate where the reset gate comes after the product [D, H].
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ir import loops as ir
from ...ir.graph import TensorType
from .builder import Builder
from .context import Op
from .infer import InferContext
from .recurrence import Recurrence, Unit
from .registry import nest

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
"""Gates in the order in which weights hold them: LSTM i, o, f, c; GRU z, r, h."""


def infer(context: InferContext) -> list[TensorType]:
    """The types of Y, Y_h (and Y_c of LSTM). Every shape that the loops rely upon is checked."""
    gates = GATES[context.node.op]
    x, w, r = context.shape(0), context.shape(1), context.shape(2)
    if len(x) != 3 or len(w) != 3 or len(r) != 3:
        raise context.fail(f"X, W and R must have rank 3, they have shapes {x}, {w} and {r}")
    steps, batch = _steps_and_batch(context, x)
    directions, hidden = r[0], r[2]
    expected = {
        1: ("W", (directions, gates * hidden, x[2])),
        2: ("R", (directions, gates * hidden, hidden)),
        3: ("B", (directions, 2 * gates * hidden)),
        4: ("sequence_lens", (batch,)),
        5: ("initial_h", state_shape(context, directions, batch, hidden)),
        6: ("initial_c", state_shape(context, directions, batch, hidden)),
        7: ("P", (directions, 3 * hidden)),
    }
    for i, (name, shape) in expected.items():
        if context.has(i) and context.shape(i) != shape:
            raise context.fail(f"{name} has shape {context.shape(i)}, expected {shape}")
    if context.attr("hidden_size", hidden) != hidden:
        raise context.fail(f"hidden_size is {context.attr('hidden_size')}, but R has {hidden}")
    if directions != (2 if context.attr("direction") == "bidirectional" else 1):
        raise context.fail(f"W and R have {directions} directions, direction is {context.attr('direction', 'forward')!r}")
    return _output_types(context, steps, batch, directions, hidden)


def infer_recurrence(context: InferContext) -> list[TensorType]:
    steps, batch = _steps_and_batch(context, context.shape(0))
    return _output_types(context, steps, batch, context.shape(1)[0], context.shape(1)[2])


def _steps_and_batch(context: InferContext, x: tuple[int, ...]) -> tuple[int, int]:
    return (x[1], x[0]) if context.attr("layout", 0) else (x[0], x[1])


def state_shape(context: InferContext, directions: int, batch: int, hidden: int) -> tuple[int, ...]:
    return (batch, directions, hidden) if context.attr("layout", 0) else (directions, batch, hidden)


def _output_types(context: InferContext, steps: int, batch: int, directions: int, hidden: int) -> list[TensorType]:
    dtype, state = context.dtype(0), state_shape(context, directions, batch, hidden)
    y = (batch, steps, directions, hidden) if context.attr("layout", 0) else (steps, directions, batch, hidden)
    return [TensorType(dtype, y), TensorType(dtype, state), TensorType(dtype, state)]


@nest("LSTM", "GRU", "RNN", infer=infer)
def whole(op: Op, b: Builder) -> None:
    raise AssertionError(f"{op.node} reached lowering as a whole: passes.recurrent takes its input product out")


@nest("RNN", domain="loopnest", infer=infer_recurrence)
def rnn(op: Op, b: Builder) -> None:
    """H = f(x + H R^T)"""

    def step(cell: Recurrence) -> None:
        def update(unit: Unit, sums: Sequence[ir.Expr]) -> None:
            cell.advance(unit, cell.activate(0, cell.projected(unit, 0) + sums[0]))

        cell.products(0, 1, cell.hidden, update)

    Recurrence(op, b, ("Tanh",)).emit(step)


@nest("GRU", domain="loopnest", infer=infer_recurrence)
def gru(op: Op, b: Builder) -> None:
    """z = f(x_z + H R_z^T), r = f(x_r + H R_r^T), h = g(x_h + (r H) R_h^T) or g(x_h + r (H R_h^T + b)), H = (1 - z) h + z H"""

    def step(cell: Recurrence) -> None:
        def new(unit: Unit, z: ir.Expr, h: ir.Expr) -> None:
            one = ir.wrap(1, h.dtype)
            cell.advance(unit, (one - z) * h + z * cell.previous(unit))

        def together(unit: Unit, sums: Sequence[ir.Expr]) -> None:
            z = cell.activate(0, cell.projected(unit, 0) + sums[0])
            r = cell.activate(0, cell.projected(unit, 1) + sums[1])
            product = sums[2] + op.input(6)(cell.direction, unit.j) if op.has(6) else sums[2]
            new(unit, z, cell.activate(1, cell.projected(unit, 2) + r * product))

        def gates(unit: Unit, sums: Sequence[ir.Expr]) -> None:
            b.store(update, (unit.row, unit.j), cell.activate(0, cell.projected(unit, 0) + sums[0]))
            r = cell.activate(0, cell.projected(unit, 1) + sums[1])
            b.store(reset, (unit.row, unit.j), r * cell.previous(unit))

        def candidate(unit: Unit, sums: Sequence[ir.Expr]) -> None:
            new(unit, update(unit.row, unit.j), cell.activate(1, cell.projected(unit, 2) + sums[0]))

        if op.attr("linear_before_reset", 0):
            cell.products(0, 3, cell.hidden, together)
        else:
            update, reset = (b.scratch(name, cell.dtype, (cell.rows, cell.units)) for name in ("z", "rh"))
            cell.products(0, 2, cell.hidden, gates)
            cell.products(2, 1, reset, candidate)

    Recurrence(op, b, ("Sigmoid", "Tanh")).emit(step)


@nest("LSTM", domain="loopnest", infer=infer_recurrence)
def lstm(op: Op, b: Builder) -> None:
    """i = f(x_i + H R_i^T + P_i C), f = f(x_f + H R_f^T + P_f C), c = g(x_c + H R_c^T), C' = f C + i c,
    o = f(x_o + H R_o^T + P_o C'), H' = o h(C')"""

    def step(cell: Recurrence) -> None:
        def update(unit: Unit, sums: Sequence[ir.Expr]) -> None:
            i, o, f, c = (cell.projected(unit, gate) + total for gate, total in enumerate(sums))
            old = b.let("old", cell.memory(unit))
            i = b.let("i", cell.activate(0, _peep(cell, unit, 0, i, old)))
            f = ir.wrap(1, i.dtype) - i if op.attr("input_forget", 0) else cell.activate(0, _peep(cell, unit, 2, f, old))
            memory = b.let("memory", f * old + i * cell.activate(1, c))
            o = cell.activate(0, _peep(cell, unit, 1, o, memory))
            cell.advance(unit, o * cell.activate(2, memory, clipped=False), memory)

        cell.products(0, 4, cell.hidden, update)

    Recurrence(op, b, ("Sigmoid", "Tanh", "Tanh"), remembers=True).emit(step)


def _peep(cell: Recurrence, unit: Unit, gate: int, value: ir.Expr, memory: ir.Expr) -> ir.Expr:
    """``value`` with what gate i, o or f (0, 1, 2) sees of the memory."""
    op = cell.op
    return value + op.input(5)(cell.direction, unit.j + gate * cell.units) * memory if op.has(5) else value
