"""The ONNX frontend: every form of every opset becomes the newest, names are unique, functions are gone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper as nh
import pytest

from loopnest.compiler.check import check
from loopnest.compiler.frontend import load, reading, wire
from loopnest.ir import dtypes
from loopnest.ir.errors import ModelError, UnsupportedOperatorError
from loopnest.ir.graph import Graph, SequenceType, TensorType
from loopnest.ir.graph_onnx import newest_opset, to_model
from loopnest.ir.graph_verify import verify
from tests.graphs import (
    anything,
    assert_same,
    interpret,
    load_any,
    make_model,
    onnxruntime,
    reference,
    tensor,
    values,
)

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
node = oh.make_node


def ops(graph: Graph) -> list[str]:
    return [item.op for item in graph.nodes]


X = {"x": (2, 3, 4, 4)}

OLD_FORMS = [
    pytest.param(6, node("Clip", ["x"], ["y"], min=-0.5, max=0.5), {}, id="clip-6"),
    pytest.param(7, node("Clip", ["x"], ["y"], max=0.5), {}, id="clip-max-only"),
    pytest.param(7, node("Slice", ["x"], ["y"], starts=[1, -3], ends=[2, 2**31 - 1], axes=[1, 3]), {}, id="slice-1"),
    pytest.param(7, node("Pad", ["x"], ["y"], pads=[0, 0, 1, 1, 0, 0, 2, 2], value=1.5), {}, id="pad-2"),
    pytest.param(7, node("Pad", ["x"], ["y"], pads=[0, 0, 1, 1, 0, 0, 2, 2], mode="reflect"), {}, id="pad-2-reflect"),
    pytest.param(9, node("Unsqueeze", ["x"], ["y"], axes=[0, 3]), {}, id="unsqueeze-1"),
    pytest.param(11, node("ReduceMean", ["x"], ["y"], axes=[1, -1], keepdims=0), {}, id="reduce-mean-11"),
    pytest.param(13, node("ReduceMax", ["x"], ["y"]), {}, id="reduce-max-all"),
    pytest.param(11, node("ReduceSum", ["x"], ["y"], axes=[0]), {}, id="reduce-sum-11"),
    pytest.param(11, node("Split", ["x"], ["y", "z"], axis=2, split=[1, 3]), {}, id="split-11"),
    pytest.param(13, node("Split", ["x"], ["y", "z"], axis=2), {}, id="split-even-13"),
    pytest.param(9, node("TopK", ["x"], ["y", "z"], k=2, axis=3), {}, id="topk-1"),
    pytest.param(7, node("Dropout", ["x"], ["y"], ratio=0.3), {}, id="dropout-7"),
    pytest.param(7, node("Upsample", ["x"], ["y"], scales=[1.0, 1.0, 2.0, 3.0]), {}, id="upsample-7-nearest"),
    pytest.param(
        9, node("Upsample", ["x", "s"], ["y"], mode="linear"), {"s": np.array([1, 1, 2, 2], "f")}, id="upsample-9-linear"
    ),
    pytest.param(10, node("Resize", ["x", "s"], ["y"]), {"s": np.array([1, 1, 2, 2], "f")}, id="resize-10-up"),
    pytest.param(10, node("Resize", ["x", "s"], ["y"]), {"s": np.array([1, 1, 0.6, 0.6], "f")}, id="resize-10-down"),
    pytest.param(
        10, node("Resize", ["x", "s"], ["y"], mode="linear"), {"s": np.array([1, 1, 0.6, 1.7], "f")}, id="resize-10-linear"
    ),
    pytest.param(11, node("Softmax", ["x"], ["y"]), {}, id="softmax-default-axis"),
    pytest.param(11, node("Softmax", ["x"], ["y"], axis=2), {}, id="softmax-flattened"),
    pytest.param(11, node("LogSoftmax", ["x"], ["y"], axis=-1), {}, id="log-softmax-last-axis"),
    pytest.param(11, node("Hardmax", ["x"], ["y"], axis=-2), {}, id="hardmax-negative-axis"),
    pytest.param(
        9,
        node("BatchNormalization", ["x", "a", "b", "c", "d"], ["y"], epsilon=0.01),
        {name: np.arange(1, 4, dtype="f") for name in "abcd"},
        id="batch-norm-9",
    ),
    pytest.param(
        9,
        node("Scatter", ["x", "i", "u"], ["y"], axis=3),
        {"i": np.zeros((2, 3, 4, 1), np.int64), "u": values(2, 3, 4, 1)},
        id="scatter-9",
    ),
    pytest.param(16, node("GridSample", ["x", "g"], ["y"], mode="bicubic"), {"g": values(2, 3, 3, 2) / 2}, id="grid-sample-16"),
    pytest.param(
        10,
        node("RoiAlign", ["x", "r", "i"], ["y"], output_height=2, output_width=2),
        {"r": np.array([[0, 0, 2, 3]], "f"), "i": np.array([1])},
        id="roi-align-10",
    ),
]


@pytest.mark.parametrize(("opset", "proto", "constants"), OLD_FORMS)
def test_old_forms_keep_their_meaning(opset: int, proto: onnx.NodeProto, constants: dict[str, np.ndarray]) -> None:
    opset = max(opset, 7)
    model = make_model([proto], X, list(proto.output), constants, opset=opset)
    feeds = {"x": values(2, 3, 4, 4)}
    assert_same(interpret(load_any(model), feeds), onnxruntime(model, feeds))


def test_squeeze_attribute_becomes_input() -> None:
    model = make_model([node("Squeeze", ["x"], ["y"], axes=[0, 2])], {"x": (1, 3, 1, 1)}, ["y"], opset=11)
    graph = load_any(model)
    (axes,) = [graph.constants[name] for name in graph.nodes[0].inputs[1:]]
    assert axes.tolist() == [0, 2]
    assert interpret(graph, {"x": values(1, 3, 1, 1)})[0].shape == (3, 1)


def test_group_norm_18_has_parameters_for_groups() -> None:
    constants = {"s": np.array([1, 2], "f"), "b": np.array([3, 4], "f")}
    proto = node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)
    feeds = {"x": values(2, 4, 3)}
    graph = load_any(make_model([proto], {"x": (2, 4, 3)}, ["y"], constants, opset=18))
    per_channel = {name: np.repeat(array, 2) for name, array in constants.items()}
    newest = make_model([proto], {"x": (2, 4, 3)}, ["y"], per_channel, opset=21)
    assert_same(interpret(graph, feeds), reference(newest, feeds))


def test_dft_17_axis_attribute_becomes_input() -> None:
    model = make_model([node("DFT", ["x"], ["y"], axis=2)], {"x": (1, 4, 8, 1)}, ["y"], opset=17)
    feeds = {"x": values(1, 4, 8, 1)}
    spectrum = np.fft.fft(feeds["x"][..., 0], axis=2)
    assert_same(interpret(load_any(model), feeds), [np.stack([spectrum.real, spectrum.imag], -1).astype("f")])


@pytest.mark.parametrize(
    ("attrs", "shape"),
    [({"broadcast": 1, "axis": 1}, (3,)), ({"broadcast": 1}, (4,)), ({"broadcast": 1, "axis": -2}, (4, 4)), ({}, (2, 3, 4, 4))],
)
def test_broadcast_before_opset_7(attrs: dict[str, int], shape: tuple[int, ...]) -> None:
    model = make_model([node("Sub", ["x", "c"], ["y"], **attrs)], X, ["y"], {"c": values(*shape, seed=1)}, opset=6)
    x, c = values(2, 3, 4, 4), values(*shape, seed=1)
    expected = x - (c[:, None, None] if attrs.get("axis") == 1 else c)
    assert_same(interpret(load_any(model), {"x": x}), [expected])


def test_prelu_before_opset_7_has_a_slope_for_each_channel() -> None:
    slope = np.array([0.1, 0.2, 0.3], "f")
    x = values(2, 3, 4, 4)
    model = make_model([node("PRelu", ["x", "c"], ["y"])], X, ["y"], {"c": slope}, opset=6)
    assert_same(interpret(load_any(model), {"x": x}), [np.where(x < 0, x * slope[:, None, None], x)])


def test_forms_of_opset_1_to_6() -> None:
    nodes = [
        node("Cast", ["x"], ["a"], to="DOUBLE"),
        node("Cast", ["a"], ["b"], to="FLOAT"),
        node("Pad", ["b"], ["c"], paddings=[0, 0, 0, 0, 0, 0, 1, 1]),
        node("Upsample", ["c"], ["d"], height_scale=2.0, width_scale=1.0),
        node("Reshape", ["d"], ["e"], shape=[2, -1], consumed_inputs=[0]),
        node("Concat", ["e", "e"], ["y"]),
    ]
    x = values(2, 3, 4, 4)
    padded = np.pad(x, [(0, 0), (0, 0), (0, 1), (0, 1)]).repeat(2, axis=2).reshape(2, -1)
    assert_same(interpret(load_any(make_model(nodes, X, ["y"], opset=1)), {"x": x}), [np.concatenate([padded, padded], 1)])


def test_batch_norm_7_with_statistics_for_each_element() -> None:
    proto = node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], spatial=0, epsilon=0.5)
    parameters = {name: values(3, 2, seed=i) ** 2 for i, name in enumerate("sbmv")}
    x = values(5, 3, 2)
    model = make_model([proto], {"x": (5, 3, 2)}, ["y"], parameters, opset=7)
    s, b, m, v = parameters.values()
    assert_same(interpret(load_any(model), {"x": x}), [(x - m) / np.sqrt(v + np.float32(0.5)) * s + b])


def test_scan_8_runs_for_each_element_of_the_batch() -> None:
    body = oh.make_graph(
        [node("Add", ["s", "e"], ["t"]), node("Identity", ["t"], ["o"])],
        "sum",
        [tensor("s", (2,)), tensor("e", (2,))],
        [tensor("t", (2,)), tensor("o", (2,))],
    )
    model = make_model(
        [node("Scan", ["", "i", "x"], ["t2", "y"], body=body, num_scan_inputs=1)],
        {"i": (3, 2), "x": (3, 5, 2)},
        ["t2", "y"],
        opset=8,
    )
    start, x = values(3, 2), values(3, 5, 2, seed=1)
    sums = start[:, None] + np.cumsum(x, axis=1)
    assert_same(interpret(load_any(model), {"i": start, "x": x}), [sums[:, -1], sums])


def test_graphs_speak_the_newest_opset() -> None:
    model = make_model([node("Softmax", ["x"], ["y"], axis=-1)], X, ["y"], opset=9)
    exported = to_model(load_any(model))
    assert exported.opset_import[0].version == newest_opset()
    onnx.checker.check_model(exported, full_check=True)


# --- names, order, types -----------------------------------------------------------------------------------------------


def test_nodes_out_of_order_are_sorted() -> None:
    nodes = [node("Relu", ["b"], ["y"]), node("Neg", ["a"], ["b"]), node("Abs", ["x"], ["a"])]
    graph = load_any(make_model(nodes, {"x": (2,)}, ["y"]))
    assert ops(graph) == ["Abs", "Neg", "Relu"]
    verify(graph)


def test_symbolic_dims_keep_their_names() -> None:
    graph = load_any(
        make_model([node("Relu", ["x"], ["a"]), node("Concat", ["a", "a"], ["y"], axis=1)], {"x": ("batch", 3, None)}, ["y"])
    )
    assert graph.types["a"] == TensorType(dtypes.float32, ("batch", 3, None))
    assert graph.types["y"] == TensorType(dtypes.float32, ("batch", 6, None))


def test_inputs_with_initializers_are_constants() -> None:
    graph = load_any(make_model([node("Add", ["x", "c"], ["y"])], {"x": (2,), "c": (2,)}, ["y"], {"c": np.ones(2, "f")}))
    assert graph.inputs == ("x",)
    assert "c" in graph.constants


def test_constant_nodes_become_constants() -> None:
    nodes = [
        node("Constant", [], ["a"], value_floats=[1.0, 2.0]),
        node("Constant", [], ["b"], value_int=3),
        node("Constant", [], ["c"], value_strings=["p", "q"]),
        node("Constant", [], ["d"], value=nh.from_array(np.arange(3))),
        node("Relu", ["x"], ["y"]),
    ]
    graph = load_any(make_model(nodes, {"x": (2,)}, ["y"]))
    assert {name: array.tolist() for name, array in graph.constants.items()} == {
        "a": [1.0, 2.0],
        "b": 3,
        "c": ["p", "q"],
        "d": [0, 1, 2],
    }
    assert graph.constants["a"].dtype == np.float32
    assert graph.constants["b"].dtype == np.int64


def branches(then: list[onnx.NodeProto], other: list[onnx.NodeProto]) -> dict[str, onnx.GraphProto]:
    return {
        "then_branch": oh.make_graph(then, "then", [], [tensor("r", None)]),
        "else_branch": oh.make_graph(other, "else", [], [tensor("r", None)]),
    }


def test_subgraphs_capture_and_are_renamed_apart() -> None:
    conditional = node("If", ["c"], ["y"], **branches([node("Neg", ["a"], ["r"])], [node("Abs", ["a"], ["r"])]))
    model = make_model(
        [node("Relu", ["x"], ["a"]), conditional], {"x": (3,), "c": tensor("c", (), onnx.TensorProto.BOOL)}, ["y"]
    )
    graph = load_any(model)
    verify(graph)
    (then, other) = graph.nodes[1].bodies
    assert then.captures() == ("a",)
    assert then.outputs != other.outputs
    for condition in (True, False):
        feeds = {"x": values(3), "c": np.array(condition)}
        assert_same(interpret(graph, feeds), onnxruntime(model, feeds))


def test_sequence_inputs_have_sequence_types() -> None:
    info = onnx.ValueInfoProto(name="s", type=oh.make_sequence_type_proto(oh.make_tensor_type_proto(1, None)))
    graph = load_any(make_model([node("SequenceLength", ["s"], ["y"])], {"s": info}, ["y"]))
    assert graph.types["s"] == SequenceType(TensorType(dtypes.float32))
    assert interpret(graph, {"s": [values(1), values(2)]}) == [2]


# --- tensors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [d for d in dtypes.ALL if d is not dtypes.string], ids=str)
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_every_dtype_is_read(dtype: dtypes.DType, raw: bool) -> None:
    array = np.array([0, 1, 1, 0, 1], np.int8).astype(dtype.numpy)
    if dtype.kind == "int":
        array = np.array([0, 1, -2, -1, 1], np.int8).astype(dtype.numpy)
    proto = nh.from_array(array, "c")
    if not raw:
        listed = (
            array.view(f"u{array.itemsize}").tolist() if dtype.kind == "float" and dtype.bits in (8, 16) else array.tolist()
        )
        if dtype.bits == 16 and dtype.kind == "float":
            proto = onnx.TensorProto(name="c", dims=[5], data_type=dtype.onnx, int32_data=listed)
        else:
            proto = oh.make_tensor(
                "c", dtype.onnx, [5], listed if dtype.bits != 8 or dtype.kind != "float" else array.astype("f").tolist()
            )
        assert not proto.HasField("raw_data")
    model = make_model([node("Identity", ["c"], ["y"])], {}, ["y"])
    model.graph.initializer.append(proto)
    loaded = load_any(model).constants["c"]
    assert loaded.dtype == dtype.numpy
    assert loaded.tobytes() == array.tobytes()


@pytest.mark.parametrize("as_file", [True, False])
def test_large_weights_are_read_without_parsing(as_file: bool, tmp_path: Path) -> None:
    weights = {"v": values(70, 30), "small": values(3), "w": values(64, 64, seed=1), "u": np.arange(5000, dtype=np.int8)}
    nodes = [node("Identity", [name], [f"y{name}"]) for name in weights]
    data = make_model(nodes, {}, [f"y{name}" for name in weights], weights).SerializeToString()
    found = wire.skeleton(memoryview(data), 4096)
    assert found is not None
    assert set(found.weights) == {0, 2, 3}
    assert len(found.data) < 1000
    (tmp_path / "m.onnx").write_bytes(data)
    graph = load(tmp_path / "m.onnx" if as_file else data, supported=anything)
    for name, array in weights.items():
        loaded = graph.constants[name]
        assert loaded.dtype == array.dtype
        assert (loaded == array).all()
        assert loaded.flags.aligned
        assert not loaded.flags.writeable


def test_weights_do_not_follow_the_file(tmp_path: Path) -> None:
    weights = values(64, 64)
    path = tmp_path / "m.onnx"
    path.write_bytes(make_model([node("Identity", ["w"], ["y"])], {}, ["y"], {"w": weights}).SerializeToString())
    graph = load(path, supported=anything)
    path.write_bytes(b"")
    assert (graph.constants["w"] == weights).all()


def test_strings_are_objects() -> None:
    model = make_model([node("Identity", ["c"], ["y"])], {}, ["y"], {"c": np.array(["a", "ß"], object)})
    assert load_any(model).constants["c"].tolist() == ["a", "ß"]


@pytest.mark.parametrize("indices", [np.array([1, 5]), np.array([[0, 1], [1, 2]])], ids=["linear", "by axis"])
def test_sparse_initializers_become_dense(indices: np.ndarray) -> None:
    model = make_model([node("Add", ["x", "c"], ["y"])], {"x": (2, 3)}, ["y"])
    sparse = oh.make_sparse_tensor(nh.from_array(np.array([7, 8], "f"), "c"), nh.from_array(indices), [2, 3])
    model.graph.sparse_initializer.append(sparse)
    assert load_any(model).constants["c"].tolist() == [[0, 7, 0], [0, 0, 8]]


@pytest.mark.parametrize("part", [1, 1000, reading._PART])
def test_weights_are_read_in_parts(part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_LARGE", 16)
    monkeypatch.setattr(reading, "_PART", part)
    arrays = {"a": np.arange(700, dtype=np.float32), "b": np.arange(3, dtype=np.int8), "c": np.arange(33, dtype=np.float64)}
    nodes = [oh.make_node("Identity", [name], [f"y{name}"]) for name in arrays]
    outputs = [oh.make_tensor_value_info(f"y{name}", 0, None) for name in arrays]
    weights = [nh.from_array(array, name) for name, array in arrays.items()]
    onnx.save(oh.make_model(oh.make_graph(nodes, "g", [], outputs, weights)), tmp_path / "m.onnx")
    source = reading.read_model(tmp_path / "m.onnx")
    read = {source.proto.graph.initializer[i].name: raw for i, raw in source.weights.items()}
    assert {name: raw.tobytes() for name, raw in read.items()} == {name: arrays[name].tobytes() for name in ("a", "c")}


def test_a_file_that_becomes_shorter_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = nh.from_array(np.arange(9000, dtype=np.float32), "w")
    node = oh.make_node("Identity", ["w"], ["y"])
    graph = oh.make_graph([node], "g", [], [oh.make_tensor_value_info("y", 1, None)], [weight])
    path = tmp_path / "m.onnx"
    onnx.save(oh.make_model(graph), path)

    def shortened(*arguments: Any) -> list[tuple[int, memoryview]]:
        os.truncate(path, 1000)
        return parts(*arguments)

    parts = reading._parts
    monkeypatch.setattr(reading, "_parts", shortened)
    with pytest.raises(ModelError, match="it became shorter while it was read"):
        reading.read_model(path)


def test_external_data_is_mapped(tmp_path: Path) -> None:
    weights = values(100, 100)
    model = make_model([node("MatMul", ["x", "w"], ["y"])], {"x": (1, 100)}, ["y"], {"w": weights})
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    graph = load(tmp_path / "m.onnx", supported=anything)
    loaded = graph.constants["w"]
    assert (loaded == weights).all()
    while isinstance(loaded, np.ndarray) and not isinstance(loaded, np.memmap):
        loaded = loaded.base  # type: ignore[assignment]
    assert isinstance(loaded, np.memmap)


def test_external_data_of_unaligned_int4(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0\0\0" + bytes([0xF1, 0x02]))
    proto = onnx.TensorProto(name="c", dims=[3], data_type=onnx.TensorProto.INT4, data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": "w.bin", "offset": "3", "length": "2"}.items():
        proto.external_data.add(key=key, value=value)
    model = make_model([node("Identity", ["c"], ["y"])], {}, ["y"], opset=21)
    model.graph.initializer.append(proto)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    loaded = load(os.fspath(tmp_path / "m.onnx"), supported=anything).constants["c"]
    assert loaded.dtype == ml_dtypes.int4
    assert loaded.astype(int).tolist() == [1, -1, 2]


# --- functions ---------------------------------------------------------------------------------------------------------


def test_model_functions_are_inlined_with_attributes_and_defaults() -> None:
    leaky = node("LeakyRelu", ["a"], ["b"])
    leaky.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    inner = oh.make_function("my", "Leaky", ["a"], ["b"], [leaky], [oh.make_opsetid("", 17)], ["slope"])
    call = node("Leaky", ["p"], ["t"], domain="my")
    call.attribute.add(name="slope", ref_attr_name="outer_slope", type=onnx.AttributeProto.FLOAT)
    outer = oh.make_function(
        "my",
        "Twice",
        ["p"],
        ["q", "p"],
        [call, node("Leaky", ["t"], ["q"], domain="my", slope=0.5)],
        [oh.make_opsetid("", 17), oh.make_opsetid("my", 1)],
        attribute_protos=[oh.make_attribute("outer_slope", 0.25)],
    )
    nodes = [node("Twice", ["x"], ["y", "same"], domain="my"), node("Twice", ["x"], ["z", ""], domain="my", outer_slope=0.0)]
    model = make_model(nodes, {"x": (4,)}, ["y", "same", "z"], domains={"my": 1}, functions=[inner, outer])
    graph = load_any(model)
    verify(graph)
    assert set(ops(graph)) == {"LeakyRelu", "Identity"}
    x = values(4)
    assert_same(interpret(graph, {"x": x}), [np.where(x < 0, x / 8, x), x, np.where(x < 0, 0, x)])


def test_functions_have_their_own_opset() -> None:
    squeeze = oh.make_function("my", "F", ["a"], ["b"], [node("Squeeze", ["a"], ["b"], axes=[0])], [oh.make_opsetid("", 11)])
    model = make_model(
        [node("F", ["x"], ["y"], domain="my")], {"x": (1, 2)}, ["y"], domains={"my": 1}, functions=[squeeze], opset=17
    )
    assert interpret(load_any(model), {"x": values(1, 2)})[0].shape == (2,)


def test_recursive_functions_are_refused() -> None:
    loop = oh.make_function("my", "F", ["a"], ["b"], [node("F", ["a"], ["b"], domain="my")], [oh.make_opsetid("my", 1)])
    with pytest.raises(ModelError, match="function 'F' of domain 'my' calls itself"):
        load_any(make_model([node("F", ["x"], ["y"], domain="my")], {"x": (1,)}, ["y"], domains={"my": 1}, functions=[loop]))


@pytest.mark.parametrize(
    ("proto", "shape"),
    [
        (node("Gelu", ["x"], ["y"], approximate="tanh"), (3, 4)),
        (node("LayerNormalization", ["x", "x"], ["y"], epsilon=0.1), (4,)),
        (node("HardSwish", ["x"], ["y"]), (5,)),
        (node("Celu", ["x"], ["y"], alpha=2.0), (5,)),
        (node("Range", ["x", "x", "x"], ["y"]), ()),
        (node("MeanVarianceNormalization", ["x"], ["y"]), (2, 3, 4, 4)),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else "",
)
def test_operators_that_are_not_supported_expand_into_their_function(proto: onnx.NodeProto, shape: tuple[int, ...]) -> None:
    model = make_model([proto], {"x": shape}, ["y"], opset=20)
    graph = load(model, supported=lambda domain, op: op != proto.op_type)
    verify(graph)
    assert proto.op_type not in ops(graph)
    feeds = {"x": np.abs(values(*shape))}
    assert_same(interpret(graph, feeds), reference(model, feeds))


def test_functions_expand_inside_subgraphs_and_inside_functions() -> None:
    conditional = node("If", ["c"], ["y"], **branches([node("Mish", ["x"], ["r"])], [node("Abs", ["x"], ["r"])]))
    model = make_model([conditional], {"x": (3,), "c": tensor("c", (), onnx.TensorProto.BOOL)}, ["y"], opset=18)
    graph = load(model, supported=lambda domain, op: op not in ("Mish", "Softplus"))
    verify(graph)
    assert {"Mish", "Softplus"}.isdisjoint(item.op for part in graph.walk() for item in part.nodes)
    feeds = {"x": values(3), "c": np.array(True)}
    assert_same(interpret(graph, feeds), reference(model, feeds))


def test_all_unsupported_operators_are_listed() -> None:
    nodes = [
        node("Frobnicate", ["x"], ["a"], domain="com.acme", name="first"),
        node("Frobnicate", ["a"], ["b"], domain="com.acme"),
        node("NonZero", ["b"], ["y"], name="nz"),
    ]
    model = make_model(nodes, {"x": (2,)}, ["y"], domains={"com.acme": 3})
    with pytest.raises(UnsupportedOperatorError) as caught:
        load(model, supported=lambda domain, op: False)
    assert "2 operators" in str(caught.value)
    assert "com.acme Frobnicate (opset 3, 2 x: 'first', 'b')" in str(caught.value)
    assert "ai.onnx NonZero (opset 17, 1 x: 'nz')" in str(caught.value)


def test_check_reports_without_raising() -> None:
    nodes = [node("Relu", ["x"], ["a"]), node("NonZero", ["a"], ["y"], name="nz")]
    report = check(make_model(nodes, {"x": (2,)}, ["y"]), supported=lambda domain, op: op == "Relu")
    assert not report.ok
    assert [(item.op, item.count) for item in report.supported] == [("Relu", 1)]
    assert [(item.domain, item.op, item.opset, item.nodes) for item in report.unsupported] == [("", "NonZero", 17, ("nz",))]
    assert "1 of 2 operators are not supported" in report.as_text()
    assert check(make_model(nodes, {"x": (2,)}, ["y"]), supported=anything).ok


@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=lambda path: path.stem)
def test_networks_of_the_onnx_package_are_read(path: Path) -> None:
    graph = load(path, supported=anything)
    verify(graph)
    (output,) = graph.outputs
    found = graph.types[output]
    assert isinstance(found, TensorType)
    assert found.static_shape is not None
    assert found.static_shape[:2] == (1, 1000)
