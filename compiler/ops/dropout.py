"""Dropout (ONNX operator specification, opset 13): the identity, unless it trains.

In training the mask is what NumPy's ``RandomState(seed)`` gives, as the specification's own tests have it: the Mersenne Twister MT19937
(Matsumoto, Nishimura 1998), two words an element. It is serial; inference never runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from ...ir import dtypes
from ...ir import loops as ir
from ...ir.graph import TensorType, Type
from ..schedule.strided import strided_loops
from ..seeds import seed_input
from .builder import Builder
from .context import Op
from .infer import InferContext
from .registry import nest

_WORDS, _SHIFT = 624, 397
U32 = dtypes.uint32


def _infer(context: InferContext) -> list[Type]:
    return [context.tensor(0), TensorType(dtypes.bool_, context.shape(0))]


@nest("Dropout", infer=_infer, values=(1, 2))
def dropout(op: Op, b: Builder) -> None:
    """y = x * mask / (1 - ratio), and the mask."""
    ratio, training = op.value(1), op.value(2)
    dropped = 0.5 if ratio is None else float(ratio)
    if training is not None and bool(training) and dropped != 0.0:
        _train(op, b, dropped)
    else:
        strided_loops(b, op.input(0).shape, lambda index: _store(op, index, ir.TRUE, 1.0))


def _store(op: Op, index: Sequence[ir.Expr], kept: ir.Expr, scale: float) -> None:
    x = op.input(0)(*index)
    if op.wants(0):
        op.output(0).store(index, x if scale == 1.0 else ir.select(kept, x * scale, ir.wrap(0.0, x.dtype)))
    if op.wants(1):
        op.output(1).store(index, kept)


def _train(op: Op, b: Builder, dropped: float) -> None:
    shape = op.input(0).shape
    size = reduce(ir.mul, shape, ir.ONE)
    state = b.scratch("state", U32, (_WORDS,))
    seed = op.attr("seed")
    first = op.input(seed_input("Dropout"))(ir.ZERO) if seed is None else ir.Const(int(seed) & 0xFFFF_FFFF)
    _seed(b, state, first)
    per_round = _WORDS // 2
    with b.loop("round", (size + (per_round - 1)) // per_round) as turn:
        _twist(b, state)
        start = turn * per_round
        with b.loop("j", ir.minimum(ir.Const(per_round), ir.sub(size, start))) as j:
            uniform = _double(_tempered(state(j * 2)), _tempered(state(j * 2 + 1)))
            index: list[ir.Expr] = []
            rest = b.let("at", start + j)
            for extent in reversed(shape):
                index.insert(0, ir.mod(rest, extent))
                rest = ir.floordiv(rest, extent)
            _store(op, index, b.let("kept", uniform >= dropped), 1.0 / (1.0 - dropped))


def _seed(b: Builder, state: ir.Buffer, seed: ir.Expr) -> None:
    """The state for the low 32 bits of a seed."""
    b.store(state, (ir.ZERO,), ir.cast(seed, U32))
    with b.loop("i", _WORDS - 1) as i:
        last = b.let("last", state(i))
        mixed = (last ^ _right(last, 30)) * 1812433253
        b.store(state, (i + 1,), mixed + ir.cast(i + 1, U32))


def _twist(b: Builder, state: ir.Buffer) -> None:
    """The next 624 words."""
    with b.loop("i", _WORDS) as i:
        joined = b.let("joined", (state(i) & 0x8000_0000) | (state((i + 1) % _WORDS) & 0x7FFF_FFFF))
        odd = (joined & 1) * 0x9908B0DF
        b.store(state, (i,), state((i + _SHIFT) % _WORDS) ^ _right(joined, 1) ^ odd)


def _tempered(word: ir.Expr) -> ir.Expr:
    word = word ^ _right(word, 11)
    word = word ^ (_left(word, 7) & 0x9D2C5680)
    word = word ^ (_left(word, 15) & 0xEFC60000)
    return word ^ _right(word, 18)


def _double(a: ir.Expr, b: ir.Expr) -> ir.Expr:
    """A float64 in [0, 1) from 27 bits of one word and 26 of another."""
    return (ir.cast(_right(a, 5), dtypes.float64) * 67108864.0 + ir.cast(_right(b, 6), dtypes.float64)) * (
        1.0 / 9007199254740992.0
    )


def _left(word: ir.Expr, bits: int) -> ir.Expr:
    return ir.Binary("shl", word, ir.Const(bits, U32))


def _right(word: ir.Expr, bits: int) -> ir.Expr:
    return ir.Binary("shr", word, ir.Const(bits, U32))
