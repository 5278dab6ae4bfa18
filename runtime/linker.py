"""Object code to addresses, without Numba or a compiler: what ``elf`` can place is placed, LLVM's linker does the rest.

The objects are relocatable files as LLVM wrote them. They may refer to symbols of libm, libc and the driver, and to nothing else: every
undefined symbol is looked up before LLVM sees the object, since LLVM would end the process on one that it cannot find. LLVM is loaded when
it is needed, because that takes longer than all else here.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from struct import error as StructError
from typing import Any, Protocol

from ..ir.errors import LoopnestError
from .elf import NotPlain, Object, elf_symbols, place
from .forks import Work

_LIBRARIES = ("libm.so.6", "libgcc_s.so.1")
_lock = Work()
_ready: list[bool] = []
_told: dict[str, int] = {}


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


class Image(Protocol):
    """Machine code that was loaded from one object."""

    def get_function_address(self, name: str, /) -> int:
        """Where a symbol is; 0 for one that is not there."""
        ...


def link(objects: Mapping[str, tuple[bytes, str]]) -> Linked:
    """Loads object files and finds one symbol in each: ``{key: (object bytes, symbol name)}``.

    Objects may define the same names (Numba's counters start anew in every process). Raises ``LinkError``. Safe from many threads.
    """
    with _lock:
        if not _is_elf():
            return _link_by_llvm(objects)
        read = {key: _checked(key, code, symbol) for key, (code, symbol) in objects.items()}
        try:
            placed = place(read, address_of_symbol)
        except NotPlain:
            return _link_by_llvm(objects)
        except (StructError, ValueError, IndexError) as error:
            raise LinkError(f"the object code of a kernel is damaged: {error}") from error
        addresses = {key: placed.addresses[key][symbol] for key, (_, symbol) in objects.items()}
        return Linked(objects, addresses, (placed.memory,))


def address_of_symbol(name: str) -> int:
    """Where this process has a function or object of that name, in libc, libm, the interpreter, or where it was told; 0 if nowhere."""
    if name in _told:
        return _told[name]
    for library in _libraries():
        try:
            return ctypes.cast(library[name], ctypes.c_void_p).value or 0
        except AttributeError:
            continue
    return 0


def tell_symbol(name: str, address: int) -> None:
    """Says where the symbol ``name`` of objects to come is."""
    with _lock:
        _told[name] = address
        if _ready:
            import llvmlite.binding as llvm

            llvm.add_symbol(name, address)


@cache
def _libraries() -> tuple[ctypes.CDLL, ...]:
    found = [ctypes.CDLL(None), ctypes.pythonapi] if sys.platform != "win32" else [ctypes.cdll.msvcrt, ctypes.pythonapi]
    for name in _LIBRARIES:
        try:
            found.append(ctypes.CDLL(name))
        except OSError:
            continue  # another platform, where libm is part of libc
    return tuple(found)


def _link_by_llvm(objects: Mapping[str, tuple[bytes, str]]) -> Linked:
    """Objects share an engine unless they define the same name."""
    initialize()
    engines: list[_Engine] = []
    places: dict[str, _Engine] = {}
    for key, (code, symbol) in objects.items():
        defined = elf_symbols(code).defined if _is_elf() else frozenset((symbol,))
        engine = next((engine for engine in engines if engine.defined.isdisjoint(defined)), None)
        if engine is None:
            engine = _Engine()
            engines.append(engine)
        engine.add(key, code, defined)
        places[key] = engine
    for engine in engines:
        engine.native.finalize_object()
    addresses = {key: places[key].native.get_function_address(symbol) for key, (_, symbol) in objects.items()}
    missing = [key for key, address in addresses.items() if not address]
    if missing:
        raise LinkError(f"no machine code found for kernel {missing[0]}")
    return Linked(objects, addresses, (engine.native for engine in engines))


def compile_ir(text: str, opt: int = 0) -> Image:
    """What holds the machine code of a module of LLVM IR, which is not optimized but for what code generation does at level ``opt``.

    Keep the engine as long as its functions are used. Raises ``RuntimeError`` where the text is not valid.
    """
    return load_object(emit_ir(text, opt))


def emit_ir(text: str, opt: int = 0) -> bytes:
    """The object code of a module of LLVM IR for this machine. Raises ``RuntimeError`` where the text is not valid."""
    with _lock:
        initialize()
        import llvmlite.binding as llvm

        module = llvm.parse_assembly(text)
        module.verify()
        machine = _target_machine(opt)
        module.triple, module.data_layout = llvm.get_process_triple(), str(machine.target_data)
        return machine.emit_object(module)


def load_object(code: bytes) -> Image:
    """What holds the machine code of an object file, whose symbols this process has. Raises ``LinkError``."""
    with _lock:
        try:
            if not _is_elf():
                raise NotPlain
            placed = place({"": Object.read(code)}, address_of_symbol)
        except NotPlain:
            initialize()
            engine = _Engine()
            engine.add("the driver", code, frozenset())
            engine.native.finalize_object()
            return engine.native
        except (StructError, ValueError, IndexError) as error:
            raise LinkError(f"the object code of the driver is damaged: {error}") from error
        return _Placed(placed.addresses[""], placed.memory)


class _Placed:
    def __init__(self, addresses: Mapping[str, int], memory: object) -> None:
        self._addresses, self._memory = addresses, memory

    def get_function_address(self, name: str) -> int:
        return self._addresses.get(name, 0)


def initialize() -> None:
    """Prepares LLVM for this machine and makes the symbols of libm visible to it, once per process."""
    with _lock:
        if _ready:
            return
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        for library in _LIBRARIES:
            try:
                llvm.load_library_permanently(library)
            except RuntimeError:
                continue  # another platform, where libm is part of libc; a symbol that is missing then is named when it is needed
        for name, address in _told.items():
            llvm.add_symbol(name, address)
        _ready.append(True)


def _target_machine(opt: int = 0) -> Any:
    import llvmlite.binding as llvm

    return llvm.Target.from_default_triple().create_target_machine(opt=opt, jit=True)


class _Engine:
    def __init__(self) -> None:
        import llvmlite.binding as llvm

        self.native: Any = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())
        self.defined: set[str] = set()

    def add(self, key: str, code: bytes, defined: frozenset[str]) -> None:
        import llvmlite.binding as llvm

        try:
            self.native.add_object_file(llvm.ObjectFileRef.from_data(code))
        except (RuntimeError, ValueError) as error:
            raise LinkError(f"the object code of kernel {key} is damaged: {error}") from error
        self.defined |= defined


def _checked(key: str, code: bytes, symbol: str) -> Object:
    """An object that is whole, defines ``symbol``, and finds in this process what it needs; ``LinkError`` for any other."""
    try:
        item = Object.read(code)
    except (StructError, ValueError, IndexError) as error:
        raise LinkError(f"the object code of kernel {key} is damaged: {error}") from error
    if symbol not in item.globals.defined:
        raise LinkError(f"the object code of kernel {key} does not define {symbol}")
    missing = sorted(name for name in item.globals.undefined if not address_of_symbol(name))
    if missing:
        raise LinkError(f"kernel {key} needs symbols that are not in this process: {', '.join(missing)}")
    return item


def _is_elf() -> bool:
    return sys.platform not in ("win32", "darwin")
