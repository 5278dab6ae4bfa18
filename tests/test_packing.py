"""Packing: every element where the loops look for it, zeros outside, and on a cache line."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopnest.compiler import packing
from loopnest.compiler.packing import PackedConstants, Packer, _affine, pack
from loopnest.ir import loops as ir
from loopnest.runtime.buffers import address_of


def var(name: str, extent: int) -> ir.Var:
    return ir.Var(name, extent=ir.Const(extent))


def expected(array: np.ndarray, index: list[ir.Expr], order: list[ir.Var]) -> np.ndarray:
    """One element after the other."""
    result = np.zeros([ir.hint(v.extent) for v in order if v.extent is not None], array.dtype)
    for place in np.ndindex(*result.shape):
        values = {v: ir.Const(i) for v, i in zip(order, place, strict=True)}
        at = tuple(ir.hint(ir.substitute(e, values)) for e in index)
        if all(0 <= i < extent for i, extent in zip(at, array.shape, strict=True)):
            result[place] = array[at]
    return result


O, C, LANE, K = var("o", 2), var("c", 3), var("lane", 4), var("k", 5)


@pytest.mark.parametrize(
    ("shape", "index", "order"),
    [
        ((8, 3), [O * 4 + LANE, C], [O, C, LANE]),  # channels in blocks
        ((7, 3), [O * 4 + LANE, C], [O, C, LANE]),  # the last block is not full
        ((3, 5), [C, 4 - K], [K, C]),  # turned around
        ((12,), [(O * 3 + C) * 2 + 1], [C, O]),
        ((5, 3), [K - 1, C], [C, K]),  # outside on one side
        ((24,), [(O * 12 + C * 4 + LANE) // 2 * 2], [O, C, LANE]),  # not even
        ((3, 4, 2), [C, LANE, O], [LANE, O, C]),
        ((1, 3), [ir.ZERO, C], [C]),
    ],
)
@pytest.mark.parametrize("shared", [packing._SHARED_BYTES, 8])
def test_elements_are_where_the_loops_look(
    shape: tuple[int, ...], index: list[ir.Expr], order: list[ir.Var], shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_SHARED_BYTES", shared)
    array = np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)
    for source in (array, np.asfortranarray(array), np.repeat(array, 2, axis=0)[::2]):
        packed = pack(source, index, order)
        np.testing.assert_array_equal(packed, expected(array, index, order))
        assert packed.flags.c_contiguous
        assert address_of(packed) % 64 == 0


@given(st.integers(-3, 3), st.integers(-3, 3), st.integers(-6, 6))
def test_any_affine_walk(a: int, b: int, offset: int) -> None:
    array = np.arange(1, 21, dtype=np.int32)
    index: list[ir.Expr] = [ir.Const(a) * O + K * ir.Const(b) + offset]
    np.testing.assert_array_equal(pack(array, index, [K, O]), expected(array, index, [K, O]))


def test_affine_forms() -> None:
    assert _affine(O * 4 - LANE + 2) == (2, {O: 4, LANE: -1})
    assert _affine(ir.Binary("mul", O, LANE)) is None
    assert _affine(C % 2) is None


def test_a_constant_is_packed_once_for_each_order() -> None:
    packs, array = PackedConstants(), np.arange(15, dtype=np.float32).reshape(3, 5)
    with ThreadPoolExecutor(2) as pool:
        first, second = Packer(packs, pool), Packer(packs, pool)
        title, shape = first.add("w", array, [C, K], [K, C])
        assert shape == (5, 3)
        assert first.add("w", array, [C, K], [K, C]) == second.add("w", array, [C, K], [K, C]) == (title, shape)
        other, _ = first.add("w", array, [C, K], [C, K])
        assert first.arrays().keys() == {title, other}
        assert first.arrays()[title] is second.arrays()[title]
        np.testing.assert_array_equal(first.arrays()[title], array.T)
        np.testing.assert_array_equal(first.arrays()[other], array)


def test_what_two_orders_are_packed_from_is_derived_once() -> None:
    packs, array, made = PackedConstants(), np.arange(15, dtype=np.float32).reshape(3, 5), list[np.ndarray]()
    asked = threading.Event()

    class Twice:
        def __str__(self) -> str:
            return "twice"

        def __call__(self, array: np.ndarray, /) -> np.ndarray:
            asked.wait(60)
            made.append(array * 2)
            return made[-1]

    with ThreadPoolExecutor(2) as pool:
        packer = Packer(packs, pool)
        titles = [packer.add("w", array, [C, K], order, Twice())[0] for order in ([K, C], [C, K])]
        asked.set()
        first, second = (packer.arrays()[title] for title in titles)
    np.testing.assert_array_equal(first, array.T * 2)
    np.testing.assert_array_equal(second, array * 2)
    assert len(made) == 1
