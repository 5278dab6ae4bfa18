"""From a kernel's source to object code: tiles and entry point emitted as LLVM, loops over tasks compiled by Numba, all optimized together.

The code follows Numba's calling convention (status returned; result and exception slots first) and refers to nothing but libm,
so that it can be linked and called without Numba.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..ir import loops as ir
from . import arith, collector, objects
from . import llvm as ll
from .emit import Emitter
from .numbering import Builder
from .objects import Machine
from .source import KernelSource, TileFunction
from .target import Target

_POINTER = ll.PointerType()
_STATUS = ll.IntType(32)


@dataclass(frozen=True)
class KernelModule:
    """A kernel as LLVM IR before optimization: ``text`` has regions of ``ranks`` loops (see ``outer``); ``symbol`` is its entry point."""

    text: str
    ranks: tuple[int, ...]
    symbol: str
    machine: Machine

    @property
    def needs(self) -> tuple[int, ...]:
        """The numbers of loops that there are around its tiles, each once."""
        return tuple(sorted(set(self.ranks)))

    def object_code(self, loops: Sequence[bytes] | None = None) -> bytes:
        """The kernel's object file, made in this process; ``loops`` are the texts of those that it ``needs``, if they are there already."""
        return objects.object_code(self._texts(loops), self.symbol, self.machine)

    def message(self, loops: Sequence[bytes]) -> list[bytes]:
        """What asks ``child`` for the object code."""
        machine = self.machine
        return [
            part.encode()
            for part in ("object", self.symbol, machine.triple, machine.cpu, machine.features, *self._texts(loops))
        ]

    def _texts(self, loops: Sequence[bytes] | None = None) -> list[str]:
        """All that is optimized together."""
        made = [text.decode() for text in loops] if loops is not None else [loops_over_tasks(rank) for rank in self.needs]
        by_rank = dict(zip(self.needs, made, strict=True))
        return [self.text, *(objects.numbered(by_rank[rank], region) for region, rank in enumerate(self.ranks))]

    def llvm(self) -> str:
        """The optimized IR."""
        return str(self._optimized())

    def assembly(self) -> str:
        return objects.target_machine(self.machine).emit_assembly(self._optimized())

    def _optimized(self) -> Any:
        return objects.optimize(self._texts(), self.symbol, self.machine)


def loops_over_tasks(rank: int) -> str:
    """The LLVM IR of so many loops, from Numba."""
    from .outer import compile_loops

    return compile_loops(rank)


def emit_kernel(source: KernelSource, target: Target) -> KernelModule:
    """The LLVM IR of ``source`` for ``target``: the same text for the same source and target, in every process."""
    ranks = tuple(len(region.extents) for region in source.regions)
    symbol = f"loopnest_{hashlib.sha256(source.text.encode()).hexdigest()[:24]}"
    with collector.paused():
        module = ll.Module(symbol, fused=target.fma)
        for region in source.regions:
            _emit_tile(module, region.function, source, target)
        _emit_entry(module, symbol, source, target)
        text = str(module)
    return KernelModule(text, ranks, symbol, Machine(target.triple, target.cpu, target.features))


def _emit_entry(module: ll.Module, symbol: str, source: KernelSource, target: Target) -> None:
    """The kernel's entry point: the loops over tasks of each region, with the extents of these loops, until one gives an error's code."""
    arguments = [_POINTER, _POINTER, _POINTER, _POINTER, arith.I64, arith.I64]
    entry = ll.Function(module, ll.FunctionType(_STATUS, arguments), symbol)
    builder = Builder(entry.append_basic_block("entry"))
    emitter = _emitter(builder, source, target, entry.args[3], {})
    last = len(source.regions) - 1
    for number, region in enumerate(source.regions):
        kind = ll.FunctionType(_STATUS, [*arguments, *[arith.I64] * len(region.extents)])
        loops = ll.Function(module, kind, objects.loops_of(number))
        status = builder.call(loops, [*entry.args, *(emitter.value(extent) for extent in region.extents)])
        if number == last:
            builder.ret(status)
            break
        code = builder.load(entry.args[0], typ=arith.I64)
        with builder.if_then(builder.icmp_signed("!=", code, arith.I64(0)), unlikely=True):
            builder.ret(status)


def _emit_tile(module: ll.Module, function: TileFunction, source: KernelSource, target: Target) -> None:
    """The tile's function of a task, and around it the one that the loops call, which takes all buffers."""
    body = _emit_body(module, function, source, target)
    loop_variables = next(region.variables for region in source.regions if region.function is function)
    kind = ll.FunctionType(arith.I64, [_POINTER, _POINTER, *[arith.I64] * len(loop_variables)])
    symbol = ll.Function(module, kind, f"{objects.TILE}{function.name}")
    builder = Builder(symbol.append_basic_block("entry"))
    buffers, extents, *variables = symbol.args
    values = dict(zip(loop_variables, variables, strict=True))
    arguments: list[ll.Value] = [extents]
    for buffer in function.buffers:
        address = builder.gep(buffers, [arith.I64(source.nest.buffers.index(buffer))], source_etype=_POINTER)
        arguments.append(builder.load(address, typ=_POINTER))
    builder.ret(builder.call(body, [*arguments, *(values[v] for v in function.variables)]))


def _emit_body(module: ll.Module, function: TileFunction, source: KernelSource, target: Target) -> ll.Function:
    """One task: pointers that do not alias, so that LLVM may keep loads in registers across stores. It is not inlined, since LLVM would
    optimize it again in each function around it; a call per task costs nothing."""
    arguments = [_POINTER] * (1 + len(function.buffers))
    arguments += [arith.value_type(v.dtype) for v in function.variables]
    symbol = ll.Function(module, ll.FunctionType(arith.I64, arguments), f"loopnest.body.{function.name}")
    symbol.attributes.add("nounwind")
    symbol.attributes.add("noinline")
    shared = frozenset(name for pair in source.nest.inplace for name in pair)
    for argument, buffer in zip(symbol.args[1:], function.buffers, strict=False):
        argument.text = symbol.unique(buffer.name)
        if buffer.name not in shared:
            argument.add_attribute("noalias")
    symbol.args[0].text = symbol.unique("extents")
    symbol.args[0].add_attribute("noalias")
    builder = Builder(symbol.append_basic_block("entry"), half="f16c" in target.requires)
    buffers = dict(zip(function.buffers, symbol.args[1:], strict=False))
    emitter = _emitter(builder, source, target, symbol.args[0], buffers)
    emitter.shared = shared
    emitter.values.update(zip(function.variables, symbol.args[1 + len(function.buffers) :], strict=True))
    emitter.body(function.tile.body)
    builder.ret(arith.I64(0))
    return symbol


def _emitter(
    builder: Builder, source: KernelSource, target: Target, extents: ll.Value, buffers: Mapping[ir.Buffer, ll.Value]
) -> Emitter:
    """An emitter at ``builder`` that knows where the parameters of the kernel are."""
    return Emitter(builder, target, extents, buffers, {param: place for place, param in enumerate(source.params, 1)})
