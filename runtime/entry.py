"""Entries: builtin functions that take arrays, run a program and return its outputs, with no Python in between (``entry.ll``).

An entry takes exactly what it was made for: arrays of these dtypes and shapes, contiguous, with these values where values were planned for.
Anything else it declines by returning None, and its caller goes the long way, which converts, plans, or says what is wrong.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..ir.frozen import Frozen
from .buffers import Workspaces, address_of, aligned_empty

FAST_CALL = 0x80
"""METH_FASTCALL of CPython's methodobject.h."""

Maker: TypeAlias = "tuple[Callable[..., np.ndarray], tuple[Any, ...]]"
"""A function that makes an array for an output, and its arguments."""


class Argument(Frozen):
    """What a positional argument must be: its dtype and shape, and its bytes where they were planned for (``value``).

    ``target`` is its number among the inputs of the model or program, -1 when it is not read.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    target: int
    value: bytes | None = None


class Runnable(NamedTuple):
    """What entries need to know of a program: addresses of its native record and of the cell that holds its team's address (0: one
    worker), its numbers of inputs, the bytes of a workspace, where workspaces are, what raises the error of a step, what to keep alive."""

    program: int
    team: int
    inputs: int
    nbytes: int
    workspaces: Workspaces
    fail: Callable[[int, int, int], None]
    keep: object


class _Method(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (("name", ctypes.c_char_p), ("function", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p))


def make_entry(
    address: int,
    runnable: Runnable,
    arguments: Sequence[Argument],
    outputs: Sequence[Maker],
    *,
    bare: bool,
) -> Callable[..., Any]:
    """The entry for ``arguments``: ``outputs`` made anew in a tuple, or the only one by itself (``bare``)."""
    keep: list[object] = []
    slots: list[int] = []
    for argument in arguments:
        dims, value = np.array(argument.shape, np.int64), np.frombuffer((argument.value or b"") + b"\0", np.uint8)
        keep += [argument.dtype, dims, value]
        has_value = argument.value is not None
        slots += [id(argument.dtype), len(argument.shape), address_of(dims), argument.target]
        slots += [address_of(value) * has_value, len(argument.value or b"")]
    makers = [id(item) for maker in outputs for item in maker]
    tables = np.array(slots, np.int64), np.array(makers, np.int64)
    counts = len(arguments), address_of(tables[0]), runnable.inputs, len(outputs), address_of(tables[1])
    return _builtin(address, b"enter", runnable, (*counts, 0, int(bare)), (keep, tables, outputs))


def make_rerun(address: int, runnable: Runnable, tensors: Sequence[int], arrays: object) -> Callable[[], Any]:
    """The entry that runs on ``arrays``, which lie at the addresses ``tensors``, inputs and then outputs; None where it did not run."""
    table = np.array(tensors, np.int64)
    return _builtin(address, b"rerun", runnable, (0, 0, runnable.inputs, 0, 0, address_of(table), 0), (table, arrays))


def decline(*arrays: object) -> None:
    """The entry where there is none: every call goes the long way."""


def _builtin(address: int, name: bytes, runnable: Runnable, fields: tuple[int, ...], keep: object) -> Callable[..., Any]:
    """A builtin function at ``address`` whose ``self`` is a tuple of the record that it reads and of all that the record points to."""
    free = runnable.workspaces.free
    calls = free, free.pop, partial(_workspace, runnable.nbytes), runnable.fail
    record = np.array((runnable.program, runnable.team, *fields, runnable.nbytes, *map(id, calls)), np.int64)
    new: Any = ctypes.pythonapi["PyCFunction_NewEx"]
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    return new(ctypes.addressof(_method(address, name)), (record, calls, keep, runnable), None)


@cache
def _method(address: int, name: bytes) -> _Method:
    """Kept for good, since functions refer to it."""
    return _Method(name, address, FAST_CALL, None)


def _workspace(nbytes: int) -> np.ndarray:
    return aligned_empty((nbytes,), np.dtype(np.uint8), nbytes)[0]


class _Array(ctypes.Structure):
    """The fields of an array after the object's header."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("nd", ctypes.c_int),
        ("dimensions", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("base", ctypes.c_void_p),
        ("descr", ctypes.c_void_p),
        ("flags", ctypes.c_int),
    )


@cache
def supported() -> bool:
    """Whether this interpreter calls C functions as CPython does, and arrays lie in memory as ``entry.ll`` reads them."""
    if sys.implementation.name != "cpython" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    return all(map(_as_expected, (np.zeros(()), np.ones((3, 4), np.int8)[1:, ::2], np.zeros((2, 3), np.float16))))


def _as_expected(array: np.ndarray) -> bool:
    header = object.__basicsize__
    kind = ctypes.c_void_p.from_address(id(array) + header - 8).value
    fields = _Array.from_address(id(array) + header)
    return (
        kind == id(np.ndarray)
        and fields.data == array.__array_interface__["data"][0]
        and fields.nd == array.ndim
        and tuple(fields.dimensions[i] for i in range(array.ndim)) == array.shape
        and tuple(fields.strides[i] for i in range(array.ndim)) == array.strides
        and fields.descr == id(array.dtype)
        and fields.flags & 0x101 == array.flags.c_contiguous + 0x100 * array.flags.aligned
    )
