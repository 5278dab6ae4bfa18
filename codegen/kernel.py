"""From a kernel's source to object code: Numba compiles the loops, and each tile function is an intrinsic that emits LLVM.

The code follows Numba's calling convention (status returned; result and exception slots first) and refers to nothing but libm,
so that it can be linked and called without Numba.
"""

# Neither llvmlite nor numba has type stubs, and what pyright infers from their sources is wrong.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportIncompatibleVariableOverride=false

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import llvmlite.ir as ll
from numba.core import codegen, compiler, cpu, registry, sigutils, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.extending import intrinsic

from . import arith
from .emit import Emitter
from .source import KernelSource, TileFunction
from .target import Target

_BUFFERS = types.CPointer(types.CPointer(types.uint8))
_EXTENTS = types.CPointer(types.int64)
_SIGNATURE = types.int64(_BUFFERS, _EXTENTS, types.int64, types.int64)


@dataclass(frozen=True)
class CompiledKernel:
    """Object code and the symbol of the kernel in it."""

    object: bytes
    symbol: str
    llvm: Callable[[], str]
    assembly: Callable[[], str]


def compile_kernel(source: KernelSource, target: Target) -> CompiledKernel:
    """Machine code for ``source`` on ``target``. Thread safe; compiles one kernel at a time, as Numba does."""
    with global_compiler_lock:
        function = _python_function(source, {t.name: _tile_intrinsic(t, source, target) for t in source.tiles})
        flags = compiler.Flags()
        flags.no_compile = True
        flags.no_cpython_wrapper = True
        flags.no_cfunc_wrapper = True
        flags.release_gil = True
        flags.error_model = "numpy"
        arguments, result = sigutils.normalize_signature(_SIGNATURE)
        typing_context = registry.cpu_target.typing_context
        typing_context.refresh()
        context = _context(target)
        compiled: Any = compiler.compile_extra(typing_context, context, function, arguments, result, flags, {})
        library = compiled.library
        library.finalize()
        module, machine = library._final_module, context.codegen()._tm
        return CompiledKernel(
            machine.emit_object(module),
            compiled.fndesc.llvm_func_name,
            lambda: str(module),
            lambda: machine.emit_assembly(module),
        )


def _python_function(source: KernelSource, tiles: dict[str, object]) -> Callable[..., int]:
    """The kernel's Python function, with its tile functions replaced. The text is our own, printed from the loop IR."""
    outer = source.text[source.text.index("def kernel(") :]
    namespace: dict[str, object] = {**tiles, **_INDEX_ARITHMETIC}
    exec(compile(outer, f"<{source.nest.name}>", "exec"), namespace)
    return namespace["kernel"]  # type: ignore[return-value]


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


def _tile_intrinsic(function: TileFunction, source: KernelSource, target: Target) -> object:
    def define(context: Any, builder: ll.IRBuilder, signature: Any, arguments: list[ll.Value]) -> ll.Value:
        symbol = _emit_tile(builder.module, function, source, target)
        return builder.call(symbol, arguments)

    def typer(_context: Any, *arguments: types.Type) -> tuple[Any, Any]:
        return types.int64(*arguments), define

    return _intrinsic(typer, function.name, 1 + len(function.buffers) + len(function.variables))


def _emit_tile(module: ll.Module, function: TileFunction, source: KernelSource, target: Target) -> ll.Function:
    """The tile as a function of its own: pointers that do not alias, so that LLVM may keep loads in registers across stores."""
    pointer = ll.PointerType()
    arguments = [pointer] * (1 + len(function.buffers))
    arguments += [arith.value_type(v.dtype) for v in function.variables]
    symbol = ll.Function(module, ll.FunctionType(arith.I64, arguments), f"loopnest.{function.name}")
    symbol.linkage = "internal"
    symbol.attributes.add("nounwind")
    shared = frozenset(name for pair in source.nest.inplace for name in pair)
    for argument, buffer in zip(symbol.args[1:], function.buffers, strict=False):
        argument.name = buffer.name
        if buffer.name not in shared:
            argument.add_attribute("noalias")
    symbol.args[0].name = "extents"
    symbol.args[0].add_attribute("noalias")
    builder = ll.IRBuilder(symbol.append_basic_block("entry"))
    buffers = dict(zip(function.buffers, symbol.args[1:], strict=False))
    emitter = Emitter(builder, target, symbol.args[0], buffers, shared=shared)
    emitter.values.update(zip(function.variables, symbol.args[1 + len(function.buffers) :], strict=True))
    for i, param in enumerate(source.params, 1):
        address = builder.gep(symbol.args[0], [arith.I64(i)], source_etype=arith.I64)
        emitter.values[param] = builder.load(address, name=param.name, typ=arith.I64)
    emitter.body(function.tile.body)
    builder.ret(arith.I64(0))
    return symbol


class _Library(codegen.JITCodeLibrary):
    """One run of LLVM's optimizer over the whole module: there are no reference counts to remove before it."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        passes, builder = self._codegen._module_pass_manager()
        passes.run(self._final_module, builder)


class _Codegen(codegen.JITCPUCodegen):
    """Numba's code generator for a target of ours; vectors are explicit, so LLVM's own vectorizers are left out."""

    _library_class = _Library

    def __init__(self, name: str, target: Target) -> None:
        self._target_record = target
        super().__init__(name)

    def _get_host_cpu_name(self) -> str:
        return self._target_record.cpu

    def _get_host_cpu_features(self) -> str:
        return self._target_record.features

    def _add_module(self, module: Any) -> None:
        """Nothing is linked here: the object code goes to the cache and to the runtime's linker."""

    def _scan_and_fix_unresolved_refs(self, module: Any) -> None:
        """Likewise."""

    def _pass_builder(self, **kwargs: Any) -> Any:
        return super()._pass_builder(**{**kwargs, "loop_vectorize": False, "slp_vectorize": False})


class _Context(cpu.CPUContext):
    """Numba's CPU context without its reference-counting runtime: kernels allocate nothing."""

    def __init__(self, typing_context: Any, target: Target) -> None:
        self._target_record = target
        super().__init__(typing_context, "cpu")

    def init(self) -> None:
        self.is32bit = False
        self._internal_codegen = _Codegen("loopnest", self._target_record)


@cache
def _context(target: Target) -> _Context:
    context = _Context(registry.cpu_target.typing_context, target)
    context.refresh()
    return context
