"""Linking Numba's objects through llvmlite alone."""

from __future__ import annotations

import ctypes
import math

import pytest
from numba import types

from loopnest.runtime.driver import driver
from loopnest.runtime.linker import LinkError, elf_symbols, link
from tests.runtime_programs import machine_code, reverse, scale

DOUBLES = types.int64(types.CPointer(types.CPointer(types.float64)), types.CPointer(types.int64), types.int64, types.int64)


def transcendental(buffers, extents, worker, workers):
    x, y = buffers[0], buffers[1]
    for i in range(extents[1]):
        y[i] = math.exp(x[i]) + math.pow(x[i], 1.5) + math.tanh(x[i]) + math.erf(x[i])
    return 0


def call(address: int, buffers: list[ctypes.Array[ctypes.c_double]], *extents: int) -> int:
    result, exception = ctypes.c_int64(77), ctypes.c_void_p()
    pointers = (ctypes.c_void_p * len(buffers))(*map(ctypes.addressof, buffers))
    slots = (ctypes.c_int64 * (1 + len(extents)))(0, *extents)
    prototype = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 4, ctypes.c_int64, ctypes.c_int64)
    status = prototype(address)(ctypes.byref(result), ctypes.byref(exception), pointers, slots, 0, 1)
    assert status == 0
    return result.value


def test_libm_is_found() -> None:
    code, symbol = machine_code(transcendental, DOUBLES)
    assert {"exp", "pow", "erf", "tanh"} & elf_symbols(code).undefined
    code_in_memory = link({"k": (code, symbol)})
    x, y = (ctypes.c_double * 2)(0.5, 2.0), (ctypes.c_double * 2)()
    assert call(code_in_memory.address("k"), [x, y], 2) == 0
    for value, result in zip(x, y, strict=True):
        expected = math.exp(value) + value**1.5 + math.tanh(value) + math.erf(value)
        assert result == pytest.approx(expected, rel=1e-15)


def test_many_objects_and_the_same_name_twice() -> None:
    first, second = machine_code(scale), machine_code(reverse)
    code = link({"a": first, "b": second, "c": first, "d": first})
    assert len({code.address(key) for key in "abcd"}) == 4
    assert set(code.addresses) == set("abcd")
    with pytest.raises(KeyError):
        code.address("e")


def test_nothing_to_link() -> None:
    assert link({}).addresses == {}


def test_damaged_objects_are_refused() -> None:
    code, symbol = machine_code(scale)
    for damaged in (
        b"",
        b"garbage",
        code[:40],
        code[: len(code) // 2],
        b"\x7fELF" + bytes(100),
        code[:18] + b"\xff\x00" + code[20:],
    ):
        with pytest.raises(LinkError, match="kernel k"):
            link({"k": (damaged, symbol)})


def test_wrong_symbol_is_refused() -> None:
    with pytest.raises(LinkError, match="does not define nonsense"):
        link({"k": (machine_code(scale)[0], "nonsense")})


def test_missing_symbol_is_an_error_and_not_the_end_of_the_process() -> None:
    code, symbol = machine_code(transcendental, DOUBLES)
    assert b"\0exp\0" in code
    with pytest.raises(LinkError, match="needs symbols that are not in this process: e_p"):
        link({"k": (code.replace(b"\0exp\0", b"\0e_p\0"), symbol)})


def test_driver_is_loaded_once() -> None:
    assert driver() is driver()
    assert driver().team_nbytes(3) > driver().team_nbytes(2)
