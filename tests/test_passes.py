"""Graph passes: each rule keeps the meaning of a graph, and says why when it does not apply."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import pytest

from loopnest.compiler.frontend import load
from loopnest.compiler.passes import (
    PASSES,
    Refusal,
    Rewrite,
    Rule,
    activations,
    affine,
    constants,
    control_flow,
    identities,
    reshapes,
    rules_pass,
    run_passes,
)
from loopnest.compiler.passes import layer_norm as layer_norms
from loopnest.compiler.passes.view import View
from loopnest.ir import dtypes
from loopnest.ir.errors import VerificationError
from loopnest.ir.graph import Graph, Node, TensorType
from loopnest.ir.graph_onnx import to_model
from loopnest.ir.graph_verify import verify
from tests.graphs import anything, assert_same, interpret, load_any, make_model, onnxruntime, tensor, values

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
node = oh.make_node
X = {"x": (2, 4, 5, 5)}


def ops(graph: Graph) -> list[str]:
    return [item.op for item in graph.nodes]


def bodies(item: Node) -> dict[str, Graph]:
    return {key: value for key, value in item.attrs.items() if isinstance(value, Graph)}


def feeds_for(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    feeds = {}
    for seed, info in enumerate(model.graph.input):
        shape = [dim.dim_value if dim.HasField("dim_value") else 2 for dim in info.type.tensor_type.shape.dim]
        dtype = oh.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        feeds[info.name] = values(*shape, seed=seed).astype(dtype) if shape else np.array(1, dtype)
    return feeds


def optimized(model: onnx.ModelProto, *, tolerance: float = 1e-5) -> Graph:
    """The graph after all passes, checked to compute what it did before."""
    before = load_any(model)
    untouched = ops(before)
    after = run_passes(before, PASSES, check=True)
    assert ops(before) == untouched
    feeds = feeds_for(model)
    assert_same(interpret(after, feeds), interpret(before, feeds), tolerance)
    return after


def judge(rule: Rule, model: onnx.ModelProto) -> Rewrite | Refusal | None:
    """What ``rule`` makes of the last node that it recognizes."""
    graph = load_any(model)
    view = View(graph, graph)
    outcome = None
    for item in graph.nodes:
        if item.op in rule.ops or not rule.ops:
            outcome = rule.match(view, item) or outcome
        view.keep(item)
    return outcome


def reason(rule: Rule, model: onnx.ModelProto) -> str:
    outcome = judge(rule, model)
    assert isinstance(outcome, Refusal)
    return outcome.reason


# --- the pass manager --------------------------------------------------------------------------------------------------


def test_pass_names_are_unique_and_dumped() -> None:
    names = [item.name for item in PASSES]
    assert len(set(names)) == len(names)
    seen: list[str] = []
    model = make_model([node("Identity", ["x"], ["a"]), node("Relu", ["a"], ["y"])], X, ["y"])
    run_passes(load_any(model), PASSES, dump=lambda name, graph: seen.append(name))
    assert seen == ["remove_identities"]


def test_check_names_the_pass_that_broke_the_graph() -> None:
    def reverse(view: View, item: Node) -> Rewrite | None:
        return Rewrite([Node("Relu", ("nowhere",), item.outputs)]) if item.inputs[0] != "nowhere" else None

    graph = load_any(make_model([node("Relu", ["x"], ["y"])], X, ["y"]))
    with pytest.raises(VerificationError, match="after pass breaker: Relu node that makes 'y' reads 'nowhere'"):
        run_passes(graph, [rules_pass("breaker", Rule(frozenset({"Relu"}), reverse))], check=True)


def test_nothing_to_do_returns_the_same_nodes() -> None:
    graph = load_any(make_model([node("Relu", ["x"], ["a"]), node("Exp", ["a"], ["y"])], X, ["y"]))
    after = run_passes(graph, PASSES)
    assert all(a is b for a, b in zip(after.nodes, graph.nodes, strict=True))


# --- constants ---------------------------------------------------------------------------------------------------------


def test_constants_are_folded() -> None:
    nodes = [
        node("Unsqueeze", ["w", "axes"], ["a"]),
        node("Transpose", ["a"], ["b"], perm=[0, 2, 1]),
        node("Exp", ["b"], ["c"]),
        node("Add", ["x", "c"], ["y"]),
    ]
    graph = optimized(make_model(nodes, {"x": (1, 4, 3)}, ["y"], {"w": values(3, 4), "axes": np.array([0])}))
    assert ops(graph) == ["Add"]
    assert set(graph.constants) == {"c"}


def test_shapes_of_static_values_are_folded() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "one"], ["c"]),
        node("Unsqueeze", ["c", "zero"], ["c1"]),
        node("Concat", ["m", "c1"], ["t"], axis=0),
        node("Reshape", ["x", "t"], ["y"]),
    ]
    numbers = {"one": np.array(1), "zero": np.array([0]), "m": np.array([-1])}
    graph = optimized(make_model(nodes, {"x": ("N", 4, 5)}, ["y"], numbers))
    assert ops(graph) == ["Reshape"]
    assert graph.constants[graph.nodes[0].inputs[1]].tolist() == [-1, 4]


def test_large_results_are_not_folded() -> None:
    fill = make_model([node("ConstantOfShape", ["s"], ["y"])], {}, ["y"], {"s": np.array([2**20, 2**10])})
    assert reason(constants.fold_constants, fill) == f"the result would take {2**32} bytes"
    expand = make_model([node("Expand", ["c", "s"], ["y"])], {}, ["y"], {"c": values(2, 1), "s": np.array([2, 2**24])})
    assert reason(constants.fold_constants, expand) == f"the result would take {2**27} bytes"
    tile = make_model([node("Tile", ["c", "s"], ["y"])], {}, ["y"], {"c": values(2**10), "s": np.array([2**20])})
    assert reason(constants.fold_constants, tile) == f"the result would take {2**32} bytes"


def test_filled_constants_take_no_memory() -> None:
    model = make_model(
        [node("ConstantOfShape", ["s"], ["w"]), node("MatMul", ["x", "w"], ["y"])],
        {"x": (1, 2**13)},
        ["y"],
        {"s": np.array([2**13, 2**13])},
    )
    graph = run_passes(load_any(model), PASSES)
    (weights,) = graph.constants.values()
    assert weights.shape == (2**13, 2**13)
    assert weights.strides == (0, 0)


def test_what_cannot_be_folded_says_why() -> None:
    random = make_model([node("RandomNormal", [], ["y"], shape=[2])], {}, ["y"])
    assert reason(constants.fold_constants, random) == "the operator is random"
    division = make_model([node("Div", ["a", "b"], ["y"])], {}, ["y"], {"a": np.array([1]), "b": np.array([0])})
    assert reason(constants.fold_constants, division) == "evaluation fails: integer division by zero"
    gather = make_model([node("Gather", ["a", "b"], ["y"])], {}, ["y"], {"a": np.array([1]), "b": np.array([9])})
    assert "out of bounds" in reason(constants.fold_constants, gather)
    symbolic = make_model([node("Shape", ["x"], ["y"])], {"x": ("N", 2)}, ["y"])
    assert reason(constants.fold_shape, symbolic) == "an extent is not known"
    sequence = make_model(
        [node("SequenceConstruct", ["c"], ["s"]), node("SequenceLength", ["s"], ["y"])], {}, ["y"], {"c": values(2)}
    )
    assert reason(constants.fold_constants, sequence) == "the result is not a tensor"


# --- control flow ------------------------------------------------------------------------------------------------------


def conditional(condition: str) -> onnx.NodeProto:
    then = oh.make_graph([node("Mul", ["x", "k"], ["r"])], "then", [], [tensor("r", None)], [oh.make_tensor("k", 1, [], [2.0])])
    other = oh.make_graph([], "else", [], [tensor("x", None)])
    return node("If", [condition], ["y"], then_branch=then, else_branch=other)


@pytest.mark.parametrize("decision", [True, False])
def test_decided_ifs_are_inlined(decision: bool) -> None:
    graph = optimized(make_model([conditional("c")], X, ["y"], {"c": np.array(decision)}))
    assert ops(graph) == (["Mul"] if decision else ["Identity"])


def test_bodies_keep_no_types_of_what_they_capture() -> None:
    symbolic = load_any(make_model([conditional("c")], {"x": ("N", 4), "c": tensor("c", (), onnx.TensorProto.BOOL)}, ["y"]))
    plan = run_passes(symbolic, PASSES)
    plan.inputs, plan.constants = ("x",), {"c": np.array(True)}
    plan.types["x"] = TensorType(dtypes.float32, (3, 4))
    assert run_passes(plan, PASSES).types["x"].static_shape == (3, 4)


def test_undecided_ifs_stay_and_their_bodies_are_optimized() -> None:
    then = oh.make_graph(
        [node("Identity", ["x"], ["i"]), node("Add", ["w", "w"], ["v"]), node("Mul", ["i", "v"], ["r"])],
        "then",
        [],
        [tensor("r", None)],
    )
    other = oh.make_graph([node("Relu", ["x"], ["s"])], "else", [], [tensor("s", None)])
    model = make_model(
        [node("If", ["c"], ["y"], then_branch=then, else_branch=other)],
        {**X, "c": tensor("c", (), onnx.TensorProto.BOOL)},
        ["y"],
        {"w": values(5)},
    )
    graph = optimized(model)
    assert judge(control_flow.decided_if, model) == Refusal("the condition is not constant")
    assert ops(graph) == ["If"]
    assert {key: ops(body) for key, body in bodies(graph.nodes[0]).items()} == {"then_branch": ["Mul"], "else_branch": ["Relu"]}
    assert set(graph.constants) == set()


def test_names_that_subgraphs_capture_are_renamed() -> None:
    then = oh.make_graph([node("Neg", ["a"], ["r"])], "then", [], [tensor("r", None)])
    other = oh.make_graph([], "else", [], [tensor("a", None)])
    nodes = [
        node("Relu", ["x"], ["b"]),
        node("Identity", ["b"], ["a"]),
        node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
    graph = optimized(make_model(nodes, {**X, "c": tensor("c", (), onnx.TensorProto.BOOL)}, ["y"]))
    assert ops(graph) == ["Relu", "If"]
    assert bodies(graph.nodes[1])["then_branch"].captures() == ("b",)
    assert bodies(graph.nodes[1])["else_branch"].outputs == ("b",)


# --- identities --------------------------------------------------------------------------------------------------------

NOTHING = [
    (node("Identity", ["a"], ["b"]), {}),
    (node("Dropout", ["a"], ["b"]), {}),
    (node("Dropout", ["a", "r", "t"], ["b"]), {"r": np.array(0.5, "f"), "t": np.array(False)}),
    (node("Cast", ["a"], ["b"], to=1), {}),
    (node("Transpose", ["a"], ["b"], perm=[0, 1, 2, 3]), {}),
    (node("Reshape", ["a", "s"], ["b"]), {"s": np.array([2, 4, -1, 5])}),
    (node("Expand", ["a", "s"], ["b"]), {"s": np.array([4, 1, 1])}),
    (node("Tile", ["a", "s"], ["b"]), {"s": np.array([1, 1, 1, 1])}),
    (node("Pad", ["a", "s"], ["b"]), {"s": np.zeros(8, np.int64)}),
    (node("Slice", ["a", "s", "e"], ["b"]), {"s": np.array([0, 0]), "e": np.array([2, 2**62])}),
    (node("Concat", ["a"], ["b"], axis=1), {}),
    (node("Sum", ["a"], ["b"]), {}),
    (node("Max", ["a"], ["b"]), {}),
    (node("Mean", ["a"], ["b"]), {}),
    (node("Mul", ["a", "s"], ["b"]), {"s": np.ones((4, 1, 1), "f")}),
    (node("Mul", ["s", "a"], ["b"]), {"s": np.array(1, "f")}),
    (node("Div", ["a", "s"], ["b"]), {"s": np.array([1], "f")}),
    (node("Sub", ["a", "s"], ["b"]), {"s": np.array(0, "f")}),
    (node("Pow", ["a", "s"], ["b"]), {"s": np.array(1, "f")}),
]


@pytest.mark.parametrize(("proto", "numbers"), NOTHING, ids=[case[0].op_type for case in NOTHING])
def test_operators_that_do_nothing_are_removed(proto: onnx.NodeProto, numbers: dict[str, np.ndarray]) -> None:
    nodes = [node("Relu", ["x"], ["a"]), proto, node("Exp", ["b"], ["y"])]
    assert ops(optimized(make_model(nodes, X, ["y"], numbers))) == ["Relu", "Exp"]


@pytest.mark.parametrize(
    ("proto", "numbers"),
    [
        (node("Mul", ["x", "s"], ["y"]), {"s": np.ones((1, 1, 1, 1, 1), "f")}),
        (node("Mul", ["x", "s"], ["y"]), {"s": np.full(5, 2, "f")}),
        (
            node("Slice", ["x", "s", "e", "a", "t"], ["y"]),
            {"s": np.array([-1]), "e": np.array([-99]), "a": np.array([3]), "t": np.array([-1])},
        ),
        (node("Transpose", ["x"], ["y"], perm=[0, 1, 3, 2]), {}),
    ],
)
def test_operators_that_do_something_stay(proto: onnx.NodeProto, numbers: dict[str, np.ndarray]) -> None:
    assert ops(optimized(make_model([proto], X, ["y"], numbers))) == [proto.op_type]


@pytest.mark.parametrize(("keep", "expected"), [(1, ["Relu", "Exp"]), (0, ["Relu", "Reshape", "Exp"])])
def test_reductions_over_one_element_are_reshapes(keep: int, expected: list[str]) -> None:
    nodes = [node("Relu", ["x"], ["a"]), node("ReduceMean", ["a", "axes"], ["b"], keepdims=keep), node("Exp", ["b"], ["y"])]
    assert ops(optimized(make_model(nodes, {"x": (2, 1, 1, 5)}, ["y"], {"axes": np.array([1, -2])}, opset=18))) == expected


def test_padding_that_shifts_stays() -> None:
    model = make_model([node("Pad", ["x", "s"], ["y"])], X, ["y"], {"s": np.array([1, 0, 0, 0, -1, 0, 0, 0])})
    assert reason(identities.same_shape, model) == "it may shift the data"


def test_zeros_that_change_the_sign_of_zero_stay() -> None:
    model = make_model([node("Add", ["x", "z"], ["y"])], X, ["y"], {"z": np.array(0.0, "f")})
    assert ops(optimized(model)) == ["Add"]
    model = make_model([node("Add", ["x", "z"], ["a"]), node("Relu", ["a"], ["y"])], X, ["y"], {"z": np.array(-0.0, "f")})
    assert ops(optimized(model)) == ["Relu"]


def test_dropout_refuses_to_train() -> None:
    training = make_model([node("Dropout", ["x", "r", "t"], ["y"])], X, ["y"], {"r": np.array(0.5, "f"), "t": np.array(True)})
    assert reason(identities.dropout, training) == "it trains"
    unknown = make_model([node("Dropout", ["x", "", "t"], ["y"])], {**X, "t": tensor("t", (), onnx.TensorProto.BOOL)}, ["y"])
    assert reason(identities.dropout, unknown) == "whether it trains is not known"


def test_dropout_mask_is_all_true() -> None:
    graph = optimized(make_model([node("Relu", ["x"], ["a"]), node("Dropout", ["a"], ["y", "m"])], X, ["y", "m"]))
    assert ops(graph) == ["Relu"]
    assert graph.constants["m"].all()


def test_casts_there_and_back_are_removed_when_nothing_is_lost() -> None:
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("Cast", ["a"], ["b"], to=11),
        node("Cast", ["b"], ["c"], to=1),
        node("Exp", ["c"], ["y"]),
    ]
    assert ops(optimized(make_model(nodes, X, ["y"]))) == ["Relu", "Exp"]
    nodes[1] = node("Cast", ["a"], ["b"], to=10)
    assert reason(identities.cast_of_cast, make_model(nodes, X, ["y"])) == "float16 does not hold every float32"
    whole = [node("Cast", ["x"], ["b"], to=11), node("Cast", ["b"], ["y"], to=7)]
    model = make_model(whole, {"x": tensor("x", (2,), onnx.TensorProto.INT64)}, ["y"])
    assert reason(identities.cast_of_cast, model) == "float64 does not hold every int64"


def test_graph_outputs_keep_their_names() -> None:
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("Identity", ["a"], ["y"]),
        node("Exp", ["a"], ["z"]),
        node("Identity", ["x"], ["w"]),
    ]
    graph = optimized(make_model(nodes, X, ["y", "z", "w"]))
    assert graph.outputs == ("y", "z", "w")
    assert Counter(ops(graph)) == {"Relu": 1, "Exp": 1, "Identity": 1}
    assert graph.nodes[1].inputs == ("y",)


def test_two_outputs_of_one_value() -> None:
    nodes = [node("Relu", ["x"], ["a"]), node("Identity", ["a"], ["y"]), node("Dropout", ["a"], ["z"])]
    assert Counter(ops(optimized(make_model(nodes, X, ["y", "z"])))) == {"Relu": 1, "Identity": 1}


# --- equal nodes, dead nodes -------------------------------------------------------------------------------------------


def test_equal_nodes_and_constants_are_merged() -> None:
    nodes = [
        node("Add", ["x", "c"], ["a"]),
        node("Add", ["x", "d"], ["b"]),
        node("Softmax", ["a"], ["p"], axis=1),
        node("Softmax", ["b"], ["q"], axis=1),
        node("Softmax", ["b"], ["r"], axis=2),
        node("Sum", ["p", "q", "r"], ["y"]),
    ]
    graph = optimized(make_model(nodes, X, ["y"], {"c": np.array(3, "f"), "d": np.array(3, "f")}))
    assert Counter(ops(graph)) == {"Add": 1, "Softmax": 2, "Sum": 1}


def test_random_nodes_and_equal_numbers_of_other_types_are_not_merged() -> None:
    nodes = [node("RandomNormalLike", ["x"], [name]) for name in "ab"] + [node("Add", ["a", "b"], ["y"])]
    assert Counter(ops(run_passes(load_any(make_model(nodes, X, ["y"])), PASSES))) == {"RandomNormalLike": 2, "Add": 1}
    casts = [node("Mul", ["x", "c"], ["a"]), node("Cast", ["a"], ["b"], to=11), node("Mul", ["b", "d"], ["y"])]
    optimized(make_model(casts, X, ["y"], {"c": np.array(3, "f"), "d": np.array(3.0)}))


def test_dead_code_is_removed() -> None:
    nodes = [node("Relu", ["x"], ["y"]), node("Exp", ["x"], ["a"]), node("Add", ["a", "w"], ["b"])]
    graph = optimized(make_model(nodes, X, ["y"], {"w": values(5)}))
    assert ops(graph) == ["Relu"]
    assert not graph.constants
    assert set(graph.types) == {"x", "y"}


def test_what_folding_reads_goes_at_once() -> None:
    """Weights that are standardized in the graph: one set of them is in memory, not one for each step."""
    nodes = [
        node("ReduceMean", ["w"], ["m"]),
        node("Sub", ["w", "m"], ["d"]),
        node("Mul", ["d", "d"], ["q"]),
        node("Add", ["q", "w"], ["s"]),
        node("MatMul", ["x", "s"], ["y"]),
    ]
    graph = run_passes(
        load_any(make_model(nodes, X, ["y"], {"w": values(5, 5)})), [rules_pass("fold", constants.fold_constants)]
    )
    assert ops(graph) == ["MatMul"]
    assert list(graph.constants) == ["s"]


# --- batch normalization, scales and shifts ----------------------------------------------------------------------------


def norm_constants(channels: int) -> dict[str, np.ndarray]:
    scale, bias, mean, var = (values(channels, seed=i + 7) for i in range(4))
    return {"s": scale, "o": bias, "m": mean, "v": var**2 + 0.1}


NORM = node("BatchNormalization", ["a", "s", "o", "m", "v"], ["y"], epsilon=0.01)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_batch_norm_goes_into_convolutions(op: str, group: int, bias: bool) -> None:
    shape = (6, 4 // group, 3, 3) if op == "Conv" else (4, 6 // group, 3, 3)
    numbers = {"w": values(*shape), "b": values(6, seed=3), **norm_constants(6)}
    conv = node(op, ["x", "w", "b"] if bias else ["x", "w"], ["a"], group=group)
    model = make_model([conv, NORM], X, ["y"], numbers)
    graph = run_passes(load_any(model), PASSES, check=True)
    assert ops(graph) == [op]
    assert len(graph.nodes[0].inputs) == 3
    exported = to_model(graph)
    exported.ir_version, exported.opset_import[0].version = model.ir_version, 22
    assert_same(onnxruntime(exported, feeds_for(model)), onnxruntime(model, feeds_for(model)), 1e-4)


@pytest.mark.parametrize("transposed", [0, 1])
def test_batch_norm_goes_into_gemm(transposed: int) -> None:
    weights = values(3, 4) if transposed else values(4, 3)
    gemm = node("Gemm", ["x", "w", "b"], ["a"], transB=transposed, alpha=0.5, beta=3.0)
    model = make_model([gemm, NORM], {"x": (2, 4)}, ["y"], {"w": weights, "b": values(1, 3), **norm_constants(3)})
    assert ops(optimized(model, tolerance=1e-4)) == ["Gemm"]


def test_batch_norm_alone_becomes_multiply_and_add() -> None:
    model = make_model([node("Relu", ["x"], ["a"]), NORM], {"x": ("N", 4, "H", "W")}, ["y"], norm_constants(4))
    assert ops(optimized(model, tolerance=1e-4)) == ["Relu", "Mul", "Add"]


def test_caffe_scale_after_batch_norm_goes_into_it_and_then_into_the_convolution() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node("BatchNormalization", ["a", "s", "o", "m", "v"], ["n"]),
        node("Unsqueeze", ["k", "axes"], ["k3"]),
        node("Mul", ["n", "k3"], ["p"]),
        node("Add", ["t", "p"], ["y"]),
    ]
    numbers = {
        "w": values(6, 4, 1, 1),
        "k": values(6, seed=9),
        "t": values(6, 1, 1, seed=8),
        "axes": np.array([1, 2]),
        **norm_constants(6),
    }
    assert ops(optimized(make_model(nodes, X, ["y"], numbers), tolerance=1e-4)) == ["Conv"]


@pytest.mark.parametrize(
    ("proto", "factor", "expected"),
    [
        (node("Mul", ["a", "k"], ["y"]), values(6, 1, 1), ["Conv"]),
        (node("Add", ["k", "a"], ["y"]), values(1, 6, 1, 1), ["Conv"]),
        (node("Mul", ["a", "k"], ["y"]), np.array(3, "f"), ["Conv"]),
        (node("Add", ["a", "k"], ["y"]), values(5), ["Conv", "Add"]),
        (node("Mul", ["a", "k"], ["y"]), values(1, 1, 6, 1, 1), ["Conv", "Mul"]),
    ],
)
def test_scales_and_shifts_go_into_convolutions(proto: onnx.NodeProto, factor: np.ndarray, expected: list[str]) -> None:
    model = make_model([node("Conv", ["x", "w"], ["a"]), proto], X, ["y"], {"w": values(6, 4, 1, 1), "k": factor})
    assert ops(optimized(model, tolerance=1e-4)) == expected


def test_scales_go_into_matrix_products_but_shifts_stay_for_fusion() -> None:
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Mul", ["a", "k"], ["b"]), node("Add", ["b", "t"], ["y"])]
    graph = optimized(
        make_model(nodes, {"x": ("N", 3, 4)}, ["y"], {"w": values(4, 5), "k": values(5), "t": values(5, seed=1)}),
        tolerance=1e-4,
    )
    assert ops(graph) == ["MatMul", "Add"]


def test_affine_refusals() -> None:
    numbers = {"w": values(6, 4, 1, 1), **norm_constants(6)}
    conv = node("Conv", ["x", "w"], ["a"])
    rule = affine.batch_norm_into_linear
    assert reason(rule, make_model([conv, NORM], X, ["y", "a"], numbers)) == "the result is used elsewhere"
    dynamic = {**X, "w": (6, 4, 1, 1)}
    assert reason(rule, make_model([conv, NORM], dynamic, ["y"], norm_constants(6))) == "the weights are not constant"
    biased = node("Conv", ["x", "w", "b"], ["a"])
    assert reason(rule, make_model([biased, NORM], {**X, "b": (6,)}, ["y"], numbers)) == "the bias is not constant"
    learned = {name: array for name, array in numbers.items() if name != "s"}
    assert reason(rule, make_model([conv, NORM], {**X, "s": (6,)}, ["y"], learned)) == "its parameters are not constant"
    training = node("BatchNormalization", ["a", "s", "o", "m", "v"], ["y", "q", "r"], training_mode=1)
    assert reason(rule, make_model([conv, training], X, ["y"], numbers)) == "it trains"
    per_pixel = make_model([conv, node("Mul", ["a", "k"], ["y"])], X, ["y"], {"w": numbers["w"], "k": values(5)})
    assert reason(affine.scale_into_linear, per_pixel) == "the constant is not one number a channel"
    alone = make_model([NORM], {"a": tensor("a", None)}, ["y"], norm_constants(6))
    assert reason(affine.batch_norm_alone, alone) == "the rank is not known"


# --- reshapes ----------------------------------------------------------------------------------------------------------


def test_transposes_are_merged_and_cancel() -> None:
    nodes = [
        node("Transpose", ["x"], ["a"], perm=[0, 2, 3, 1]),
        node("Transpose", ["a"], ["b"], perm=[0, 3, 2, 1]),
        node("Exp", ["b"], ["y"]),
    ]
    graph = optimized(make_model(nodes, X, ["y"]))
    assert [(item.op, item.attrs.get("perm")) for item in graph.nodes] == [("Transpose", (0, 1, 3, 2)), ("Exp", None)]
    nodes[1] = node("Transpose", ["a"], ["b"], perm=[0, 3, 1, 2])
    assert ops(optimized(make_model(nodes, X, ["y"]))) == ["Exp"]


def test_transposes_of_extents_of_one_are_reshapes() -> None:
    model = make_model([node("Transpose", ["x"], ["y"], perm=[0, 2, 1, 3])], {"x": (2, 1, 4, 5)}, ["y"])
    assert ops(optimized(model)) == ["Reshape"]


def test_reshapes_are_merged() -> None:
    nodes = [
        node("Reshape", ["x", "t"], ["a"]),
        node("Unsqueeze", ["a", "one"], ["b"]),
        node("Squeeze", ["b", "one"], ["c"]),
        node("Flatten", ["c"], ["y"], axis=2),
    ]
    graph = optimized(make_model(nodes, {"x": ("N", 4, 6)}, ["y"], {"t": np.array([-1, 2, 2, 6]), "one": np.array([1])}))
    assert ops(graph) == ["Reshape"]


def test_reshapes_with_copied_extents_are_not_merged() -> None:
    nodes = [node("Reshape", ["x", "t"], ["a"]), node("Reshape", ["a", "u"], ["y"])]
    model = make_model(nodes, {"x": ("N", "M", 6)}, ["y"], {"t": np.array([0, 0, 2, 3]), "u": np.array([0, 0, -1])})
    assert reason(reshapes.reshape_of_reshape, model) == "the resulting shape is not known"


@pytest.mark.parametrize(
    ("shape", "axis", "expected"), [((2, 4), 1, -1), ((2, 4, 1, 1), 1, 1), ((2, 3, 4), -1, -1), ((2, 3, 1, 4), 2, 3)]
)
def test_old_softmax_over_one_axis(shape: tuple[int, ...], axis: int, expected: int) -> None:
    model = make_model([node("Softmax", ["x"], ["y"], axis=axis)], {"x": shape}, ["y"], opset=11)
    graph = optimized(model)
    assert [(item.op, item.attrs) for item in graph.nodes] == [("Softmax", {"axis": expected})]
    assert_same(interpret(graph, feeds_for(model)), onnxruntime(model, feeds_for(model)))


def test_old_softmax_over_several_axes_stays() -> None:
    model = make_model([node("Softmax", ["x"], ["y"], axis=1)], {"x": (2, 3, 4)}, ["y"], opset=11)
    assert ops(optimized(model)) == ["Flatten", "Softmax", "Reshape"]
    assert reason(reshapes.softmax_over_flat, model) == "it does not go over one axis"


# --- activations -------------------------------------------------------------------------------------------------------

SCALARS = {
    "half": np.array(0.5, "f"),
    "one": np.array(1, "f"),
    "root": np.array(math.sqrt(2), "f"),
    "inverse": np.array(math.sqrt(0.5), "f"),
    "c": np.array(0.044715, "f"),
    "k": np.array(math.sqrt(2 / math.pi), "f"),
    "three": np.array(3, "f"),
    "six": np.array(6, "f"),
    "zero": np.array(0, "f"),
    "sixth": np.array(1 / 6, "f"),
}


def chain(*steps: str) -> list[onnx.NodeProto]:
    """Nodes from lines like ``a = Mul(x, half)``."""
    nodes = []
    for step in steps:
        output, call = step.split(" = ")
        op, arguments = call.rstrip(")").split("(")
        nodes.append(node(op, arguments.split(", "), [output]))
    return nodes


def written_out(*steps: str, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    return make_model(chain(*steps), {"x": (3, 4)}, outputs, SCALARS)


GELU = [
    ("a = Div(x, root)", "b = Erf(a)", "c1 = Add(b, one)", "d = Mul(x, c1)", "y = Mul(d, half)"),
    ("a = Mul(x, inverse)", "b = Erf(a)", "c1 = Add(one, b)", "d = Mul(half, c1)", "y = Mul(x, d)"),
    ("h = Mul(x, half)", "a = Div(x, root)", "b = Erf(a)", "c1 = Add(b, one)", "y = Mul(h, c1)"),
]
TANH_GELU = [
    (
        "p = Pow(x, three)",
        "q = Mul(c, p)",
        "r = Add(x, q)",
        "s = Mul(r, k)",
        "t = Tanh(s)",
        "u = Add(t, one)",
        "v = Mul(x, u)",
        "y = Mul(v, half)",
    ),
    (
        "p = Mul(x, x)",
        "q = Mul(p, x)",
        "r = Mul(q, c)",
        "s = Add(r, x)",
        "t = Mul(k, s)",
        "u = Tanh(t)",
        "v = Add(one, u)",
        "h = Mul(half, x)",
        "y = Mul(h, v)",
    ),
    (
        "h = Mul(half, x)",
        "a = Mul(x, k)",
        "b = Mul(x, c)",
        "d = Mul(b, x)",
        "e = Add(d, one)",
        "f = Mul(a, e)",
        "g = Tanh(f)",
        "i = Add(g, one)",
        "y = Mul(h, i)",
    ),
]


@pytest.mark.parametrize("steps", GELU)
def test_gelu_is_recognized(steps: tuple[str, ...]) -> None:
    graph = optimized(written_out(*steps))
    assert [(item.op, item.inputs, item.attrs) for item in graph.nodes] == [("Gelu", ("x",), {"approximate": "none"})]


@pytest.mark.parametrize("steps", TANH_GELU)
def test_tanh_gelu_is_recognized(steps: tuple[str, ...]) -> None:
    graph = optimized(written_out(*steps), tolerance=1e-4)
    assert [(item.op, item.inputs, item.attrs) for item in graph.nodes] == [("Gelu", ("x",), {"approximate": "tanh"})]


@pytest.mark.parametrize("wrong", ["one", "inverse"])
def test_what_only_looks_like_gelu_stays(wrong: str) -> None:
    steps = [step.replace("root", wrong) if wrong == "inverse" else step.replace("half", wrong) for step in GELU[0]]
    graph = optimized(written_out(*steps))
    assert "Gelu" not in ops(graph)


def test_gelu_whose_inside_is_used_elsewhere_stays() -> None:
    model = written_out(*GELU[0], outputs=("y", "b"))
    assert reason(activations.gelu, model) == "a value inside is used elsewhere"
    assert "Erf" in ops(optimized(model))


@pytest.mark.parametrize(
    ("steps", "op", "attrs"),
    [
        (("a = Sigmoid(x)", "y = Mul(a, x)"), "Swish", {"alpha": 1.0}),
        (("a = Mul(x, three)", "b = Sigmoid(a)", "y = Mul(x, b)"), "Swish", {"alpha": 3.0}),
        (("a = Add(x, three)", "b = Clip(a, zero, six)", "d = Div(b, six)", "y = Mul(x, d)"), "HardSwish", {}),
        (("a = Add(x, three)", "b = Clip(a, zero, six)", "d = Mul(x, b)", "y = Div(d, six)"), "HardSwish", {}),
        (("a = Add(x, three)", "b = Clip(a, zero, six)", "y = Mul(b, sixth)"), "HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    ],
)
def test_swishes_are_recognized(steps: tuple[str, ...], op: str, attrs: dict[str, float]) -> None:
    graph = optimized(written_out(*steps))
    assert [(item.op, item.attrs) for item in graph.nodes] == [(op, attrs)]


def test_swish_refusal() -> None:
    model = written_out("a = Sigmoid(x)", "y = Mul(a, x)", outputs=("y", "a"))
    assert reason(activations.swish, model) == "a value inside is used elsewhere"


def test_division_becomes_multiplication_where_that_rounds_alike() -> None:
    assert ops(optimized(make_model(chain("y = Div(x, eight)"), {"x": (3,)}, ["y"], {"eight": np.array(8, "f")}))) == ["Mul"]
    third = make_model(chain("y = Div(x, three)"), {"x": (3,)}, ["y"], SCALARS)
    assert reason(activations.divide_by_constant, third) == "the reciprocal is not exact"
    scores = make_model(chain("a = MatMul(x, x)", "y = Div(a, three)"), {"x": (3, 3)}, ["y"], SCALARS)
    assert ops(optimized(scores)) == ["MatMul", "Mul"]
    tiny = make_model(chain("y = Div(x, t)"), {"x": (3,)}, ["y"], {"t": np.array(2.0**-140, "f")})
    assert reason(activations.divide_by_constant, tiny) == "the reciprocal is not a normal number"


@pytest.mark.parametrize(("power", "op"), [(2.0, "Mul"), (0.5, "Sqrt"), (-1.0, "Reciprocal"), (3.0, "Pow")])
def test_small_powers(power: float, op: str) -> None:
    nodes = [node("Exp", ["x"], ["a"]), node("Pow", ["a", "p"], ["y"])]
    assert ops(optimized(make_model(nodes, {"x": (3,)}, ["y"], {"p": np.array(power, "f")}))) == ["Exp", op]


# --- layer normalization -----------------------------------------------------------------------------------------------


def layer_norm(
    axes: list[int],
    shape: tuple[int | str, ...],
    gain: tuple[int, ...],
    *,
    square: str = "Mul",
    outputs: tuple[str, ...] = ("y",),
) -> onnx.ModelProto:
    second = "d" if square == "Mul" else "two"
    nodes = [
        node("ReduceMean", ["x", "axes"], ["m"]),
        node("Sub", ["x", "m"], ["d"]),
        node(square, ["d", second], ["q"]),
        node("ReduceMean", ["q", "axes"], ["v"]),
        node("Add", ["v", "e"], ["w"]),
        node("Sqrt", ["w"], ["r"]),
        node("Div", ["d", "r"], ["n"]),
        node("Mul", ["n", "g"], ["s"]),
        node("Add", ["s", "b"], ["y"]),
    ]
    numbers = {
        "axes": np.array(axes),
        "e": np.array(1e-5, "f"),
        "two": np.array(2, "f"),
        "g": values(*gain),
        "b": values(*gain, seed=1),
    }
    return make_model(nodes, {"x": shape}, outputs, numbers, opset=18)


@pytest.mark.parametrize("square", ["Mul", "Pow"])
@pytest.mark.parametrize(("axes", "gain"), [([-1], (8,)), ([2], (8,)), ([-1, -2], (3, 8)), ([-1], (1, 1, 8))])
def test_layer_norm_is_recognized(axes: list[int], gain: tuple[int, ...], square: str) -> None:
    graph = optimized(layer_norm(axes, ("N", 3, 8), gain, square=square), tolerance=1e-4)
    (item,) = graph.nodes
    assert item.op == "LayerNormalization"
    assert len(item.inputs) == 3
    assert item.attrs["axis"] == -len(axes)


def test_layer_norm_refusals() -> None:
    assert reason(layer_norms.layer_norm, layer_norm([1], (2, 3, 8), (8,))) == "it does not go over the last axes"
    assert (
        reason(layer_norms.layer_norm, layer_norm([-1], (2, 3, 8), (3, 8)))
        == "the gain does not have the shape of what is normalized"
    )
    shared = layer_norm([-1], (2, 3, 8), (8,), outputs=("y", "n"))
    assert reason(layer_norms.layer_norm, shared) == "the normalized value is used elsewhere"
    for model in (layer_norm([1], (2, 3, 8), (8,)), shared):
        assert "LayerNormalization" not in ops(optimized(model, tolerance=1e-4))


def rms_norm(form: tuple[str, ...], gain: tuple[int, ...] = (8,), outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    numbers = {"axes": np.array([-1]), "e": np.array(1e-5, "f"), "two": np.array(2, "f"), "g": values(*gain)}
    steps = (*form[:1], "v = ReduceMean(q, axes)", "w = Add(v, e)", "r = Sqrt(w)", *form[1:], "y = Mul(g, n)")
    return make_model(chain(*steps), {"x": ("N", 3, 8)}, outputs, numbers, opset=18)


@pytest.mark.parametrize("square", ["q = Mul(x, x)", "q = Pow(x, two)"])
@pytest.mark.parametrize(
    "quotient", [("n = Div(x, r)",), ("i = Reciprocal(r)", "n = Mul(x, i)"), ("i = Reciprocal(r)", "n = Mul(i, x)")]
)
def test_rms_norm_is_recognized(square: str, quotient: tuple[str, ...]) -> None:
    (item,) = optimized(rms_norm((square, *quotient)), tolerance=1e-4).nodes
    assert item.op == "RMSNormalization"
    assert item.attrs["axis"] == -1


def test_rms_norm_refusals() -> None:
    form = ("q = Mul(x, x)", "n = Div(x, r)")
    wide = rms_norm(form, (3, 8))
    assert reason(layer_norms.rms_norm, wide) == "the gain does not have the shape of what is normalized"
    shared = rms_norm(form, outputs=("y", "n"))
    assert reason(layer_norms.rms_norm, shared) == "the normalized value is used elsewhere"
    assert judge(layer_norms.rms_norm, rms_norm(("q = Mul(x, g)", "n = Div(x, r)"))) is None


# --- whole networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=lambda path: path.stem)
def test_networks_lose_batch_norms_and_constants(path: Path) -> None:
    graph = run_passes(load(path, supported=anything), PASSES, check=True)
    verify(graph)
    counts = Counter(ops(graph))
    assert {"BatchNormalization", "ConstantOfShape", "Dropout", "Identity", "Flatten", "Unsqueeze"}.isdisjoint(counts)
    assert not any(name in graph.constants for item in graph.nodes for name in item.outputs)
    again = run_passes(graph, PASSES)
    assert all(a is b for a, b in zip(again.nodes, graph.nodes, strict=True))


def test_resnet_is_convolutions_and_additions() -> None:
    graph = run_passes(load(LIGHT / "light_resnet50.onnx", supported=anything), PASSES)
    expected = {"Conv": 53, "Relu": 49, "Add": 16, "MaxPool": 4, "AveragePool": 1, "Reshape": 1, "Gemm": 1, "Softmax": 1}
    assert Counter(ops(graph)) == expected
