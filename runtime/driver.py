"""The native driver (``driver.ll``): compiled once per process, called through ctypes with the GIL released."""

from __future__ import annotations

import ctypes
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from .entry import supported
from .forks import Work
from .linker import LinkError, compile_ir

MEET, AWAIT, WAKE = 1, 2, 4
"""Flags of a step in the native table: workers meet after it, it is worth waiting for those that sleep, it is worth waking them."""

_PAUSE = ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()")
_YIELD = ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)")
_RELAX = {"x86_64": _PAUSE, "amd64": _PAUSE, "aarch64": _YIELD, "arm64": _YIELD}


@dataclass(frozen=True)
class Driver:
    """The entry points of ``driver.ll``; addresses go in as integers. ``enter`` and ``rerun`` are those of ``entry.ll``, as addresses."""

    run: Callable[[int, int, int, int, int, int], int]
    enter: int
    rerun: int
    team_init: Callable[[int, int, int, int], None]
    team_work: Callable[[int, int], None]
    team_stop: Callable[[int], int]
    team_nbytes: Callable[[int], int]
    _engine: Any


_lock = Work()
_drivers: list[Driver] = []


def driver() -> Driver:
    """The driver of this process, compiled on first use. Raises ``LinkError`` on an architecture that it was not written for."""
    if not _drivers:
        with _lock:
            if not _drivers:
                _drivers.append(_load())
    return _drivers[0]


def _load() -> Driver:
    machine = platform.machine().lower()
    if machine not in _RELAX:
        raise LinkError(f"loopnest's driver does not know the processor architecture {machine!r}; it knows {', '.join(_RELAX)}")
    declaration, pause = _RELAX[machine]
    relax = f"{declaration}\ndefine internal void @relax() alwaysinline {{\n  {pause}\n  ret void\n}}\n"
    clock = f"@clock = internal constant i32 {time.CLOCK_MONOTONIC}\n"
    engine = compile_ir(_text("driver.ll") + relax + clock + (_entry_text() if supported() else ""))

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
        _engine=engine,
    )


def _text(name: str) -> str:
    return files(str(__package__)).joinpath(name).read_text(encoding="utf-8")


def _entry_text() -> str:
    """``entry.ll`` for this interpreter, whose functions LLVM is told of."""
    text = _text("entry.ll")
    for name in re.findall(r"declare .*@(Py\w+)", text):
        llvm.add_symbol(name, ctypes.cast(ctypes.pythonapi[name], ctypes.c_void_p).value)
    for word, value in (("object", object.__basicsize__), ("array", id(np.ndarray)), ("none", id(None))):
        text = text.replace(f"{{{word}}}", str(value))
    return text
