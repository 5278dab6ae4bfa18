"""Packing constants: a weight laid out in the order in which a kernel's loops read it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from math import prod
from typing import Protocol
from weakref import WeakValueDictionary

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..ir import dtypes
from ..ir import loops as ir
from ..runtime.arrays import MAPPED_BYTES, ArrayCache, bytes_of
from ..runtime.buffers import aligned_empty
from ..runtime.cache import CacheKey, source_fingerprint
from ..runtime.parallel import in_threads

_SOURCES = ("compiler/packing.py", "compiler/schedule/cook_toom.py", "compiler/schedule/phases.py")

_SHARED_BYTES = 16 << 20
"""A constant of so many bytes is packed by two threads."""


def pack(array: np.ndarray, index: Sequence[ir.Expr], order: Sequence[ir.Var]) -> np.ndarray:
    """``result[order...] = array[index(order...)]``, zero where the index lies outside of ``array``. C-contiguous, on a cache line.

    ``index`` has one expression per axis of ``array``, over the variables ``order``, whose extents shape the result.
    """
    extents = extents_of(order)
    result, _ = aligned_empty(extents, array.dtype, prod(extents) * array.dtype.itemsize)
    walk = _walk(array, index, order, extents)
    _copy(result, _gather(array, index, order, extents) if walk is None else walk)
    return result


def _copy(result: np.ndarray, values: np.ndarray) -> None:
    """What is large is copied by two threads: memory that is touched first takes longer than the copy."""
    if result.nbytes < _SHARED_BYTES:
        result[...] = values
        return
    axis = next(axis for axis, extent in enumerate(result.shape) if extent > 1)
    parts = [(*[slice(None)] * axis, part) for part in _slices(result.shape[axis], -(-result.nbytes // _SHARED_BYTES))]

    def copy(part: tuple[slice, ...]) -> None:
        result[part] = values[part]

    in_threads(copy, parts)()


def _slices(extent: int, count: int) -> list[slice]:
    """``extent`` in up to ``count`` nearly equal parts."""
    count = min(extent, count)
    return [slice(extent * i // count, extent * (i + 1) // count) for i in range(count)]


def _walk(array: np.ndarray, index: Sequence[ir.Expr], order: Sequence[ir.Var], extents: tuple[int, ...]) -> np.ndarray | None:
    """The packed array as a view of ``array``, when every index moves evenly and stays inside: copying that is as fast as memory is."""
    start: list[slice] = []
    strides = [0] * len(order)
    for e, extent, stride in zip(index, array.shape, array.strides, strict=True):
        form = _affine(e)
        if form is None:
            return None
        offset, steps = form
        reach = [steps.get(v, 0) * (count - 1) for v, count in zip(order, extents, strict=True)]
        if offset + sum(r for r in reach if r < 0) < 0 or offset + sum(r for r in reach if r > 0) >= extent or 0 in extents:
            return None
        start.append(slice(offset, None))
        strides = [total + stride * steps.get(v, 0) for v, total in zip(order, strides, strict=True)]
    return as_strided(array[tuple(start)], extents, strides, writeable=False)


def _affine(e: ir.Expr) -> tuple[int, dict[ir.Var, int]] | None:
    """An index as offset + sum of step * variable; None where it is not of that form."""
    match e:
        case ir.Var():
            return 0, {e: 1}
        case ir.Binary("add" | "sub" | "mul" as op, a, b):
            p, q = _affine(a), _affine(b)
            if p is None or q is None:
                return None
            if op == "mul":
                (offset, steps), (factor, others) = (p, q) if not q[1] else (q, p)
                return None if others else (offset * factor, {v: step * factor for v, step in steps.items()})
            sign = -1 if op == "sub" else 1
            return p[0] + sign * q[0], {v: p[1].get(v, 0) + sign * q[1].get(v, 0) for v in p[1] | q[1]}
        case ir.Const() | ir.Param():
            return ir.hint(e), {}
        case _:
            return None


def _gather(array: np.ndarray, index: Sequence[ir.Expr], order: Sequence[ir.Var], extents: tuple[int, ...]) -> np.ndarray:
    """The packed array, element by element."""
    grids = dict(zip(order, np.ogrid[tuple(map(slice, extents))], strict=True))
    valid: np.ndarray | bool = True
    flat: np.ndarray | int = 0
    for e, extent in zip(index, array.shape, strict=True):
        position = np.asarray(evaluate(e, grids))
        if position.size and (position.min() < 0 or position.max() >= extent):
            inside = (position >= 0) & (position < extent)
            valid = valid & inside
            position = np.where(inside, position, 0)
        flat = flat * extent + position
    result = np.ascontiguousarray(array).reshape(-1)[np.broadcast_to(flat, extents)]
    return result if valid is True else np.where(valid, result, np.zeros((), array.dtype))


def evaluate(e: ir.Expr, values: Mapping[ir.Var, np.ndarray]) -> np.ndarray | int:
    """An index expression over arrays of values; parameters stand for their values in the plan at hand."""
    match e:
        case ir.Const(value):
            return int(value)  # type: ignore[arg-type]
        case ir.Param():
            return e.hint
        case ir.Var():
            return values[e]
        case ir.Binary(op, a, b):
            return _OPERATIONS[op](evaluate(a, values), evaluate(b, values))
        case _:
            raise ValueError(f"{type(e).__name__} in the index of a constant")


class Derive(Protocol):
    """What is made of a constant before it is packed; its text tells it from others."""

    def __str__(self) -> str: ...
    def __call__(self, array: np.ndarray, /) -> np.ndarray: ...


class _Source:
    """A constant, and the SHA-256 of its elements, worked out once."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self._digest: str | None = None
        self._derived = WeakValueDictionary[str, np.ndarray]()
        self._lock = threading.Lock()

    @property
    def digest(self) -> str:
        with self._lock:
            if self._digest is None:
                self._digest = hashlib.sha256(bytes_of(self.array)).hexdigest()
            return self._digest

    def derived(self, derive: Derive | None) -> np.ndarray:
        """What ``derive`` makes of it, once for all who ask while somebody has it."""
        if derive is None:
            return self.array
        with self._lock:
            found = self._derived.get(str(derive))
            if found is None:
                found = self._derived[str(derive)] = derive(self.array)
            return found


