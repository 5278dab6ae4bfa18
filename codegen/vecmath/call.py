"""The table of functions and how one is emitted: once per module and type as an internal function, then called.

An activation that appears in every register of an unrolled tile costs one copy of its code; one that appears a few times is
left to LLVM, which inlines it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from .. import llvm as ir
from .value import V, Value, suffix

Emitter = Callable[..., Value]
B = TypeVar("B", bound=Callable[..., V])

UNARY: dict[str, Emitter] = {}
BINARY: dict[str, Emitter] = {}
_BODIES: dict[str, Callable[..., V]] = {}


def unary(body: Callable[[V], V]) -> Callable[[V], V]:
    """Enters ``body`` into ``UNARY`` as a function that is emitted once per module and called."""
    return _enter(UNARY, body, emit_call)


def binary(body: Callable[[V, V], V]) -> Callable[[V, V], V]:
    """Enters ``body`` into ``BINARY`` as a function that is emitted once per module and called."""
    return _enter(BINARY, body, emit_call)


def unary_inline(body: Callable[[V], V]) -> Callable[[V], V]:
    """Enters ``body``, a few instructions, into ``UNARY``; it is emitted in place."""
    return _enter(UNARY, body, emit_inline)


def binary_inline(body: Callable[[V, V], V]) -> Callable[[V, V], V]:
    """Enters ``body``, a few instructions, into ``BINARY``; it is emitted in place."""
    return _enter(BINARY, body, emit_inline)


def _enter(table: dict[str, Emitter], body: B, emit: Emitter) -> B:
    name = body.__name__.rstrip("_")

    def emitter(builder: ir.IRBuilder, *operands: Value) -> Value:
        return emit(builder, name, *operands)

    emitter.__name__ = name
    emitter.__doc__ = body.__doc__
    _BODIES[name] = body
    table[name] = emitter
    return body


def emit_inline(builder: ir.IRBuilder, name: str, *operands: Value) -> Value:
    """The code of function ``name`` appended at the builder's position (it may add basic blocks)."""
    return _BODIES[name](*(V(builder, operand) for operand in operands)).value


class MathFunction(ir.Function):
    """An internal function of a module; ``calls`` counts its uses."""

    __slots__ = ("calls",)

    def __init__(self, module: ir.Module, kind: ir.FunctionType, name: str) -> None:
        super().__init__(module, kind, name)
        self.calls = 0


_INLINED_INSTRUCTIONS = 600
"""Up to so many instructions in all, LLVM may inline the calls of one function in a module. A call costs 2.5 ns for eight lanes
(constants are loaded again, registers spilled), half of an exp; inlining a sine twelve times costs 80 ms of compile time, a GELU 8 ms."""


def emit_call(builder: ir.IRBuilder, name: str, *operands: Value) -> Value:
    """A call of the internal function ``loopnest.<name>.<type>``, which the first call defines in the builder's module.

    For the functions that return their operands' type: all but ``isnan`` and ``isinf``.
    """
    type_ = operands[0].type
    symbol = f"loopnest.{name}.{suffix(type_)}"
    function = builder.module.globals.get(symbol)
    if function is None:
        function = MathFunction(builder.module, ir.FunctionType(type_, [type_] * len(operands)), symbol)
        function.linkage = "internal"
        function.attributes.add("nounwind")
        inner = ir.IRBuilder(function.append_basic_block("entry"))
        inner.ret(emit_inline(inner, name, *function.args))
    assert isinstance(function, MathFunction)
    function.calls += 1
    if function.calls * function.instructions > _INLINED_INSTRUCTIONS:
        function.attributes.add("noinline")
    return builder.call(function, operands)
