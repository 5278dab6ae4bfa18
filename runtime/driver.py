"""The native driver (``driver.ll``), called through ctypes with the GIL released: compiled once per process, or brought by an artifact."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir.frozen import Frozen
from .checksums import sha256
from .entry import supported
from .forks import Work
from .linker import LinkError, emit_ir, load_object, tell_symbol

MEET, AWAIT, WAKE = 1, 2, 4
"""Flags of a step in the native table: workers meet after it, it is worth waiting for those that sleep, it is worth waking them."""

_PAUSE = ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()")
_YIELD = ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)")
_RELAX = {"x86_64": _PAUSE, "amd64": _PAUSE, "aarch64": _YIELD, "arm64": _YIELD}


class Driver(Frozen):
    """The entry points of ``driver.ll`` and ``checksum.ll``; addresses go in as integers. ``enter`` and ``rerun`` are those of
    ``entry.ll``, as addresses."""

    run: Callable[[int, int, int, int, int, int], int]
    enter: int
    rerun: int
    team_init: Callable[[int, int, int, int], None]
    team_work: Callable[[int, int], None]
    team_stop: Callable[[int], int]
    team_nbytes: Callable[[int], int]
    checksum: Callable[[int, int], int]
    checksums: Callable[[int, int, int], None]
    _engine: Any


_lock = Work()
_drivers: list[Driver] = []
_brought: dict[str, bytes] = {}


def driver() -> Driver:
    """The driver of this process, made on first use. Raises ``LinkError`` on an architecture that it was not written for."""
    if not _drivers:
        with _lock:
            if not _drivers:
                _drivers.append(_load())
    return _drivers[0]


def object_code() -> tuple[str, bytes]:
    """The driver as an object file, and what tells it from those of other machines, interpreters and versions."""
    text = _text()
    return _key(text), emit_ir(text)


def wanted() -> str | None:
    """The key of the driver that this process needs; None when it has one."""
    return None if _drivers else _key(_text())


def bring(key: str, code: bytes) -> None:
    """Spares this process compiling its driver, if it is the one that ``object_code`` made under ``key``."""
    if not _drivers:
        _brought[key] = code


def _load() -> Driver:
    text = _text()
    code = _brought.pop(_key(text), None)
    _brought.clear()
    if supported():
        _tell_symbols(text)
    engine = load_object(code or emit_ir(text))

    def function(name: str, result: Any, arguments: int) -> Any:
        prototype = ctypes.CFUNCTYPE(result, *[ctypes.c_int64] * arguments)
        return prototype(engine.get_function_address(name))

    return Driver(
        run=function("loopnest_run", ctypes.c_int64, 6),
        enter=engine.get_function_address("loopnest_enter") if supported() else 0,
        rerun=engine.get_function_address("loopnest_rerun") if supported() else 0,
        team_init=function("loopnest_team_init", None, 4),
        team_work=function("loopnest_team_work", None, 2),
        team_stop=function("loopnest_team_stop", ctypes.c_int64, 1),
        team_nbytes=function("loopnest_team_nbytes", ctypes.c_int64, 1),
        checksum=function("loopnest_checksum", ctypes.c_int64, 2),
        checksums=function("loopnest_checksums", None, 3),
        _engine=engine,
    )


def _key(text: str) -> str:
    return sha256(f"{sys.platform} {platform.machine()}\n{text}".encode())


def _text() -> str:
    """The driver for this machine, with ``entry.ll`` for this interpreter."""
    machine = platform.machine().lower()
    if machine not in _RELAX:
        raise LinkError(f"loopnest's driver does not know the processor architecture {machine!r}; it knows {', '.join(_RELAX)}")
    declaration, pause = _RELAX[machine]
    relax = f"{declaration}\ndefine internal void @relax() alwaysinline {{\n  {pause}\n  ret void\n}}\n"
    clock = f"@clock = internal constant i32 {time.CLOCK_MONOTONIC}\n"
    entry = _file("entry.ll").replace("{object}", str(object.__basicsize__)) if supported() else ""
    return _file("driver.ll") + _file("checksum.ll") + relax + clock + entry


def _file(name: str) -> str:
    with open(os.path.join(os.path.dirname(__file__), name), encoding="utf-8") as file:
        return file.read()


def _tell_symbols(text: str) -> None:
    """Tells the linker where the functions and objects of the interpreter are that ``entry.ll`` names."""
    for name in re.findall(r"declare .*@(Py\w+)", text):
        address = ctypes.cast(ctypes.pythonapi[name], ctypes.c_void_p).value
        assert address
        tell_symbol(name, address)
    tell_symbol("loopnest_ndarray", id(np.ndarray))
    tell_symbol("loopnest_none", id(None))