@dataclass
class PackedConstants:
    """Packed copies of a model's constants, made once and shared by all plans: mapped from ``cache`` where there is one and they are
    large, in memory otherwise."""

    cache: ArrayCache | None = None
    _sources: dict[int, _Source] = field(default_factory=dict[int, _Source])
    _packs: dict[tuple[int, str], Future[np.ndarray]] = field(default_factory=dict[tuple[int, str], "Future[np.ndarray]"])

    def get(
        self,
        array: np.ndarray,
        index: Sequence[ir.Expr],
        order: Sequence[ir.Var],
        derive: Derive | None,
        text: str,
        pool: Executor,
    ) -> Future[np.ndarray]:
        """``pack(array, index, order)``, or that of what ``derive`` makes of ``array``, made by ``pool``; ``text`` tells this packing of
        ``array`` from others."""
        found = self._packs.get((id(array), text))
        if found is None:
            source = self._sources.setdefault(id(array), _Source(array))
            found = self._packs[id(array), text] = pool.submit(self._make, source, index, order, derive, text)
        return found

    def _make(
        self, source: _Source, index: Sequence[ir.Expr], order: Sequence[ir.Var], derive: Derive | None, text: str
    ) -> np.ndarray:
        array = source.array

        def packed() -> np.ndarray:
            return pack(source.derived(derive), index, order)

        def key() -> CacheKey:
            return CacheKey(
                (
                    ("packing", source_fingerprint(patterns=_SOURCES)),
                    ("source", f"{dtypes.from_numpy(array.dtype).name}{list(array.shape)} {source.digest}"),
                    ("order", text),
                )
            )

        nbytes = prod(extents_of(order)) * array.dtype.itemsize
        if self.cache is None or nbytes < MAPPED_BYTES:
            return packed()
        if self.cache.patient and not self.cache.may_have(nbytes):
            made = packed()
            if self.cache.has_room(nbytes):
                self.cache.put_later(key, made)
            return made
        known = key()
        mapped = self.cache.get(known, nbytes)
        if mapped is None:
            made = packed()
            mapped = self.cache.put(known, made)
            if mapped is None:
                return made
        self.cache.set_aside(mapped)  # while a plan is made, the constants are there that others are packed from
        return mapped


@dataclass
class Packer:
    """The packed constants of one plan, made by other threads while planning goes on: hashing and copying need no GIL."""

    packs: PackedConstants
    pool: Executor
    _made: dict[str, Future[np.ndarray]] = field(default_factory=dict[str, "Future[np.ndarray]"])

    def add(
        self,
        name: str,
        array: np.ndarray,
        index: Sequence[ir.Expr],
        order: Sequence[ir.Var],
        derive: Derive | None = None,
    ) -> tuple[str, tuple[int, ...]]:
        """Asks for ``pack(array, index, order)``, or that of what ``derive`` makes of ``array``; its title, in which constant ``name`` is
        named, and its shape."""
        extents = extents_of(order)
        numbers = {v: f"v{i}" for i, v in enumerate(order)}
        made = f"{derive} " if derive is not None else ""
        text = f"{made}{'x'.join(map(str, extents))} [{', '.join(_text(e, numbers) for e in index)}]"
        title = f"{name} packed {text}"
        if title not in self._made:
            self._made[title] = self.packs.get(array, index, order, derive, text, self.pool)
        return title, extents

    def arrays(self) -> dict[str, np.ndarray]:
        """All that was asked for, by title; waits until it is there."""
        return {title: made.result() for title, made in self._made.items()}


def extents_of(order: Sequence[ir.Var]) -> tuple[int, ...]:
    return tuple(ir.hint(v.extent) for v in order if v.extent is not None)


def _text(e: ir.Expr, names: Mapping[ir.Var, str]) -> str:
    match e:
        case ir.Var():
            return names[e]
        case ir.Binary(op, a, b):
            return f"{op}({_text(a, names)}, {_text(b, names)})"
        case _:
            return str(ir.hint(e))


_OPERATIONS = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "floordiv": np.floor_divide,
    "mod": np.mod,
    "min": np.minimum,
    "max": np.maximum,
}
