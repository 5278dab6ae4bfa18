"""Vector math as LLVM code of our own: functions of whole registers, each with a bound on its error.

``UNARY[name](builder, x)`` and ``BINARY[name](builder, x, y)`` take scalars or vectors (any number of lanes) of float or
double, operands of one type, and return a value of that type (``isnan`` and ``isinf``: of ``i1``). Functions of more than a
few instructions are emitted once per module, as internal functions ``loopnest.<name>.<type>``, and called; LLVM inlines
them where that pays.

Bounds are in units in the last place of the result and hold on targets with and without FMA. float32 calls no libm but for
``fmod`` with quotients beyond 2^28, and rounding on x86 without SSE4.1; float64 calls libm where a docstring says so.
"""

from __future__ import annotations

from . import basic, exponential, logarithm, power, special, trigonometric
from .call import BINARY, UNARY, Emitter, emit_call, emit_inline

__all__ = ["BINARY", "UNARY", "Emitter", "emit_call", "emit_inline"]

_FAMILIES = (basic, exponential, logarithm, power, special, trigonometric)  # imported for their entries in the tables
