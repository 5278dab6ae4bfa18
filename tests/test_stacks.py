"""Channels that are joined and shuffled: one kernel, from blocks of channels too."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest

import loopnest
from loopnest.compiler import images
from loopnest.compiler.passes import PASSES, run_passes
from tests.graphs import load_any, make_model, onnxruntime, tensor, values


def shuffle(shape: tuple[Any, ...], groups: int = 2, axis: int = 1, **changes: Any) -> onnx.ModelProto:
    """As many inputs of ``shape``, joined along ``axis`` and shuffled."""
    names = [f"x{i}" for i in range(groups)]
    apart = [-1 if isinstance(extent, str) else extent for extent in shape]
    perm = list(range(len(shape) + 1))
    perm[axis], perm[axis + 1] = axis + 1, axis
    constants = {
        "apart": np.array(changes.get("apart", [*apart[:axis], groups, *apart[axis:]])),
        "back": np.array([*apart[:axis], groups * apart[axis], *apart[axis + 1 :]]),
    }
    nodes = [
        oh.make_node("Concat", names, ["joined"], axis=axis),
        oh.make_node("Reshape", ["joined", "apart"], ["parts"]),
        oh.make_node("Transpose", ["parts"], ["swapped"], perm=changes.get("perm", perm)),
        oh.make_node("Reshape", ["swapped", "back"], ["y"]),
    ]
    dtype = oh.np_dtype_to_tensor_dtype(np.dtype(changes.get("dtype", "float32")))
    return make_model(nodes, {n: tensor(n, shape, dtype) for n in names}, ["y", *changes.get("outputs", ())], constants)


def network(channels: int, size: int, groups: int = 2) -> onnx.ModelProto:
    """Two units of ShuffleNet V2: half of the channels passes, the other half is convolved, and they are shuffled."""
    nodes, weights = (
        [],
        {"apart": np.array([-1, groups, channels, size, size]), "back": np.array([-1, groups * channels, size, size])},
    )
    weights["first"] = values(groups * channels, 3, 1, 1, seed=9)
    nodes.append(oh.make_node("Conv", ["x", "first"], ["v0"]))
    for unit in range(2):
        parts = [f"part{unit}_{i}" for i in range(groups)]
        weights[f"w{unit}"] = values(channels, channels, 1, 1, seed=unit)
        nodes += [
            oh.make_node("Split", [f"v{unit}"], parts, axis=1, num_outputs=groups),
            oh.make_node("Conv", [parts[-1], f"w{unit}"], [f"c{unit}"]),
            oh.make_node("Relu", [f"c{unit}"], [f"r{unit}"]),
            oh.make_node("Concat", [*parts[:-1], f"r{unit}"], [f"j{unit}"], axis=1),
            oh.make_node("Reshape", [f"j{unit}", "apart"], [f"a{unit}"]),
            oh.make_node("Transpose", [f"a{unit}"], [f"t{unit}"], perm=[0, 2, 1, 3, 4]),
            oh.make_node("Reshape", [f"t{unit}", "back"], [f"v{unit + 1}"]),
        ]
    return make_model(nodes, {"x": ["n", 3, size, size]}, ["v2"], weights, opset=18)


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op for node in run_passes(load_any(model), PASSES, check=True).nodes if node.op != "Reshape"]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("channels", [1, 7, 8, 9, 17, 58])
def test_shuffled_units(channels: int, threads: int) -> None:
    model = network(channels, 7)
    assert ops(model).count("Stack") == 2 and "Transpose" not in ops(model)
    f = loopnest.compile(model, threads=threads)
    for batch in (1, 3):
        x = values(batch, 3, 7, 7)
        np.testing.assert_allclose(f(x), onnxruntime(model, {"x": x})[0], rtol=1e-4, atol=1e-4)


def test_batches_are_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "pays", lambda *_: True)
    model, x = network(9, 7), values(3, 3, 7, 7)
    f: Any = loopnest.compile(model, threads=1)
    np.testing.assert_allclose(f(x), onnxruntime(model, {"x": x})[0], rtol=1e-4, atol=1e-4)
    assert f.runner_of((x,)).native.program.images == 3


@pytest.mark.parametrize("layout", ["plain", "NCHW16c"])
def test_shuffled_units_of_other_blocks(layout: str) -> None:
    model, x = network(32, 5, groups=3), values(1, 3, 5, 5)
    f = loopnest.compile(model, config={"op": {"Conv": {"layout": layout}}})
    np.testing.assert_allclose(f(x), onnxruntime(model, {"x": x})[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "int64", "bool"])
@pytest.mark.parametrize(
    "shape, groups, axis", [((1, 9, 31), 2, 1), ((2, 1, 16, 5), 3, 1), ((3, 4, 65), 2, 0), ((5, 2, 3, 70), 4, 2)]
)
def test_shuffles_of_any_type(shape: tuple[int, ...], groups: int, axis: int, dtype: str) -> None:
    parts = [(values(*shape, seed=i) * 100).astype(dtype) for i in range(groups)]
    expected = np.stack(parts, axis + 1).reshape(*shape[:axis], -1, *shape[axis + 1 :])
    f = loopnest.compile(shuffle(shape, groups, axis, dtype=dtype))
    np.testing.assert_array_equal(f(*parts), expected)


def test_extents_that_are_not_known() -> None:
    model = shuffle(("n", 6, 5, 5))
    assert ops(model) == ["Stack"]
    parts = [values(4, 6, 5, 5, seed=i) for i in range(2)]
    np.testing.assert_array_equal(loopnest.compile(model)(*parts), onnxruntime(model, {"x0": parts[0], "x1": parts[1]})[0])


@pytest.mark.parametrize(
    "model",
    [
        shuffle((1, 6, 3)),  # 12 bytes move together
        shuffle((1, 6, 40), outputs=["joined"]),
        shuffle((1, 6, 40), apart=[1, 3, 4, 40]),
        shuffle((1, 6, 40), perm=[0, 1, 3, 2]),
    ],
)
def test_what_is_no_stack(model: onnx.ModelProto) -> None:
    assert "Stack" not in ops(model) and "Transpose" in ops(model)
    parts = [values(*(d.dim_value for d in i.type.tensor_type.shape.dim), seed=s) for s, i in enumerate(model.graph.input)]
    feeds = {i.name: part for i, part in zip(model.graph.input, parts, strict=True)}
    for got, wanted in zip(loopnest.compile(model).run(None, feeds), onnxruntime(model, feeds), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_parts_of_unequal_size_are_no_stack() -> None:
    nodes = [
        oh.make_node("Concat", ["x", "z"], ["joined"], axis=1),
        oh.make_node("Reshape", ["joined", "apart"], ["parts"]),
        oh.make_node("Transpose", ["parts"], ["y"], perm=[0, 2, 1, 3]),
    ]
    model = make_model(nodes, {"x": (1, 4, 40), "z": (1, 8, 40)}, ["y"], {"apart": np.array([1, 2, 6, 40])})
    assert "Stack" not in ops(model)
