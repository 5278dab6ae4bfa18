"""AArch64 machine code run where there is no such processor: by Unicorn, QEMU's emulator as a library, on the memory of this process.

Kernels and the driver are compiled for NEON, put into memory and called there; what they load and store has the same addresses for both.
Sources: ELF for the Arm 64-bit Architecture (relocations); Procedure Call Standard for the Arm 64-bit Architecture (registers).
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from struct import pack_into, unpack_from
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
import unicorn
from unicorn import arm64_const as arm

from loopnest.codegen import target
from loopnest.codegen.objects import Machine, target_machine
from loopnest.compiler import kernels, lazy
from loopnest.runtime import driver, elf, executor
from loopnest.runtime.buffers import address_of
from loopnest.runtime.linker import Linked

ROOM = 64 << 20
"""Bytes for code, which is as far as a call may go; they are taken when they are used."""
STACK = 1 << 20
FLOATING_POINT = 3 << 20
"""The field of the register CPACR_EL1 that allows floating point and Advanced SIMD."""
RETURN = 0xD65F03C0
CALLS, MOVES = {282, 283}, {263: 0, 264: 0, 265: 16, 266: 16, 267: 32, 268: 32, 269: 48}
"""Relocations: of branches to functions, and of instructions that move 16 bits of an address, from which bit on."""
PROGBITS, RELA, ALLOC, UNWINDING = 1, 4, 2, ".eh_frame"
OUTSIDE = 4096
"""Bytes of what stands for functions of this process that code calls; to return to the first of them ends the emulation."""


class Code:
    """Memory for code: what stands for functions of this process, then object files as they come."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, ROOM)
        self.base = address_of(np.frombuffer(self.memory, np.uint8))
        self.outside = [""]
        self.end = OUTSIDE
        for at in range(0, OUTSIDE, 4):
            pack_into("<I", self.memory, at, RETURN)

    def place(self, code: bytes) -> dict[str, int]:
        """The addresses of the symbols of an object file, which is put into memory."""
        with aarch64():
            item = elf.Object.read(code)
        starts = dict[int, int]()
        for number, section in enumerate(item.sections):
            if section.kind == PROGBITS and section.flags & ALLOC and section.text != UNWINDING:
                self.end += -self.end % max(section.alignment, 1)
                starts[number] = self.end
                self.memory[self.end : self.end + section.nbytes] = code[section.offset : section.offset + section.nbytes]
                self.end += section.nbytes
        values = [
            self.base + starts.get(symbol.section, 0) + symbol.value if symbol.section else self.function(symbol.name)
            for symbol in item.symbols
        ]
        for section in item.sections:
            if section.kind == RELA and section.info in starts:
                for entry in range(section.offset, section.offset + section.nbytes, 24):
                    offset, info, addend = unpack_from("<QQq", code, entry)
                    self.relocate(starts[section.info] + offset, info & 0xFFFFFFFF, values[info >> 32] + addend)
        return {symbol.name: value for symbol, value in zip(item.symbols, values, strict=True)}

    def function(self, name: str) -> int:
        """What stands for a function of this process."""
        if name not in self.outside:
            self.outside.append(name)
        return self.base + 4 * self.outside.index(name)

    def relocate(self, at: int, kind: int, value: int) -> None:
        (word,) = unpack_from("<I", self.memory, at)
        if kind in CALLS:
            field = (value - self.base - at) >> 2 & 0x3FFFFFF
        else:
            field = (value >> MOVES[kind] & 0xFFFF) << 5
        pack_into("<I", self.memory, at, word | field)


@cache
def code() -> Code:
    return Code()


