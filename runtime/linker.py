"""Object code to addresses, through llvmlite alone: no Numba, no compiler.

The objects are relocatable files as LLVM wrote them (`library._get_compiled_object()` of a Numba function). They may refer to symbols
of libm, libc and the driver, and to nothing else: every undefined symbol is looked up before LLVM sees the object, since LLVM would
end the process on one that it cannot find.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from struct import Struct
from struct import error as StructError
from types import MappingProxyType
from typing import Any, NamedTuple

import llvmlite.binding as llvm

from ..ir.errors import LoopnestError
from .forks import Work

_LIBRARIES = ("libm.so.6", "libgcc_s.so.1")
_lock = Work()
_ready: list[bool] = []


class LinkError(LoopnestError, RuntimeError):
    """Object code cannot be linked: damaged, or in need of a symbol that this process does not have."""


class Linked:
    """Machine code in memory, which lives as long as this object; ``objects`` is what it was linked from."""

    def __init__(self, objects: Mapping[str, tuple[bytes, str]], addresses: Mapping[str, int], engines: Iterable[Any]) -> None:
        self.objects = dict(objects)
        self.addresses = dict(addresses)
        self._engines = tuple(engines)

    def address(self, key: str) -> int:
        """Where the symbol linked under ``key`` starts; ``KeyError`` when there is none."""
        return self.addresses[key]


def link(objects: Mapping[str, tuple[bytes, str]]) -> Linked:
    """Loads object files and finds one symbol in each: ``{key: (object bytes, symbol name)}``.

    Objects share an engine unless they define the same name (Numba's counters start anew in every process). Raises ``LinkError``.
    Safe from many threads.
    """
    with _lock:
        initialize()
        engines: list[_Engine] = []
        places: dict[str, _Engine] = {}
        for key, (code, symbol) in objects.items():
            symbols = _symbols_for(key, code, symbol)
            engine = next((engine for engine in engines if engine.defined.isdisjoint(symbols.defined)), None)
            if engine is None:
                engine = _Engine()
                engines.append(engine)
            engine.add(key, code, symbols.defined)
            places[key] = engine
        for engine in engines:
            engine.native.finalize_object()
        addresses = {key: places[key].native.get_function_address(symbol) for key, (_, symbol) in objects.items()}
        missing = [key for key, address in addresses.items() if not address]
        if missing:
            raise LinkError(f"no machine code found for kernel {missing[0]}")
        return Linked(objects, addresses, (engine.native for engine in engines))


def compile_ir(text: str, opt: int = 0) -> Any:
    """An engine holding the machine code of a module of LLVM IR, which is not optimized but for what code generation does at level ``opt``.

    Keep the engine as long as its functions are used. Raises ``RuntimeError`` where the text is not valid.
    """
    return load_object(emit_ir(text, opt))


def emit_ir(text: str, opt: int = 0) -> bytes:
    """The object code of a module of LLVM IR for this machine. Raises ``RuntimeError`` where the text is not valid."""
    with _lock:
        initialize()
        module = llvm.parse_assembly(text)
        module.verify()
        machine = _target_machine(opt)
        module.triple, module.data_layout = llvm.get_process_triple(), str(machine.target_data)
        return machine.emit_object(module)


def load_object(code: bytes) -> Any:
    """An engine holding the machine code of an object file, whose symbols this process has. Raises ``LinkError``."""
    with _lock:
        initialize()
        engine = _Engine()
        engine.add("the driver", code, frozenset())
        engine.native.finalize_object()
        return engine.native


def initialize() -> None:
    """Prepares LLVM for this machine and makes the symbols of libm visible to it, once per process."""
    with _lock:
        if _ready:
            return
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        for library in _LIBRARIES:
            try:
                llvm.load_library_permanently(library)
            except RuntimeError:
                continue  # another platform, where libm is part of libc; a symbol that is missing then is named when it is needed
        _ready.append(True)


def _target_machine(opt: int = 0) -> Any:
    return llvm.Target.from_default_triple().create_target_machine(opt=opt, jit=True)


class _Engine:
    def __init__(self) -> None:
        self.native: Any = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())
        self.defined: set[str] = set()

    def add(self, key: str, code: bytes, defined: frozenset[str]) -> None:
        try:
            self.native.add_object_file(llvm.ObjectFileRef.from_data(code))
        except (RuntimeError, ValueError) as error:
            raise LinkError(f"the object code of kernel {key} is damaged: {error}") from error
        self.defined |= defined


class Symbols(NamedTuple):
    """The global names of an object file: what it defines, and what it expects elsewhere."""

    defined: frozenset[str]
    undefined: frozenset[str]


def _symbols_for(key: str, code: bytes, symbol: str) -> Symbols:
    if llvm.get_object_format() != "ELF":
        return Symbols(frozenset((symbol,)), frozenset())
    try:
        symbols = elf_symbols(code)
    except (StructError, ValueError, IndexError) as error:
        raise LinkError(f"the object code of kernel {key} is damaged: {error}") from error
    if symbol not in symbols.defined:
        raise LinkError(f"the object code of kernel {key} does not define {symbol}")
    missing = sorted(name for name in symbols.undefined if not llvm.address_of_symbol(name))
    if missing:
        raise LinkError(f"kernel {key} needs symbols that are not in this process: {', '.join(missing)}")
    return symbols


class _Elf:
    """Where a 64-bit little-endian ELF file keeps its tables (System V gABI, chapters 4 "Object Files" and "Symbol Table")."""

    header = Struct("<4s14xH20xQ10xHH2x")  # magic, e_machine, e_shoff, e_shentsize, e_shnum
    section = Struct("<4xI16xQQI20x")  # sh_type, sh_offset, sh_size, sh_link
    symbol = Struct("<IBxH16x")  # st_name, st_info, st_shndx
    machines = MappingProxyType({"x86_64": 62, "aarch64": 183})
    symbol_table = 2
    undefined, common = 0, 0xFFF2
    local = 0


def elf_symbols(code: bytes) -> Symbols:
    """The global symbols of a relocatable ELF64 file of this machine.

    Common symbols (Numba's empty environments) count as neither defined nor undefined. Raises ``struct.error`` or ``ValueError`` on a
    file that is truncated or of another kind.
    """
    magic, machine, start, size, count = _Elf.header.unpack_from(code)
    if magic != b"\x7fELF" or machine != _Elf.machines.get(platform.machine(), machine):
        raise ValueError("not an ELF object of this architecture")
    sections = [_Elf.section.unpack_from(code, start + index * size) for index in range(count)]
    defined: set[str] = set()
    undefined: set[str] = set()
    for kind, offset, nbytes, link_index in sections:
        if kind != _Elf.symbol_table:
            continue
        names = sections[link_index][1]
        for name, info, section in _Elf.symbol.iter_unpack(code[offset : offset + nbytes]):
            if info >> 4 == _Elf.local or section == _Elf.common:
                continue
            text = code[names + name : code.index(b"\0", names + name)].decode()
            (undefined if section == _Elf.undefined else defined).add(text)
    return Symbols(frozenset(defined), frozenset(undefined))
