"""Matrix products cut into chunks of rows and groups of blocks of columns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from hypothesis import given
from hypothesis import strategies as st

import loopnest
from loopnest.codegen.target import resolve
from loopnest.compiler.config import Tile
from loopnest.compiler.schedule import contraction_loops
from loopnest.compiler.schedule.chunks import chunks
from loopnest.compiler.schedule.register_blocks import Extent, cover
from loopnest.ir import loops as ir
from loopnest.ir.loop_ranges import Ranges
from tests.graphs import make_model, tensor, values


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "rows, summed, columns, threads, batch",
    [
        (193, 768, 192, 1, 1),
        (260, 520, 200, 2, 2),
        (97, 1536, 100, 1, 3),
        (131, 1030, 48, 2, 1),
        (1009, 2048, 192, 2, 1),
        (50, 2048, 192, 2, 11),
    ],
)
def test_products_larger_than_the_second_cache(
    rows: int, summed: int, columns: int, threads: int, batch: int, dtype: type[np.floating], monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []
    cut = contraction_loops.cut

    def record(*args: object) -> object:
        tasks = cut(*args)  # type: ignore[arg-type]
        groups.append(tasks.group)
        return tasks

    monkeypatch.setattr(contraction_loops, "cut", record)
    x, w = values(batch, rows, summed).astype(dtype), values(summed, columns, seed=1).astype(dtype)
    bias, rest = values(columns, seed=2).astype(dtype), values(batch, rows, columns, seed=3).astype(dtype)
    kind = onnx.TensorProto.FLOAT if dtype is np.float32 else onnx.TensorProto.DOUBLE
    nodes = [
        oh.make_node("MatMul", ["x", "w"], ["p"]),
        oh.make_node("Add", ["p", "b"], ["s"]),
        oh.make_node("Add", ["s", "r"], ["y"]),
    ]
    inputs = {"x": tensor("x", x.shape, kind), "r": tensor("r", rest.shape, kind)}
    f = loopnest.compile(make_model(nodes, inputs, ["y"], {"w": w, "b": bias}), threads=threads)
    expected = x.astype(np.float64) @ w.astype(np.float64) + bias + rest
    np.testing.assert_allclose(f(x=x, r=rest), expected, rtol=0, atol=np.finfo(dtype).eps * summed)
    assert max(groups) > 1 or batch * rows * summed * x.itemsize < 4_000_000


@pytest.mark.parametrize("order", ["columns", "rows", "groups"])
def test_every_order_gives_the_same_sums(order: str) -> None:
    x, w = values(100, 512), values(512, 200, seed=1)
    model = make_model([oh.make_node("MatMul", ["x", "w"], ["y"])], {"x": x.shape}, ["y"], {"w": w})
    np.testing.assert_array_equal(loopnest.compile(model, config={"order": order})(x), loopnest.compile(model)(x))


@given(st.integers(1, 300), st.integers(1, 64), st.booleans())
def test_chunks_are_nearly_equal_and_leave_nothing_out(extent: int, wanted: int, rest: bool) -> None:
    bound = extent - (rest and extent > 1)
    cut = chunks("chunk", wanted, extent, ir.Const(bound), ir.Const)
    count = ir.hint(cut.count)
    assert count == min(wanted, extent)
    at = [{cut.number: number} if isinstance(cut.number, ir.Var) else {} for number in range(count)]
    first, end, here = ([Ranges().evaluate(e, place) for place in at] for e in (cut.first, cut.end, cut.here))
    assert first == [0, *end[:-1]]
    assert end[-1] in (extent, bound)
    assert here == [min(b, bound) - a for a, b in zip(first, end, strict=True)]
    lengths = [b - a for a, b in zip(first, end, strict=True)]
    assert max(lengths) <= ir.hint(cut.length)
    assert max(lengths) - min(lengths) <= 1
    assert cut.least <= min(lengths)


@pytest.mark.parametrize(("rows", "summed", "width"), [(49, 120, 40), (49, 240, 24), (8, 240, 40)])
def test_wide_tiles_only_where_the_first_cache_holds_the_columns(rows: int, summed: int, width: int) -> None:
    """40 columns in tiles of two rows, unless 240 products of each leave the cache before the next two rows read them."""
    target = replace(resolve("cpu-avx2"), l1=32 * 1024)
    first, *_ = cover(Extent(rows, 40, summed, 8), target, 32, Tile())
    assert first.registers.columns == width
