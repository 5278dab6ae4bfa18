"""Loops over tasks, compiled by Numba to LLVM IR: once per process for all regions of kernels that have as many loops.

The extents of the loops, constants or not, are arguments here; a kernel's entry point supplies them, and LLVM, which inlines the loops
into it, sees constants again.
"""

# Neither llvmlite nor numba has type stubs, and what pyright infers from their sources is wrong.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportIncompatibleVariableOverride=false

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import llvmlite.ir as ll
from numba.core import codegen, compiler, cpu, registry, sigutils, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.extending import intrinsic
from numba.core.runtime.nrt import rtsys

from .objects import CALLED, LOOPS, simplified_loops
from .source import region_lines


def compile_loops(rank: int) -> str:
    """LLVM IR of the function ``LOOPS`` for a region of ``rank`` loops.

    It takes Numba's result and exception slots, the arguments of a kernel, and the extents of the loops; the tile function ``CALLED`` takes
    buffers, extents and the variables of the loops.
    """
    with global_compiler_lock:
        return _compile_loops(rank)


@cache
def _compile_loops(rank: int) -> str:
    namespace: dict[str, object] = {"tile": _tile(rank), **_INDEX_ARITHMETIC}
    exec(compile(loops_text(rank), "<loops over tasks>", "exec"), namespace)
    flags = compiler.Flags()
    flags.no_compile = True
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    flags.release_gil = True
    flags.error_model = "numpy"
    pointers = types.CPointer(types.CPointer(types.uint8)), types.CPointer(types.int64)
    arguments, result = sigutils.normalize_signature(types.int64(*pointers, *[types.int64] * (2 + rank)))
    typing_context, context = registry.cpu_target.typing_context, _context()
    typing_context.refresh()
    compiled: Any = compiler.compile_extra(typing_context, context, namespace["kernel"], arguments, result, flags, {})
    (text,) = compiled.library.texts
    return simplified_loops(text.replace(compiled.fndesc.llvm_func_name, LOOPS))


def loops_text(rank: int) -> str:
    """The Python that Numba compiles for a region of ``rank`` loops."""
    extents, variables = [f"n{i}" for i in range(rank)], [f"i{i}" for i in range(rank)]
    lines = region_lines("tile", ["buffers", "extents", *variables], variables, extents)
    parameters = ", ".join(["buffers", "extents", "worker", "workers", *extents])
    return "\n".join([f"def kernel({parameters}):", *(f"    {line}" for line in lines), "    return 0", ""])


def _index_intrinsic(name: str, emit: Callable[[ll.IRBuilder, list[ll.Value]], ll.Value], arity: int) -> object:
    """Arithmetic on counts that are not negative: one instruction, where Numba's own compiles Python's floor division."""

    def typer(_context: Any, *arguments: types.Type) -> tuple[Any, Any]:
        return types.int64(*[types.int64] * arity), lambda context, builder, signature, values: emit(builder, values)

    return _intrinsic(typer, name, arity)


def _intrinsic(typer: Callable[..., Any], name: str, arity: int) -> object:
    names = ["_context", *(f"a{i}" for i in range(arity))]
    parameters = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in names]
    typer.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    typer.__name__ = name
    return intrinsic(typer)


_INDEX_ARITHMETIC = {
    "share": _index_intrinsic("share", lambda b, v: b.udiv(b.mul(v[0], v[1]), v[2]), 3),
    "quotient": _index_intrinsic("quotient", lambda b, v: b.udiv(v[0], v[1]), 2),
    "remainder": _index_intrinsic("remainder", lambda b, v: b.urem(v[0], v[1]), 2),
}


def _tile(rank: int) -> object:
    """A call of the tile function, which is not defined here."""

    def define(context: Any, builder: ll.IRBuilder, signature: Any, arguments: list[ll.Value]) -> ll.Value:
        kind = ll.FunctionType(ll.IntType(64), [a.type for a in arguments])
        return builder.call(ll.Function(builder.module, kind, CALLED), arguments)

    def typer(_context: Any, *arguments: types.Type) -> tuple[Any, Any]:
        return types.int64(*arguments), define

    return _intrinsic(typer, "tile", 2 + rank)


class _Library(codegen.JITCodeLibrary):
    """Keeps the text of what Numba lowers, which ``objects`` optimizes."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.texts: list[str] = []

    def add_ir_module(self, ir_module: ll.Module) -> None:
        self.texts.append(str(ir_module))

    def finalize(self) -> None:
        self._finalized = True


class _Codegen(codegen.JITCPUCodegen):
    _library_class = _Library


class _Context(cpu.CPUContext):
    """Numba's CPU context without its reference-counting runtime: kernels allocate nothing."""

    def init(self) -> None:
        self.is32bit = False
        self._internal_codegen = _Codegen("loopnest")

    def load_additional_registries(self) -> None:
        """As Numba's, which would compile its runtime here, for the whole process, in a library that is never finished."""
        ready, rtsys._init = rtsys._init, True
        try:
            super().load_additional_registries()
        finally:
            rtsys._init = ready

    def post_lowering(self, mod: Any, library: Any) -> None:
        """Nothing is linked to the runtime."""


@cache
def _context() -> _Context:
    context = _Context(registry.cpu_target.typing_context, "cpu")
    context.refresh()
    return context
