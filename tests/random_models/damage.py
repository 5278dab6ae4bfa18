"""Models made wrong: each mutation changes one thing of a valid model, as a broken exporter, editor or disk would."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.helper as oh

from .chances import weighted
from .hostile import Hostile

Damage = Callable[[Hostile, onnx.ModelProto], object]
DAMAGES: list[Damage] = []
NUMBERS = (0, 1, -1, 2, -2, 3, 5, 7, 100, -100, 2**31 - 1, -(2**31), 2**31, 2**62, 2**63 - 1, -(2**63))
NAMES = ("", "x0", "x1", "y0", "nowhere", "a/b", "é\n", "it")
TYPES = (0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 13, 14, 16, 17, 22, 23, 99, -1)


def damage(weight: int = 1) -> Callable[[Damage], Damage]:
    return weighted(DAMAGES, weight)


def _node(h: Hostile, model: onnx.ModelProto) -> onnx.NodeProto:
    return h.one_of(*model.graph.node) if model.graph.node else onnx.NodeProto()


def _name(h: Hostile, model: onnx.ModelProto) -> str:
    graph = model.graph
    known = [n for node in graph.node for n in (*node.input, *node.output)] + [
        v.name for v in (*graph.input, *graph.output, *graph.initializer)
    ]
    return h.one_of(*known, *known, *NAMES) if known else h.one_of(*NAMES)


def _dims(h: Hostile, dims: list[int]) -> list[int]:
    dims = list(dims)
    match h.between(0, 3):
        case 0 if dims:
            dims[h.between(0, len(dims) - 1)] = h.one_of(*NUMBERS)
        case 1 if dims:
            del dims[h.between(0, len(dims) - 1)]
        case 2:
            dims.insert(h.between(0, len(dims)), h.one_of(*NUMBERS))
        case _:
            h.random.shuffle(dims)
    return [int(d) for d in dims]


@damage(2)
def attribute_value(h: Hostile, model: onnx.ModelProto) -> None:
    node = _node(h, model)
    if not node.attribute:
        return
    a = h.one_of(*node.attribute)
    match a.type:
        case onnx.AttributeProto.INT:
            a.i = h.one_of(*NUMBERS)
        case onnx.AttributeProto.INTS:
            dims = _dims(h, list(a.ints))
            del a.ints[:]
            a.ints.extend(dims)
        case onnx.AttributeProto.FLOAT:
            a.f = h.one_of(0.0, -1.0, float("nan"), float("inf"), 1e38)
        case onnx.AttributeProto.STRING:
            a.s = h.one_of(b"", b"linear", b"\xff\xfe", b"SAME_UPPER", b"none")
        case _:
            a.ClearField("t")


@damage()
def attribute_of_another_type(h: Hostile, model: onnx.ModelProto) -> None:
    node = _node(h, model)
    if node.attribute:
        at = h.between(0, len(node.attribute) - 1)
        name = node.attribute[at].name
        value = h.one_of(1, 1.5, "text", [1, 2], [1.5], ["a"], oh.make_tensor("t", 1, [2], [1.0, 2.0]))
        del node.attribute[at]
        node.attribute.append(oh.make_attribute(name, value))


@damage()
def attribute_missing(h: Hostile, model: onnx.ModelProto) -> None:
    node = _node(h, model)
    if node.attribute:
        del node.attribute[h.between(0, len(node.attribute) - 1)]


@damage()
def attribute_added(h: Hostile, model: onnx.ModelProto) -> None:
    name = h.one_of(
        "axis",
        "axes",
        "keepdims",
        "group",
        "pads",
        "strides",
        "dilations",
        "kernel_shape",
        "to",
        "mode",
        "perm",
        "nothing",
        "value",
    )
    _node(h, model).attribute.append(
        oh.make_attribute(name, h.one_of(h.one_of(*NUMBERS), [h.one_of(*NUMBERS)], [1, 1], "x", 2.5))
    )


@damage(2)
def node_input(h: Hostile, model: onnx.ModelProto) -> None:
    node = _node(h, model)
    match h.between(0, 3):
        case 0 if node.input:
            node.input[h.between(0, len(node.input) - 1)] = _name(h, model)
        case 1 if node.input:
            del node.input[h.between(0, len(node.input) - 1)]
        case 2 if node.input:
            node.input[h.between(0, len(node.input) - 1)] = ""
        case _:
            node.input.append(_name(h, model))


@damage()
def node_output(h: Hostile, model: onnx.ModelProto) -> None:
    node = _node(h, model)
    match h.between(0, 2):
        case 0 if node.output:
            node.output[h.between(0, len(node.output) - 1)] = _name(h, model)
        case 1 if node.output:
            del node.output[h.between(0, len(node.output) - 1)]
        case _:
            node.output.append(h.one_of("more", _name(h, model)))


@damage()
def operator(h: Hostile, model: onnx.ModelProto) -> None:
    names = (
        "Relu Add MatMul Conv Concat Reshape Transpose Softmax If Loop Scan Gather Split Slice LSTM Nothing Constant Einsum "
        "TopK Resize Pad"
    )
    _node(h, model).op_type = h.one_of(*names.split(), "")


@damage()
def domain(h: Hostile, model: onnx.ModelProto) -> None:
    _node(h, model).domain = h.one_of("ai.onnx", "ai.onnx.ml", "com.microsoft", "nowhere", "")


@damage()
def nodes(h: Hostile, model: onnx.ModelProto) -> None:
    graph = model.graph
    match h.between(0, 2):
        case 0 if graph.node:
            del graph.node[h.between(0, len(graph.node) - 1)]
        case 1:
            graph.node.append(_node(h, model))
        case _:
            order = h.random.permutation(len(graph.node))
            shuffled = [onnx.NodeProto.FromString(graph.node[int(i)].SerializeToString()) for i in order]
            del graph.node[:]
            graph.node.extend(shuffled)


@damage()
def weight(h: Hostile, model: onnx.ModelProto) -> None:
    graph = model.graph
    if not graph.initializer:
        return
    it = h.one_of(*graph.initializer)
    match h.between(0, 6):
        case 0:
            dims = _dims(h, list(it.dims))
            del it.dims[:]
            it.dims.extend(dims)
        case 1:
            it.data_type = h.one_of(*TYPES)
        case 2:
            it.raw_data = it.raw_data[: h.between(0, len(it.raw_data))]
        case 3:
            it.raw_data = it.raw_data + bytes(h.between(1, 9))
        case 4:
            it.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (
                ("location", h.one_of("/etc/passwd", "../secret", "absent", "", ".", "a\0b")),
                ("offset", str(h.one_of(*NUMBERS))),
                ("length", "8"),
            ):
                if h.chance(0.8):
                    it.external_data.add(key=key, value=value)
        case 5:
            graph.initializer.append(it)
        case _:
            graph.initializer.remove(it)


@damage(2)
def weight_values(h: Hostile, model: onnx.ModelProto) -> None:
    """Shapes, axes, indices and sizes that no exporter would write."""
    found = [i for i in model.graph.initializer if i.data_type == onnx.TensorProto.INT64 and i.raw_data]
    if found:
        it = h.one_of(*found)
        data = bytearray(it.raw_data)
        at = 8 * h.between(0, len(data) // 8 - 1)
        data[at : at + 8] = h.one_of(*NUMBERS).to_bytes(8, "little", signed=True)
        it.raw_data = bytes(data)


@damage(2)
def declared(h: Hostile, model: onnx.ModelProto) -> None:
    """The type or shape of an input, an output or a value between."""
    graph = model.graph
    values = [*graph.input, *graph.output, *graph.value_info]
    if not values:
        return
    value = h.one_of(*values)
    tensor = value.type.tensor_type
    match h.between(0, 5):
        case 0:
            tensor.elem_type = h.one_of(*TYPES)
        case 1:
            value.name = _name(h, model)
        case 2:
            value.ClearField("type")
        case 3 if tensor.shape.dim:
            dim = h.one_of(*tensor.shape.dim)
            dim.dim_value = h.one_of(*NUMBERS)
        case 4:
            tensor.shape.dim.add(dim_value=h.one_of(*NUMBERS))
        case _:
            if tensor.shape.dim:
                del tensor.shape.dim[0]


@damage()
def interface(h: Hostile, model: onnx.ModelProto) -> None:
    graph = model.graph
    values = h.one_of(graph.input, graph.output)
    match h.between(0, 2):
        case 0 if values:
            del values[h.between(0, len(values) - 1)]
        case 1 if values:
            values.append(values[0])
        case _:
            values.append(onnx.ValueInfoProto(name=_name(h, model)))


@damage()
def versions(h: Hostile, model: onnx.ModelProto) -> None:
    if h.chance(0.3):
        model.ir_version = h.one_of(*NUMBERS[:10], 3, 4, 8)
    else:
        model.opset_import[0].version = h.one_of(1, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 17, 18, 20, 23, 0, -1, 1000)


def broken_bytes(h: Hostile, data: bytes) -> bytes:
    """Some bytes changed, cut out or put in."""
    array = bytearray(data)
    for _ in range(h.between(1, 3)):
        at = h.between(0, len(array) - 1) if array else 0
        match h.between(0, 4):
            case 0:
                del array[at:]
            case 1:
                array[at:at] = bytes(h.random.integers(0, 256, h.between(1, 4), np.uint8))
            case 2:
                del array[at : at + h.between(1, 8)]
            case _ if array:
                array[at] = h.between(0, 255)
            case _:
                pass
    return bytes(array)
