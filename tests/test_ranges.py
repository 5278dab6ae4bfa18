"""Parts of parts that are ranges of memory."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import loopnest
from loopnest.compiler.passes import PASSES, run_passes
from tests.graphs import load_any, make_model, onnxruntime, values


def chain(shape: tuple[int, ...], steps: list[tuple[str, int, int]]) -> onnx.ModelProto | None:
    """Gathers, slices and reshapes of the first axis, joined with something of their shape in the end."""
    nodes, constants, name = [], {}, "x"
    for i, (op, first, size) in enumerate(steps):
        if op == "Gather" and len(shape) > 1:
            constants[f"i{i}"] = np.array(first % shape[0] - (shape[0] if size % 2 else 0))
            nodes.append(oh.make_node("Gather", [name, f"i{i}"], [f"v{i}"], axis=0))
            shape = shape[1:]
        elif op == "Slice":
            start = first % shape[0]
            stop = min(shape[0], start + size)
            bounds = {f"s{i}": [start], f"e{i}": [stop], f"a{i}": [0]}
            constants |= {key: np.array(value) for key, value in bounds.items()}
            nodes.append(oh.make_node("Slice", [name, *bounds], [f"v{i}"]))
            shape = (stop - start, *shape[1:])
        elif op == "Reshape" and len(shape) > 1:
            shape = (shape[0] * shape[1], *shape[2:])
            constants[f"r{i}"] = np.array(shape)
            nodes.append(oh.make_node("Reshape", [name, f"r{i}"], [f"v{i}"]))
        else:
            continue
        name = f"v{i}"
    if not nodes:
        return None
    nodes.append(oh.make_node("Concat", [name, "z"], ["y"], axis=len(shape) - 1))
    return make_model(nodes, {"x": SHAPE, "z": shape}, ["y"], constants)


SHAPE = (4, 3, 5, 7)
STEPS = st.tuples(st.sampled_from(["Gather", "Slice", "Reshape"]), st.integers(0, 8), st.integers(1, 9))


@given(st.lists(STEPS, min_size=1, max_size=5))
@settings(max_examples=12)
def test_any_chain(steps: list[tuple[str, int, int]]) -> None:
    model = chain(SHAPE, steps)
    if model is None:
        return
    z = tuple(d.dim_value for d in model.graph.input[1].type.tensor_type.shape.dim)
    feeds = {"x": values(*SHAPE), "z": values(*z, seed=1)}
    np.testing.assert_array_equal(loopnest.compile(model)(**feeds), onnxruntime(model, feeds)[0])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("past", [1, 7, 33])
def test_caches_are_read_where_they_lie(past: int, threads: int) -> None:
    """As a decoder takes keys and values of a layer from one tensor for all layers."""
    cache, new = values(3, 2, 1, 2, past, 8), values(1, 2, 1, 8, seed=1)
    nodes = [oh.make_node("Gather", ["past", "two"], ["layer"], axis=0)]
    for name in ("zero", "one"):
        nodes += [
            oh.make_node("Gather", ["layer", name], [f"part_{name}"], axis=0),
            oh.make_node("Concat", [f"part_{name}", "new"], [f"y_{name}"], axis=2),
        ]
    numbers = {name: np.array(value) for value, name in enumerate(("zero", "one", "two"))}
    model = make_model(nodes, {"past": cache.shape, "new": new.shape}, ["y_zero", "y_one"], numbers)
    f = loopnest.compile(model, threads=threads)
    keys, grown = f.run(None, {"past": cache, "new": new})
    np.testing.assert_array_equal(keys, np.concatenate([cache[2, 0], new], 2))
    np.testing.assert_array_equal(grown, np.concatenate([cache[2, 1], new], 2))
    graph = run_passes(load_any(model), PASSES)
    assert sorted(node.op for node in graph.nodes if node.op != "Reshape") == ["Concat", "Concat", "Slice", "Slice"]


def test_an_index_of_the_shape_of_a_vector_keeps_its_axis() -> None:
    model = make_model([oh.make_node("Gather", ["x", "i"], ["y"], axis=0)], {"x": (3, 4)}, ["y"], {"i": np.array([1])})
    x = values(3, 4)
    np.testing.assert_array_equal(loopnest.compile(model)(x), x[1:2])
