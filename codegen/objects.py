"""LLVM IR as text to object code: one run of the optimizer, then code generation. Needs nothing but llvmlite."""

# llvmlite has no type stubs, and what pyright infers from its source is wrong.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import llvmlite.binding as llvm

from .llvm import UNROLLED

TILE = "loopnest."
"""What stands before the name of a tile function."""
LOOPS, CALLED = f"{TILE}loops", f"{TILE}tile"
"""The loops over the tasks of a region, which Numba compiles, and the tile function that they call; in a kernel both have the number of
the region."""


@dataclass(frozen=True)
class Machine:
    """The processor that code is made for, in LLVM's terms."""

    triple: str
    cpu: str
    features: str


def optimize(texts: Sequence[str], entry: str, machine: Machine) -> Any:
    """One optimized module of the functions in ``texts``, which may call each other; all but ``entry`` become internal to it.

    Raises ``RuntimeError`` with LLVM's message for text that is not valid.
    """
    native = target_machine(machine)
    module = llvm.parse_assembly(texts[0])
    for text in texts[1:]:
        module.link_in(llvm.parse_assembly(text))
    module.triple, module.data_layout = machine.triple, str(native.target_data)
    for function in module.functions:
        if not function.is_declaration and function.name != entry:
            function.linkage = "internal"
    module.verify()
    _simplify(module, native, entry)
    if any(UNROLLED in text for text in texts):
        _unroll(module, native)
    return module


def object_code(texts: Sequence[str], entry: str, machine: Machine) -> bytes:
    """The relocatable object file of what ``optimize`` makes: the same bytes for the same arguments, in every process."""
    return target_machine(machine).emit_object(optimize(texts, entry, machine))


def loops_of(region: int) -> str:
    """The name of the loops over the tasks of a kernel's region."""
    return f"{LOOPS}_{region}"


def numbered(loops: str, region: int) -> str:
    """The text of ``LOOPS`` as that of the loops of a kernel's region."""
    return loops.replace(f"@{LOOPS}(", f"@{loops_of(region)}(").replace(f"@{CALLED}(", f"@{CALLED}_{region}(")


def simplified_loops(text: str) -> str:
    """The loops over tasks as few instructions that are the same for every processor, to be read again with each kernel."""
    module = llvm.parse_assembly(text)
    for variable in module.global_variables:
        variable.linkage = "internal"
    llvm.initialize_all_targets()
    builder = _passes(llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine())
    everything = builder.getFunctionPassManager()
    for function in module.functions:
        if not function.is_declaration:
            everything.run(function, builder)
    unused = llvm.create_new_module_pass_manager()
    unused.add_global_dead_code_eliminate_pass()
    unused.run(module, builder)
    return str(module)


def _passes(native: Any) -> Any:
    """LLVM's passes of -O1, without those that make vectors."""
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    options.loop_vectorization = options.slp_vectorization = False
    return llvm.create_pass_builder(native, options)


def _simplify(module: Any, native: Any, entry: str) -> None:
    """Inlines what is small, and runs LLVM's function passes once: vectors, and what to unroll, are decided already. The loops over tasks,
    which ``entry`` consists of, have been through them; there, constants are folded.

    What the pipeline of -O3 does besides took longer than all of this, for code that was no faster.
    """
    builder = _passes(native)
    for function in module.functions:
        if not function.is_declaration and not any(b"noinline" in attribute for attribute in function.attributes):
            function.add_function_attribute("alwaysinline")
    inlining = llvm.create_new_module_pass_manager()
    inlining.add_always_inliner_pass()
    inlining.add_global_dead_code_eliminate_pass()
    inlining.run(module, builder)
    everything, folding = builder.getFunctionPassManager(), llvm.create_new_function_pass_manager()
    folding.add_instruction_combine_pass()
    folding.add_simplify_cfg_pass()
    for function in module.functions:
        if not function.is_declaration:
            (folding if function.name == entry else everything).run(function, builder)


def _unroll(module: Any, native: Any) -> None:
    """Unrolls the loops of tile functions that ask for it."""
    builder = llvm.create_pass_builder(native, llvm.create_pipeline_tuning_options(speed_level=1))
    unrolling = llvm.create_new_function_pass_manager()
    unrolling.add_loop_unroll_pass()
    for function in module.functions:
        if not function.is_declaration and function.name.startswith(TILE):
            unrolling.run(function, builder)


@cache
def target_machine(machine: Machine) -> Any:
    """LLVM's code generator for ``machine``; the code may lie anywhere in memory, as a JIT needs it."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(machine.triple)
    reloc = "static" if target.name.startswith("x86") else "default"
    return target.create_target_machine(
        cpu=machine.cpu, features=machine.features, opt=3, reloc=reloc, codemodel="jitdefault", jit=True
    )
