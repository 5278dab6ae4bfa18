"""Relocatable ELF64 object files: their symbols, and putting those of x86-64 into memory.

Kernels and the driver are compiled for the large code model, so that all they need is 64-bit addresses filled in (R_X86_64_64): that is
done here in a fraction of the time of loading LLVM, whose linker does all else. Sources: System V gABI, chapters 4 "Object Files" and
"Symbol Table"; System V psABI for x86-64, table 4.9.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from struct import Struct
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from ..ir.frozen import Frozen
from .buffers import address_of

_HEADER = Struct("<4s14xH20xQ10xHHH")  # magic, e_machine, e_shoff, e_shentsize, e_shnum, e_shstrndx
_SECTION = Struct("<IIQ8xQQIIQ8x")  # name, type, flags, offset, size, link, info, alignment
_SYMBOL = Struct("<IBxHQ8x")  # st_name, st_info, st_shndx, st_value
_RELOCATION = Struct("<QQq")  # r_offset, r_info, r_addend
_MACHINES = MappingProxyType({"x86_64": 62, "aarch64": 183})
_PROGBITS, _SYMBOLS, _RELA, _NOBITS = 1, 2, 4, 8
_WRITE, _ALLOC = 1, 2
_UNDEFINED, _RESERVED, _COMMON = 0, 0xFF00, 0xFFF2
_LOCAL = 0
_ABSOLUTE_64 = 1
_UNWINDING = ".eh_frame"  # no exception is thrown through a kernel
_READ_EXECUTE = 5
_WORD = Struct("<Q")


class Symbols(NamedTuple):
    """The global names of an object file: what it defines, and what it expects elsewhere."""

    defined: frozenset[str]
    undefined: frozenset[str]


class Section(NamedTuple):
    """A header of a section, as in the file; ``text`` is its name."""

    name: int
    kind: int
    flags: int
    offset: int
    nbytes: int
    link: int
    info: int
    alignment: int
    text: str = ""


class Symbol(NamedTuple):
    """``section`` is the number of the section that ``value`` is an offset in."""

    name: str
    is_global: bool
    section: int
    value: int


class NotPlain(Exception):
    """An object needs more than is done here."""


class Object(Frozen):
    """An object file, read; its sections lie inside of it."""

    code: bytes
    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]

    @staticmethod
    def read(code: bytes) -> Object:
        """Raises ``struct.error`` or ``ValueError`` for a file that is truncated or not for this machine."""
        magic, machine, start, size, count, names_at = _HEADER.unpack_from(code)
        if magic != b"\x7fELF" or machine != _MACHINES.get(platform.machine(), machine):
            raise ValueError("not an ELF object of this architecture")
        raw = [_SECTION.unpack_from(code, start + index * size) for index in range(count)]
        names = Section(*raw[names_at]).offset
        sections = tuple([Section(*fields, text=_text(code, names + fields[0])) for fields in raw])
        if [section for section in sections if section.kind != _NOBITS and section.offset + section.nbytes > len(code)]:
            raise ValueError("a section lies outside of the file")
        return Object(code, sections, tuple(_symbols(code, sections)))

    @cached_property
    def globals(self) -> Symbols:
        """Common symbols (Numba's empty environments) count as neither defined nor undefined."""
        found = [symbol for symbol in self.symbols if symbol.is_global and symbol.section != _COMMON]
        defined = frozenset(symbol.name for symbol in found if symbol.section != _UNDEFINED)
        return Symbols(defined, frozenset(symbol.name for symbol in found) - defined)


def elf_symbols(code: bytes) -> Symbols:
    """The global symbols of a relocatable ELF64 file of this machine; raises what ``Object.read`` raises."""
    return Object.read(code).globals


class Placed(NamedTuple):
    """Objects in executable memory, which lives as long as ``memory``: the address of every global symbol, by object."""

    memory: mmap.mmap
    addresses: Mapping[str, Mapping[str, int]]


def place(objects: Mapping[str, Object], lookup: Callable[[str], int]) -> Placed:
    """Puts objects into memory that is written first and executable then; ``lookup`` gives the addresses of undefined symbols.

    Raises ``NotPlain`` for another machine, for what has data to write, and for relocations other than 64-bit addresses.
    """
    if platform.machine() != "x86_64" or not sys.platform.startswith("linux"):
        raise NotPlain
    starts: dict[str, dict[int, int]] = {key: {} for key in objects}
    end = 0
    for key, item in objects.items():
        for number, section in enumerate(item.sections):
            if _is_placed(section):
                starts[key][number] = end = end + -end % max(section.alignment, 1)
                end += section.nbytes
    memory = mmap.mmap(-1, max(end, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    base = address_of(np.frombuffer(memory, np.uint8))
    addresses: dict[str, Mapping[str, int]] = {}
    for key, item in objects.items():
        where = starts[key]
        for number, start in where.items():
            section = item.sections[number]
            memory[start : start + section.nbytes] = item.code[section.offset : section.offset + section.nbytes]
        values = [_value(symbol, where, base, lookup) for symbol in item.symbols]
        _relocate(item, where, values, memory)
        addresses[key] = {
            s.name: v for s, v in zip(item.symbols, values, strict=True) if s.is_global and s.section != _UNDEFINED
        }
    if ctypes.CDLL(None).mprotect(ctypes.c_void_p(base), ctypes.c_size_t(len(memory)), _READ_EXECUTE):
        raise NotPlain
    return Placed(memory, addresses)


def _is_placed(section: Section) -> bool:
    if not section.flags & _ALLOC or not section.nbytes or section.text == _UNWINDING:
        return False
    if section.kind != _PROGBITS or section.flags & _WRITE:
        raise NotPlain
    return True


def _value(symbol: Symbol, where: Mapping[int, int], base: int, lookup: Callable[[str], int]) -> int:
    if symbol.section == _UNDEFINED:
        return lookup(symbol.name) if symbol.name else 0
    if symbol.section >= _RESERVED:
        if symbol.is_global:
            raise NotPlain
        return 0
    return base + where.get(symbol.section, 0) + symbol.value


def _relocate(item: Object, where: Mapping[int, int], values: list[int], memory: mmap.mmap) -> None:
    for section in item.sections:
        if section.kind != _RELA or section.info not in where:
            continue
        start, limit = where[section.info], item.sections[section.info].nbytes
        for offset, info, addend in _RELOCATION.iter_unpack(item.code[section.offset : section.offset + section.nbytes]):
            if info & 0xFFFFFFFF != _ABSOLUTE_64:
                raise NotPlain
            if offset + _WORD.size > limit:
                raise ValueError("a relocation lies outside of its section")
            _WORD.pack_into(memory, start + offset, (values[info >> 32] + addend) % (1 << 64))


def _symbols(code: bytes, sections: tuple[Section, ...]) -> Iterator[Symbol]:
    for section in sections:
        if section.kind == _SYMBOLS:
            names = sections[section.link].offset
            for name, info, number, value in _SYMBOL.iter_unpack(code[section.offset : section.offset + section.nbytes]):
                yield Symbol(_text(code, names + name), info >> 4 != _LOCAL, number, value)


def _text(code: bytes, start: int) -> str:
    return code[start : code.index(b"\0", start)].decode()
