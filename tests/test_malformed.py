"""Malformed models: one sentence that names the culprit, and the process lives."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import hypothesis
import hypothesis.strategies as st
import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper as nh
import pytest

import loopnest
from loopnest.compiler.frontend import load, reading
from loopnest.ir.errors import LoopnestError, ModelError
from tests.graphs import anything, load_any, make_model, tensor, values

node = oh.make_node
X = {"x": (2, 3)}


def good() -> onnx.ModelProto:
    return make_model([node("MatMul", ["x", "w"], ["a"], name="mm"), node("Relu", ["a"], ["y"])], X, ["y"], {"w": values(3, 4)})


def refused(model: onnx.ModelProto | bytes | str | os.PathLike[str]) -> str:
    with pytest.raises(ModelError) as caught:
        load(model, supported=anything)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_good_model_is_good() -> None:
    assert [item.op for item in load_any(good()).nodes] == ["MatMul", "Relu"]


# --- files -------------------------------------------------------------------------------------------------------------


def test_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(good().SerializeToString()[:-20])
    assert f"the file {str(path)!r} is not an ONNX model, or is truncated" in refused(path)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 a zip file", b"\x89PNG\r\n", b"graph { }" * 10])
def test_not_an_onnx_file(data: bytes) -> None:
    assert "not an ONNX model" in refused(data)


def test_missing_file(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none.onnx")


def test_folder_instead_of_file(tmp_path: Path) -> None:
    assert "cannot read the model file" in refused(tmp_path)


def test_wrong_python_type() -> None:
    assert "not a int" in refused(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", [0, 99])
def test_unknown_ir_version(version: int) -> None:
    model = good()
    model.ir_version = version
    assert f"IR version {version}; versions 1 to {onnx.IR_VERSION}" in refused(model)


@pytest.mark.parametrize("version", [0, 999])
def test_unknown_opset(version: int) -> None:
    model = good()
    model.opset_import[0].version = version
    assert f"opset {version}; opsets 1 to" in refused(model)


def test_no_opset() -> None:
    model = good()
    del model.opset_import[:]
    assert "names no opset" in refused(model)


@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=500)
def test_damaged_bytes_raise_or_load_but_never_crash(data: st.DataObject) -> None:
    serialized = bytearray(good().SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        serialized[data.draw(st.integers(0, len(serialized) - 1))] = data.draw(st.integers(0, 255))
    results: list[dict[str, bytes] | None] = []
    for large in (16, 10**9):  # weights taken out before parsing, and not
        with mock.patch.object(reading, "_LARGE", large):
            results.append(None)
            with contextlib.suppress(LoopnestError):
                graph = load(bytes(serialized), supported=anything)
                results[-1] = {name: array.tobytes() for name, array in graph.constants.items()}
    assert results[0] == results[1]


# --- structure ---------------------------------------------------------------------------------------------------------


def test_cyclic_graph() -> None:
    nodes = [node("Add", ["x", "c"], ["a"], name="first"), node("Relu", ["a"], ["b"]), node("Neg", ["b"], ["c"], name="last")]
    message = refused(make_model(nodes, X, ["c"]))
    assert "graph 'test' is cyclic" in message
    assert "Add node 'first'" in message
    assert "Neg node 'last'" in message


def test_node_that_reads_itself() -> None:
    assert "cyclic" in refused(make_model([node("Add", ["x", "y"], ["y"])], X, ["y"]))


def test_missing_initializer() -> None:
    model = good()
    del model.graph.initializer[:]
    assert refused(model) == "MatMul node 'mm' reads tensor 'w', which no node, input or initializer defines"


def test_undefined_output() -> None:
    assert "graph 'test' has the output 'z', which no node, input or initializer defines" in refused(
        make_model([node("Relu", ["x"], ["y"])], X, ["z"])
    )


def test_two_nodes_make_the_same_tensor() -> None:
    message = refused(make_model([node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"], name="second")], X, ["y"]))
    assert message == "Neg node 'second' defines tensor 'y', which graph 'test' has defined already"


def test_node_makes_an_input() -> None:
    assert "defines tensor 'x'" in refused(make_model([node("Relu", ["x"], ["x"])], X, ["x"]))


def test_two_initializers_of_one_name() -> None:
    model = good()
    model.graph.initializer.append(nh.from_array(values(3, 4), "w"))
    assert "has the initializer 'w' although that name is defined already" in refused(model)


def test_missing_name_in_a_subgraph() -> None:
    branch = oh.make_graph([node("Relu", ["nowhere"], ["r"])], "branch", [], [tensor("r", None)])
    conditional = node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    model = make_model([conditional], {"c": tensor("c", (), onnx.TensorProto.BOOL)}, ["y"])
    assert "reads tensor 'nowhere'" in refused(model)


def test_input_without_a_type() -> None:
    model = good()
    model.graph.input[0].ClearField("type")
    assert "input 'x' of graph 'test' has no type" in refused(model)


def test_function_called_with_too_many_inputs() -> None:
    function = oh.make_function("my", "F", ["a"], ["b"], [node("Relu", ["a"], ["b"])], [oh.make_opsetid("", 17)])
    model = make_model([node("F", ["x", "x"], ["y"], domain="my")], X, ["y"], domains={"my": 1}, functions=[function])
    assert "function 'F' is called with 2 inputs and 1 outputs; it has 1 and 1" in refused(model)


# --- nodes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (
            node("Softmax", ["x"], ["y"], axis="last", name="s"),
            "Softmax node 's' has attribute 'axis' of type STRING; INT is expected",
        ),
        (node("Conv", ["x", "x"], ["y"], strides=1.5), "has attribute 'strides' of type FLOAT; INTS is expected"),
        (node("Relu", ["x"], ["y"], slope=1), "has attribute 'slope', which Relu does not know"),
        (node("Cast", ["x"], ["y"]), "lacks its attribute 'to', which Cast requires"),
        (node("Add", ["x"], ["y"]), "Add node that makes 'y' has 1 inputs; Add takes 2"),
        (node("Relu", ["x", "x"], ["y"]), "has 2 inputs; Relu takes 1"),
        (node("Conv", ["x", ""], ["y"]), "lacks its input 'W', which Conv requires"),
        (node("Max", ["x", ""], ["y"]), "lacks its input 'data_0', which Max requires"),
        (node("Cast", ["x"], ["y"], to=99), "has to = 99, a data type that ONNX does not define"),
        (node("Cast", ["x"], ["y"], to=0), "has to = 0, a data type"),
        (node("EyeLike", ["x"], ["y"], dtype=2**40), "has dtype = 1099511627776, a data type"),
        (node("Gelu", ["x"], ["y"]), "uses Gelu, which opset 17 does not have"),
        (node("Concat", [], ["y"], axis=0), "has 0 inputs; Concat takes at least 1"),
        (
            node("Constant", [], ["y"], value_int=1, value_float=1.0),
            "has 2 values (value_int, value_float); exactly one is expected",
        ),
    ],
)
def test_wrong_nodes(proto: onnx.NodeProto, message: str) -> None:
    proto.attribute.sort(key=lambda item: item.name, reverse=True)
    assert message in refused(make_model([proto], X, ["y"]))


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (
            node("Conv", ["x", "w"], ["y"], strides=[1]),
            "Conv node that makes 'y': strides is (1,), expected 2 positive numbers",
        ),
        (node("Resize", ["x", "", "", "sizes"], ["y"]), "tensor 'y' has a negative extent in its dims [1, 2, -3, 4]"),
        (node("ConvTranspose", ["x", "w"], ["y"], pads=[0, 0, 0]), "pads is (0, 0, 0), expected 4 numbers"),
        (
            node("Tile", ["x", "counts"], ["y"]),
            f"tensor 'y' has dims [1, 0, {3 * 2**40}, {2**42}] of float32, more than 1024 GiB",
        ),
        (node("Pad", ["x", "pads"], ["y"]), f"tensor 'y' has dims [{2**40}, 2, 3, 4] of float32, more than 1024 GiB"),
    ],
)
def test_nodes_that_do_not_fit_their_inputs(proto: onnx.NodeProto, message: str) -> None:
    """Passes look at them before their operators do."""
    counts = np.array([1, 0, 2**40, 2**40])
    constants = {
        "counts": counts,
        "w": values(2, 2, 1, 1),
        "sizes": np.array([1, 2, -3, 4]),
        "pads": np.array([0] * 4 + [2**40 - 1, 0, 0, 0]),
    }
    read = {name: array for name, array in constants.items() if name in proto.input}
    with pytest.raises(ModelError) as caught:
        loopnest.compile(make_model([proto], {"x": (1, 2, 3, 4)}, ["y"], read))
    assert message in str(caught.value)


def test_attribute_given_twice() -> None:
    proto = node("Softmax", ["x"], ["y"], axis=1)
    proto.attribute.append(proto.attribute[0])
    assert "has attribute 'axis' twice" in refused(make_model([proto], X, ["y"]))


def test_operands_of_different_types() -> None:
    message = refused(make_model([node("Add", ["x", "c"], ["y"], name="sum")], X, ["y"], {"c": np.ones(3, np.int64)}))
    assert message == "Add node 'sum' has inputs of different types: 'x' is float32 and 'c' is int64; Add wants them alike"


def test_operand_of_a_type_that_the_operator_does_not_take() -> None:
    message = refused(make_model([node("Gather", ["x", "x"], ["y"])], X, ["y"]))
    assert (
        "Gather node that makes 'y' has input 'indices' = 'x' of type float32; tensor(int32), tensor(int64) is expected"
        in message
    )


# --- tensors -----------------------------------------------------------------------------------------------------------


def broken(change: Callable[[onnx.TensorProto], None]) -> str:
    model = good()
    change(model.graph.initializer[0])
    return refused(model)


def test_dims_that_do_not_fit_the_data() -> None:
    def change(proto: onnx.TensorProto) -> None:
        proto.dims[0] = 5

    assert broken(change) == "tensor 'w' is float32[5, 4], 80 bytes, but its data has 48 bytes"


def test_typed_data_that_does_not_fit_the_dims() -> None:
    def change(proto: onnx.TensorProto) -> None:
        proto.ClearField("raw_data")
        proto.float_data.extend([1, 2, 3])

    assert "48 bytes, but its data has 12 bytes" in broken(change)


def test_absurd_dims_of_a_tensor() -> None:
    def change(proto: onnx.TensorProto) -> None:
        proto.dims[0] = 2**40

    assert "tensor 'w' has dims [1099511627776, 4] of float32, more than 1024 GiB" in broken(change)


def test_absurd_dims_of_an_input() -> None:
    model = make_model([node("Relu", ["x"], ["y"])], {"x": (2**40, 2**30)}, ["y"])
    assert "input 'x' of graph 'test' has dims [1099511627776, 1073741824] of float32" in refused(model)


def test_negative_dims() -> None:
    def change(proto: onnx.TensorProto) -> None:
        proto.dims[0] = -3

    assert "tensor 'w' has a negative extent in its dims [-3, 4]" in broken(change)


def test_unknown_data_type() -> None:
    def change(proto: onnx.TensorProto) -> None:
        proto.data_type = 77

    assert "tensor 'w' has data type 77, which ONNX does not define" in broken(change)


def test_sparse_indices_out_of_range() -> None:
    model = make_model([node("Identity", ["c"], ["y"])], {}, ["y"])
    sparse = oh.make_sparse_tensor(nh.from_array(np.array([7], "f"), "c"), nh.from_array(np.array([9])), [2, 3])
    model.graph.sparse_initializer.append(sparse)
    assert "sparse tensor 'c' of shape [2, 3] has indices that do not fit" in refused(model)


# --- external data -----------------------------------------------------------------------------------------------------


def external(folder: Path, **entries: str) -> Path:
    """A model in ``folder`` whose weights are where ``entries`` say, beside a data file of 48 bytes."""
    folder.mkdir(exist_ok=True)
    (folder / "w.bin").write_bytes(values(3, 4).tobytes())
    model = good()
    proto = model.graph.initializer[0]
    proto.ClearField("raw_data")
    proto.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        proto.external_data.add(key=key, value=value)
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_in_the_folder_is_fine(tmp_path: Path) -> None:
    graph = load(external(tmp_path, location="w.bin"), supported=anything)
    assert (graph.constants["w"] == values(3, 4)).all()


@pytest.mark.parametrize(
    "location", ["../secret.bin", "{folder}/../secret.bin", "sub/../../secret.bin", "link.bin", "dir/secret.bin", ""]
)
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(48))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "dir").symlink_to(tmp_path)
    location = location.format(folder=folder)
    assert (
        refused(external(folder, location=location))
        == f"tensor 'w' has external data at {location!r}, outside the model's folder: refused"
    )


def test_external_data_that_is_not_there(tmp_path: Path) -> None:
    assert "at 'gone.bin', which is not a file in the model's folder" in refused(external(tmp_path, location="gone.bin"))


def test_external_data_that_is_a_folder(tmp_path: Path) -> None:
    assert "which is not a file in the model's folder" in refused(external(tmp_path, location="."))


def test_external_data_past_the_end_of_the_file(tmp_path: Path) -> None:
    message = refused(external(tmp_path, location="w.bin", offset="8"))
    assert message == "tensor 'w' lies at bytes 8 to 56 of 'w.bin', which has 48 bytes"


def test_external_data_of_the_wrong_length(tmp_path: Path) -> None:
    assert "needs 48 bytes but its external data is 12 bytes long" in refused(external(tmp_path, location="w.bin", length="12"))


def test_external_data_with_an_offset_that_is_no_number(tmp_path: Path) -> None:
    assert "with offset '-8', which is not a non-negative number" in refused(external(tmp_path, location="w.bin", offset="-8"))


def test_external_data_of_a_model_without_a_folder(tmp_path: Path) -> None:
    assert "give the model as a path" in refused(external(tmp_path, location="w.bin").read_bytes())
