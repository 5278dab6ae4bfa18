"""Random models twisted: the same nodes behind other interfaces, in branches and loops, and called with other shapes.

A twist changes the model in place and may add inputs; what it makes is judged by running it, not by what it was before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper as nh

from .chances import weighted
from .hostile import Hostile

Feeds = dict[str, np.ndarray]
Twist = Callable[[Hostile, onnx.ModelProto, Feeds, Mapping[str, np.ndarray]], object]
TWISTS: list[Twist] = []


def twist(weight: int = 1) -> Callable[[Twist], Twist]:
    return weighted(TWISTS, weight)


def _typed(name: str, array: np.ndarray) -> onnx.ValueInfoProto:
    return oh.make_tensor_value_info(name, oh.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def _values(h: Hostile, model: onnx.ModelProto, values: Mapping[str, np.ndarray], kinds: str = "f") -> list[str]:
    """What a node may read at the end of the graph: inputs and results, in a random order."""
    made = {name for node in model.graph.node for name in node.output}
    names = [
        n for n, v in values.items() if (n in made or any(n == i.name for i in model.graph.input)) and v.dtype.kind in kinds
    ]
    h.random.shuffle(names)
    return names


@twist()
def inputs_are_outputs(h: Hostile, model: onnx.ModelProto, feeds: Feeds, values: Mapping[str, np.ndarray]) -> None:
    name = h.one_of(*feeds)
    if all(o.name != name for o in model.graph.output):
        model.graph.output.append(_typed(name, feeds[name]))


@twist()
def identities_of_inputs(h: Hostile, model: onnx.ModelProto, feeds: Feeds, values: Mapping[str, np.ndarray]) -> None:
    name = h.one_of(*feeds)
    for i in range(h.between(1, 3)):
        model.graph.node.append(oh.make_node(h.one_of("Identity", "Flatten", "Identity"), [name], [f"same{i}{name}"]))
        model.graph.output.append(onnx.ValueInfoProto(name=f"same{i}{name}"))


@twist()
def constants_are_outputs(h: Hostile, model: onnx.ModelProto, feeds: Feeds, values: Mapping[str, np.ndarray]) -> None:
    if model.graph.initializer:
        it = h.one_of(*model.graph.initializer)
        if all(o.name != it.name for o in model.graph.output):
            model.graph.output.append(oh.make_tensor_value_info(it.name, it.data_type, it.dims))


@twist()
def everything_is_an_output(h: Hostile, model: onnx.ModelProto, feeds: Feeds, values: Mapping[str, np.ndarray]) -> None:
    known = {o.name for o in model.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name not in known and name in values and h.chance(0.5):
                model.graph.output.append(_typed(name, values[name]))


@twist()
def constants_are_inputs(h: Hostile, model: onnx.ModelProto, feeds: Feeds, values: Mapping[str, np.ndarray]) -> None:
    """Weights, shapes and axes that the caller gives."""
    share = h.one_of(0.1, 0.5, 1.0)
    for it in list(model.graph.initializer):
        if h.chance(share):
            feeds[it.name] = nh.to_array(it)
            model.graph.initializer.remove(it)
            model.graph.input.append(_typed(it.name, feeds[it.name]))


@twist()
def one_more_reader(h: Hostile, model: onnx.ModelProto, feeds: Feeds, values: Mapping[str, np.ndarray]) -> None:
    """Values read again by elementwise nodes and views, which are outputs."""
    for name in _values(h, model, values)[: h.between(1, 4)]:
        op = h.one_of("Relu", "Neg", "Identity", "Add", "Mul", "Concat", "Max", "Flatten")
        attributes = {"axis": 0} if op in ("Concat", "Flatten") else {}
        if op == "Concat" and not values[name].ndim:
            continue
        two = op in ("Add", "Mul", "Concat", "Max")
        made = f"again_{name}_{len(model.graph.node)}"
        model.graph.node.append(oh.make_node(op, [name] * (1 + two), [made], **attributes))
        model.graph.output.append(onnx.ValueInfoProto(name=made))


@twist()
def views_of_views(h: Hostile, model: onnx.ModelProto, feeds: Feeds, values: Mapping[str, np.ndarray]) -> None:
    names = _values(h, model, values, "fib")
    if not names:
        return
    name, array = names[0], values[names[0]]
    for _ in range(h.between(2, 6)):
        made = f"view_{len(model.graph.node)}"
        extra: list[str] = []
        attributes: dict[str, object] = {}
        op = h.one_of("Slice", "Transpose", "Reshape", "Split", "Concat", "Unsqueeze", "Expand")
        match op:
            case "Slice" if array.ndim:
                axis = h.between(0, array.ndim - 1)
                n = array.shape[axis]
                start, end, step = h.one_of(
                    (0, n, 2), (1, n, 1), (-1, -n - 1, -1), (n // 2, n, 1), (0, max(1, n // 2), 1), (-1, -n - 1, -2)
                )
                if n < 2:
                    continue
                parts = (start, end, axis - h.one_of(0, array.ndim), step)
                key = [slice(None)] * array.ndim
                key[axis] = slice(start, None if end < 0 else end, step)
                array = array[tuple(key)]
                extra = [_constant(model, f"{made}_{i}", np.array([part])) for i, part in enumerate(parts)]
            case "Transpose" if array.ndim > 1:
                perm = h.random.permutation(array.ndim).tolist()
                array, attributes = array.transpose(perm), {"perm": perm}
            case "Reshape":
                shape = h.one_of([-1], [1, -1], [-1, 1], [array.shape[0] if array.ndim else 1, -1])
                array = array.reshape(shape)
                extra = [_constant(model, f"{made}_s", np.array(shape))]
            case "Split" if array.ndim and array.shape[0] > 1:
                cut = h.between(1, array.shape[0] - 1)
                extra = [_constant(model, f"{made}_s", np.array([cut, array.shape[0] - cut]))]
                model.graph.node.append(oh.make_node("Split", [name, *extra], [f"{made}_other", made], axis=0))
                model.graph.output.append(onnx.ValueInfoProto(name=f"{made}_other"))
                name, array = made, array[cut:]
                continue
            case "Concat" if array.ndim and array.size < 50_000:
                axis = h.between(0, array.ndim - 1)
                array, extra, attributes = np.concatenate([array, array], axis), [name], {"axis": axis}
            case "Unsqueeze" if array.ndim < 5:
                axis = h.between(-array.ndim - 1, array.ndim)
                array, extra = np.expand_dims(array, axis), [_constant(model, f"{made}_s", np.array([axis]))]
            case "Expand" if array.size < 50_000:
                extra, array = [_constant(model, f"{made}_s", np.array([2, *([1] * array.ndim)]))], np.stack([array, array])
            case _:
                continue
        model.graph.node.append(oh.make_node(op, [name, *extra], [made], **attributes))
        name = made
    model.graph.output.append(onnx.ValueInfoProto(name=name))


def _constant(model: onnx.ModelProto, name: str, array: np.ndarray) -> str:
    model.graph.initializer.append(nh.from_array(array, name))
    return name


@twist()
def into_a_branch(h: Hostile, model: onnx.ModelProto, feeds: Feeds, values: Mapping[str, np.ndarray]) -> None:
    """Some nodes in a row become the branch of an If, whose other branch has others results. Values from outside are captured."""
    graph = model.graph
    count = len(graph.node)
    first = h.between(0, count - 1)
    last = h.between(first, min(count - 1, first + 6))
    inside = [onnx.NodeProto.FromString(n.SerializeToString()) for n in list(graph.node)[first : last + 1]]
    outside = [*list(graph.node)[:first], *list(graph.node)[last + 1 :]]
    read = {name for node in outside for name in node.input} | {o.name for o in graph.output}
    results = [name for node in inside for name in node.output if name in read]
    if (
        not results
        or any(name not in values for name in results)
        or any(node.op_type in ("If", "Loop", "Scan") for node in inside)
    ):
        return
    tag = f"b{count}_"
    then = oh.make_graph(
        [_renamed(node, results, tag) for node in inside],
        f"{tag}then",
        [],
        [onnx.ValueInfoProto(name=tag + n) for n in results],
    )
    if h.chance(0.5):
        then.node.append(oh.make_node("Identity", [tag + results[0]], [f"{tag}copy"]))
    other = [oh.make_node("Identity", [f"{tag}_c{i}"], [f"{tag}_e{i}"]) for i in range(len(results))]
    constants = [nh.from_array(np.zeros(values[n].shape, values[n].dtype), f"{tag}_c{i}") for i, n in enumerate(results)]
    otherwise = oh.make_graph(
        other, f"{tag}else", [], [onnx.ValueInfoProto(name=f"{tag}_e{i}") for i in range(len(results))], constants
    )
    condition = f"{tag}condition"
    branches = {"then_branch": then, "else_branch": otherwise}
    if h.chance(0.3):
        branches = {"then_branch": otherwise, "else_branch": then}
    if h.chance(0.3):
        _constant(model, condition, np.array(h.chance(0.5)))
    else:
        feeds[condition] = np.array(h.chance(0.5))
        graph.input.append(_typed(condition, feeds[condition]))
    del graph.node[:]
    graph.node.extend(
        [*outside[:first], oh.make_node("If", [condition], results, name=f"{tag}if", **branches), *outside[first:]]
    )


def _renamed(node: onnx.NodeProto, names: list[str], tag: str) -> onnx.NodeProto:
    """Names of ``names`` get ``tag`` before them: a branch may not make what the node around it makes."""
    copy = onnx.NodeProto.FromString(node.SerializeToString())
    for field in (copy.input, copy.output):
        for i, name in enumerate(field):
            if name in names:
                field[i] = tag + name
    return copy


@twist()
def a_loop(h: Hostile, model: onnx.ModelProto, feeds: Feeds, values: Mapping[str, np.ndarray]) -> None:
    """state, total => tanh(state + captured), in a Loop, with what it was each time as another result."""
    names = [n for n in _values(h, model, values) if values[n].size <= 20_000]
    if not names:
        return
    name, tag = names[0], f"l{len(model.graph.node)}_"
    dtype = oh.np_dtype_to_tensor_dtype(values[name].dtype)
    ints = onnx.TensorProto.INT64
    nodes = [
        oh.make_node("Add", [f"{tag}s", name], [f"{tag}a"]),
        oh.make_node("Tanh", [f"{tag}a"], [f"{tag}t"]),
        oh.make_node("ReduceMax", [f"{tag}t"], [f"{tag}m"], keepdims=0),
        oh.make_node("Less", [f"{tag}i", f"{tag}limit"], [f"{tag}go"]),
        oh.make_node("Identity", [f"{tag}s"], [f"{tag}was"]),
    ]
    body = oh.make_graph(
        nodes,
        f"{tag}body",
        [
            oh.make_tensor_value_info(f"{tag}i", ints, []),
            oh.make_tensor_value_info(f"{tag}c", onnx.TensorProto.BOOL, []),
            oh.make_tensor_value_info(f"{tag}s", dtype, None),
        ],
        [onnx.ValueInfoProto(name=f"{tag}{n}") for n in ("go", "t", "m", "was")],
        [nh.from_array(np.array(h.between(0, 4)), f"{tag}limit")],
    )
    for output in body.output[1:]:
        output.type.tensor_type.elem_type = dtype
    body.output[0].type.tensor_type.elem_type = onnx.TensorProto.BOOL
    trips = h.one_of("", f"{tag}trips")
    if trips:
        array = np.array(h.between(0, 5))
        if h.chance(0.5):
            _constant(model, trips, array)
        else:
            feeds[trips] = array
            model.graph.input.append(_typed(trips, array))
    start = _constant(model, f"{tag}true", np.array(True)) if h.chance(0.6) or not trips else ""
    made = [f"{tag}final", f"{tag}maxima", f"{tag}history"]
    model.graph.node.append(oh.make_node("Loop", [trips, start, name], made, name=f"{tag}loop", body=body))
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in made)


@twist()
def a_scan(h: Hostile, model: onnx.ModelProto, feeds: Feeds, values: Mapping[str, np.ndarray]) -> None:
    """Running sums along an axis, and the captured values in each step."""
    names = [n for n in _values(h, model, values) if values[n].size <= 20_000 and values[n].ndim > 1]
    if not names:
        return
    name, tag = names[0], f"s{len(model.graph.node)}_"
    array = values[name]
    dtype = oh.np_dtype_to_tensor_dtype(array.dtype)
    axis = h.between(0, array.ndim - 1)
    shape = tuple(e for i, e in enumerate(array.shape) if i != axis)
    start = _constant(model, f"{tag}zero", np.zeros(shape, array.dtype))
    nodes = [
        oh.make_node("Add", [f"{tag}s", f"{tag}x"], [f"{tag}next"]),
        oh.make_node("Mul", [f"{tag}next", f"{tag}half"], [f"{tag}y"]),
    ]
    _constant(model, f"{tag}half", np.array(0.5, array.dtype))
    body = oh.make_graph(
        nodes, f"{tag}body", [oh.make_tensor_value_info(f"{tag}{n}", dtype, shape) for n in ("s", "x")],
        [oh.make_tensor_value_info(f"{tag}{n}", dtype, shape) for n in ("next", "y")],
    )  # fmt: skip
    attributes = {"scan_input_axes": [axis - h.one_of(0, array.ndim)], "scan_input_directions": [h.between(0, 1)]}
    if h.chance(0.5):
        attributes |= {"scan_output_axes": [h.between(0, len(shape))], "scan_output_directions": [h.between(0, 1)]}
    made = [f"{tag}final", f"{tag}ys"]
    model.graph.node.append(
        oh.make_node("Scan", [start, name], made, name=f"{tag}scan", body=body, num_scan_inputs=1, **attributes)
    )
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in made)


@twist()
def a_sequence(h: Hostile, model: onnx.ModelProto, feeds: Feeds, values: Mapping[str, np.ndarray]) -> None:
    names = [n for n in _values(h, model, values) if values[n].ndim]
    if not names:
        return
    name, tag = names[0], f"q{len(model.graph.node)}_"
    axis = h.between(0, values[name].ndim - 1)
    count = -(-values[name].shape[axis] // 2)
    size = _constant(model, f"{tag}two", np.array(2))
    place = _constant(model, f"{tag}place", np.array(h.between(-count, count - 1)))
    nodes = [
        oh.make_node("SplitToSequence", [name, size], [f"{tag}parts"], axis=axis, keepdims=1),
        oh.make_node("SequenceAt", [f"{tag}parts", place], [f"{tag}one"]),
        oh.make_node("SequenceInsert", [f"{tag}parts", f"{tag}one"], [f"{tag}more"]),
        oh.make_node("SequenceErase", [f"{tag}more", place], [f"{tag}less"]),
        oh.make_node("ConcatFromSequence", [f"{tag}less"], [f"{tag}all"], axis=axis),
        oh.make_node("SequenceLength", [f"{tag}more"], [f"{tag}length"]),
        oh.make_node("Neg", [f"{tag}all"], [f"{tag}neg"]),
    ]
    model.graph.node.extend(nodes)
    model.graph.output.extend(onnx.ValueInfoProto(name=f"{tag}{n}") for n in ("one", "all", "length", "neg"))


@twist(2)
def symbolic(h: Hostile, model: onnx.ModelProto, feeds: Feeds, values: Mapping[str, np.ndarray]) -> None:
    """Extents with names; what nodes and outputs are declared to have is not told."""
    share, one_name = h.one_of(0.3, 1.0), h.chance(0.3)
    for i, value in enumerate(model.graph.input):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if h.chance(share):
                dim.dim_param = f"n{axis}" if one_name else f"n{i}_{axis}"
    for value in model.graph.output:
        if value.name not in feeds:
            value.type.tensor_type.ClearField("shape")


def other_shapes(h: Hostile, model: onnx.ModelProto, feeds: Feeds) -> Feeds:
    """Arrays for another call: other extents where they are symbolic, other floats of the same size, other truth."""
    chosen: dict[str, int] = {}
    result: Feeds = {}
    for value in model.graph.input:
        array = feeds[value.name]
        shape = list(array.shape)
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param:
                n = shape[axis]
                shape[axis] = chosen.setdefault(dim.dim_param, h.one_of(n, n, 1, 2, 5, n + 1, h.one_of(0, n)))
        same = tuple(shape) == array.shape and array.dtype.kind in "iu"
        result[value.name] = array if same or not array.size else h.random.choice(array.reshape(-1), shape).astype(array.dtype)
        if array.dtype.kind == "b" and not array.ndim:
            result[value.name] = np.array(h.chance(0.5))
    return result