def call(address: int, *arguments: int) -> int:
    """What the function at ``address`` returns for up to eight integers. ``AssertionError`` where it touches what is no memory."""
    machine = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
    machine.ctl_set_cpu_model(arm.UC_CPU_ARM64_MAX)
    machine.reg_write(arm.UC_ARM64_REG_CPACR_EL1, FLOATING_POINT)
    stack, end, wrong = np.zeros(STACK, np.uint8), code().base, list[str]()
    ranges = list(mappings())

    def map_memory(_: Any, kind: int, address: int, size: int, value: int, data: object) -> bool:
        for start, end, allowed in ranges:
            if start <= address < end:
                machine.mem_map_ptr(start, end - start, allowed, start)
                return True
        wrong.append(f"no memory at {address:#x}")
        return False

    def call_outside(_: Any, address: int, size: int, data: object) -> None:
        call_here(machine, code().outside[(address - end) // 4])

    machine.hook_add(unicorn.UC_HOOK_MEM_UNMAPPED, map_memory)
    machine.hook_add(unicorn.UC_HOOK_CODE, call_outside, None, end + 4, end + OUTSIDE - 1)
    for register, argument in enumerate(arguments):
        machine.reg_write(arm.UC_ARM64_REG_X0 + register, argument % (1 << 64))
    machine.reg_write(arm.UC_ARM64_REG_SP, address_of(stack) + STACK - 64)
    machine.reg_write(arm.UC_ARM64_REG_X30, end)
    try:
        machine.emu_start(address, end)
    except unicorn.UcError as error:
        raise AssertionError(f"{error}, at {machine.reg_read(arm.UC_ARM64_REG_PC):#x}: {', '.join(wrong)}") from error
    result = machine.reg_read(arm.UC_ARM64_REG_X0)
    return result - (1 << 64) if result >> 63 else result


def call_here(machine: Any, name: str) -> None:
    """Calls a function of this process: one of up to two floats of libm, or of up to four integers of libc."""
    floats = {"pow": "<d", "fmod": "<d", "powf": "<f", "fmodf": "<f"}.get(name)
    if floats is None:
        function = ctypes.CDLL(None)[name]
        function.restype = ctypes.c_int64
        values = [ctypes.c_uint64(machine.reg_read(arm.UC_ARM64_REG_X0 + register)) for register in range(4)]
        machine.reg_write(arm.UC_ARM64_REG_X0, function(*values) % (1 << 64))
        return
    kind = np.dtype(floats)
    values = [machine.reg_read(arm.UC_ARM64_REG_D0 + register).to_bytes(8, "little")[: kind.itemsize] for register in range(2)]
    function = ctypes.CDLL("libm.so.6")[name]
    function.restype = ctypes.c_double if kind.itemsize == 8 else ctypes.c_float
    result = function(*(function.restype(np.frombuffer(value, kind)[0]) for value in values))
    machine.reg_write(arm.UC_ARM64_REG_D0, int.from_bytes(np.array(result, kind).tobytes(), "little"))


def mappings() -> Iterator[tuple[int, int, int]]:
    """The memory of this process, from where to where, and what is allowed there; all that can be read counts as code."""
    with open("/proc/self/maps", encoding="ascii") as file:
        for line in file:
            place, allowed, *_ = line.split()
            start, end = (int(text, 16) for text in place.split("-"))
            if allowed[0] == "r":
                writable = unicorn.UC_PROT_WRITE if allowed[1] == "w" else 0
                yield start, end, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC | writable


def link(objects: Mapping[str, tuple[bytes, str]]) -> Linked:
    """``runtime.linker.link`` for the emulator."""
    return Linked(objects, {key: code().place(data)[symbol] for key, (data, symbol) in objects.items()}, ())


@contextmanager
def aarch64() -> Iterator[pytest.MonkeyPatch]:
    """What asks for the processor is told of another one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("platform.machine", lambda: "aarch64")
        yield patch


@cache
def emulated_driver() -> driver.Driver:
    """``runtime.driver.driver`` for the emulator and one thread, without the entry from Python."""
    native, machine = driver.driver(), target_machine(Machine("aarch64-unknown-linux-gnu", "generic", ""))
    with aarch64() as patch:
        patch.setattr(driver, "supported", lambda: False)
        module = llvm.parse_assembly(driver._text())  # type: ignore[reportPrivateUsage]
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    symbols = code().place(machine.emit_object(module))
    return native.replace(run=partial(call, symbols["loopnest_run"]), enter=0, rerun=0)


@contextmanager
def emulated() -> Iterator[str]:
    """The name of a target whose code is emulated as long as this lasts."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (kernels, lazy):
            patch.setattr(module, "link", link)
        patch.setattr(executor, "driver", emulated_driver)
        patch.setattr(target, "_missing", lambda isa: ())  # type: ignore[reportPrivateUsage]
        target._resolve.cache_clear()
        yield "cpu-neon"
    target._resolve.cache_clear()
