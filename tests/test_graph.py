"""The graph IR itself: text, verifier, interpreter, export."""

from __future__ import annotations

import re

import hypothesis
import hypothesis.strategies as st
import numpy as np
import onnx
import onnx.helper as oh
import pytest

from loopnest.ir import dtypes
from loopnest.ir.errors import InputError, UnsupportedOperatorError, VerificationError
from loopnest.ir.graph import Graph, Node, TensorType
from loopnest.ir.graph_interpreter import evaluate, run
from loopnest.ir.graph_numpy import EVALUATORS
from loopnest.ir.graph_onnx import to_model, to_node
from loopnest.ir.graph_text import as_text
from loopnest.ir.graph_verify import verify
from tests.graphs import assert_same, values

FLOATS = TensorType(dtypes.float32, ("N", 2))


def small() -> Graph:
    branch = Graph("then", (), ("r",), [Node("Neg", ("a",), ("r",))])
    other = Graph("else", (), ("s",), [Node("Mul", ("a", "two"), ("s",))], {"two": np.array([2], "f")})
    return Graph(
        "small",
        ("x", "c"),
        ("y",),
        [
            Node("Add", ("x", "w"), ("a",), {}, "sum"),
            Node("If", ("c",), ("y",), {"then_branch": branch, "else_branch": other}),
        ],
        {"w": np.array([1, 2], "f"), "big": np.zeros((3, 4), "f")},
        {"x": FLOATS, "a": FLOATS, "y": FLOATS, "c": TensorType(dtypes.bool_, ())},
    )


def test_text_shows_types_constants_attributes_and_subgraphs() -> None:
    graph = small()
    graph.nodes.append(
        Node("Conv", ("a", "big", ""), ("z", ""), {"pads": (1,), "alpha": 0.1, "mode": "m", "v": np.array([3])}, domain="d")
    )
    assert as_text(graph) == (
        "graph small(x: float32[N, 2], c: bool[]) -> (y: float32[N, 2]):\n"
        "    w = constant float32[2] [1.0, 2.0]\n"
        "    big = constant float32[3, 4]\n"
        "    a: float32[N, 2] = Add(x, w)  # sum\n"
        "    y: float32[N, 2] = If(c, then_branch=<then>, else_branch=<else>)\n"
        "        then_branch = then() -> (r):\n"
        "            r = Neg(a)\n"
        "        else_branch = else() -> (s):\n"
        "            two = constant float32[1] [2.0]\n"
        "            s = Mul(a, two)\n"
        "    z, _ = d.Conv(a, big, _, pads=(1,), alpha=0.1, mode='m', v=int64[1] [3])\n"
    )


def test_captures_users_and_producers() -> None:
    graph = small()
    assert graph.nodes[1].bodies[1].captures() == ("a",)
    assert graph.users()["a"] == [graph.nodes[1]]
    assert graph.producers()["a"] is graph.nodes[0]
    assert [part.name for part in graph.walk()] == ["small", "then", "else"]


# --- verifier ----------------------------------------------------------------------------------------------------------


def broken(**changes: object) -> str:
    graph = small()
    verify(graph)
    for key, value in changes.items():
        setattr(graph, key, value)
    with pytest.raises(VerificationError) as caught:
        verify(graph)
    return str(caught.value)


def test_order_is_verified() -> None:
    assert broken(nodes=small().nodes[::-1]) == "Neg node that makes 'r' reads 'a', which is not defined before it"


def test_single_assignment_is_verified() -> None:
    assert "Neg node that makes 'a' defines value 'a' a second time" in broken(
        nodes=[small().nodes[0], Node("Neg", ("x",), ("a",))]
    )


def test_single_assignment_is_verified_across_subgraphs() -> None:
    assert "defines value 'r' a second time" in broken(nodes=[*small().nodes, Node("Neg", ("x",), ("r",))])


def test_subgraph_values_are_not_visible_outside() -> None:
    assert "reads 'r', which is not defined" in broken(nodes=[*small().nodes, Node("Neg", ("r",), ("z",))])


def test_outputs_are_verified() -> None:
    assert broken(outputs=("nothing",)) == "output 'nothing' of graph 'small' is not defined"


def test_constants_are_verified() -> None:
    constants = small().constants
    assert "constant 'w' is float32[2] but its type says float32[3]" in broken(types={"w": TensorType(dtypes.float32, (3,))})
    assert "constant 'w' is float32[2] but its type says int64[2]" in broken(types={"w": TensorType(dtypes.int64, (2,))})
    assert "constant 'w' is a list, not an array" in broken(constants={**constants, "w": [1, 2]})


def test_nodes_make_something() -> None:
    assert "makes nothing" in broken(nodes=[*small().nodes, Node("Neg", ("x",), ("",))])


# --- interpreter -------------------------------------------------------------------------------------------------------


def test_run_takes_branches_and_names_missing_inputs() -> None:
    x = values(3, 2)
    a = x + np.array([1, 2], "f")
    assert_same(list(run(small(), {"x": x, "c": np.array(True)}).values()), [-a])
    assert_same(list(run(small(), {"x": x, "c": np.array(False)}).values()), [2 * a])
    with pytest.raises(InputError, match="lacks its inputs 'c'"):
        run(small(), {"x": x})


def one(op: str, *inputs: object, **attrs: object) -> np.ndarray:
    names = tuple("" if value is None else f"i{k}" for k, value in enumerate(inputs))
    arrays = [None if value is None else np.asarray(value) for value in inputs]
    (result,) = evaluate(Node(op, names, ("y",), attrs), arrays)  # type: ignore[arg-type]
    return result


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8"])
def test_integer_division_truncates(dtype: str) -> None:
    a, b = np.array([7, -7, 7, -7]).astype(dtype), np.array([2, 2, -2, -2]).astype(dtype)
    expected = np.trunc(a.astype(object) / b.astype(object)).astype(dtype) if dtype != "uint8" else a // b
    result = one("Div", a, b)
    assert result.dtype == a.dtype
    assert result.tolist() == expected.tolist()


def test_division_by_an_integer_zero_raises() -> None:
    for op in ("Div", "Mod"):
        with pytest.raises(ZeroDivisionError):
            one(op, [1], [0])


def test_modulo_has_the_sign_of_the_divisor_or_the_dividend() -> None:
    assert one("Mod", [7, -7, 7], [3, 3, -3]).tolist() == [1, 2, -2]
    assert one("Mod", [7, -7, 7], [3, 3, -3], fmod=1).tolist() == [1, -1, 1]


def test_reshape_zero_copies_or_is_zero() -> None:
    assert one("Reshape", np.zeros((2, 3)), [0, -1, 1]).shape == (2, 3, 1)
    assert one("Reshape", np.zeros((0, 3)), [3, 0], allowzero=1).shape == (3, 0)


def test_non_zero_of_a_scalar_has_no_rows() -> None:
    assert one("NonZero", 5).shape == (0, 1)
    assert one("NonZero", [[0, 1], [2, 0]]).tolist() == [[0, 1], [1, 0]]


def test_split_evenly_leaves_the_rest_last() -> None:
    node = Node("Split", ("x",), ("a", "b", "c"), {"num_outputs": 3})
    assert [part.size for part in evaluate(node, [np.arange(7)])] == [3, 3, 1]
    with pytest.raises(ValueError, match="does not add up"):
        evaluate(Node("Split", ("x", "s"), ("a", "b")), [np.arange(7), np.array([3, 3])])


def test_empty_reductions_have_their_identity() -> None:
    assert one("ReduceProd", np.zeros((2, 0), "f"), [1], keepdims=0).tolist() == [1, 1]
    assert one("ReduceMax", np.zeros((2, 0), "f"), [1], keepdims=0).tolist() == [-np.inf, -np.inf]


def test_unknown_operators_are_named() -> None:
    with pytest.raises(UnsupportedOperatorError, match="Frobnicate node 'f'"):
        evaluate(Node("Frobnicate", (), ("y",), {}, "f", "com.acme"), [])


bounds = st.integers(-7, 7) | st.sampled_from([-(2**63), 2**63 - 1, -(2**31), 2**31 - 1])


@hypothesis.given(start=bounds, end=bounds, step=st.integers(-4, 4).filter(bool), extent=st.integers(0, 5))
def test_slice_agrees_with_onnxruntime(start: int, end: int, step: int, extent: int) -> None:
    hypothesis.assume(step > 0 or end not in (2**63 - 1, 2**31 - 1))  # ONNX Runtime takes those for "down to the first"
    data = np.arange(extent * 2).reshape(2, extent)
    node = Node("Slice", ("d", "s", "e", "a", "t"), ("y",))
    (ours,) = evaluate(node, [data, *(np.array([value]) for value in (start, end, -1, step))])
    assert ours.tolist() == _slice_session().run(None, _slice_feeds(data, start, end, step))[0].tolist()


def _slice_feeds(data: np.ndarray, start: int, end: int, step: int) -> dict[str, np.ndarray]:
    return {"d": data, **{name: np.array([value]) for name, value in zip("seat", (start, end, -1, step), strict=True)}}


def _slice_session() -> object:
    global _session
    if _session is None:
        import onnxruntime as ort

        shapes = {"d": ["A", "B"], "s": [1], "e": [1], "a": [1], "t": [1]}
        inputs = [oh.make_tensor_value_info(name, onnx.TensorProto.INT64, shape) for name, shape in shapes.items()]
        outputs = [oh.make_tensor_value_info("y", onnx.TensorProto.INT64, ["C", "D"])]
        graph = oh.make_graph([oh.make_node("Slice", list(shapes), ["y"])], "slice", inputs, outputs)
        model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=10)
        _session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return _session


_session = None

CASES: list[tuple[str, list[object], dict[str, object]]] = [
    ("Gather", [np.arange(12).reshape(3, 4), np.array([[0, -1]])], {"axis": 1}),
    ("Expand", [np.ones((3, 1), "f"), np.array([2, 1, 4])], {}),
    ("Flatten", [np.zeros((2, 3, 4), "f")], {"axis": -1}),
    ("Transpose", [np.zeros((2, 3, 4), "f")], {}),
    ("Where", [np.array([True, False]), np.array([1, 2]), np.array([[3], [4]])], {}),
    ("Range", [np.array(10), np.array(0), np.array(-3)], {}),
    ("Range", [np.array(0.0, "f"), np.array(1.0, "f"), np.array(0.3, "f")], {}),
    ("Shape", [np.zeros((2, 3, 4), "f")], {"start": -2, "end": 3}),
    ("Size", [np.zeros((2, 3, 4), "f")], {}),
    ("ConstantOfShape", [np.array([2, 0])], {"value": np.array([7], np.int8)}),
    ("ReduceSum", [np.arange(6, dtype=np.int32).reshape(2, 3), np.array([-1])], {"keepdims": 0}),
    ("ReduceMin", [np.arange(6, dtype="f").reshape(2, 3)], {}),
    ("Cast", [np.array([1.9, -1.9, 0.0], "f")], {"to": 6}),
    ("Cast", [np.array([0, 3])], {"to": 9}),
    ("Tile", [np.arange(3), np.array([2])], {}),
    ("Max", [np.array([1, np.nan], "f"), np.array([2, 0], "f"), np.array([0, 0], "f")], {}),
    ("Equal", [np.array(["a", "b"], object), np.array(["a", "c"], object)], {}),
    ("Squeeze", [np.zeros((1, 3, 1))], {}),
    ("Unsqueeze", [np.zeros(3), np.array([0, -1])], {}),
    ("Concat", [np.zeros((2, 1)), np.ones((2, 2))], {"axis": -1}),
    ("Mod", [np.array([5.5, -5.5], "f"), np.array([2, 2], "f")], {"fmod": 1}),
]


@pytest.mark.parametrize(("op", "inputs", "attrs"), CASES, ids=[case[0] for case in CASES])
def test_numpy_functions_agree_with_the_reference(op: str, inputs: list[np.ndarray], attrs: dict[str, object]) -> None:
    from onnx.reference import ReferenceEvaluator

    names = tuple(f"i{k}" for k in range(len(inputs)))
    node = Node(op, names, ("y",), attrs)  # type: ignore[arg-type]
    fast = EVALUATORS[op](node, inputs)
    expected = ReferenceEvaluator(to_node(node)).run(None, dict(zip(names, inputs, strict=True)))
    if fast is not NotImplemented:
        assert_same(fast, [np.asarray(value) for value in expected], 0)


def test_loops_and_scans_with_directions_and_axes() -> None:
    body = Graph("b", ("s", "e"), ("t", "o"), [Node("Add", ("s", "e"), ("t",)), Node("Mul", ("t", "k"), ("o",))])
    attrs = {"body": body, "num_scan_inputs": 1, "scan_input_directions": (1,), "scan_input_axes": (1,)}
    attrs |= {"scan_output_axes": (-1,), "scan_output_directions": (1,)}
    graph = Graph("g", ("i", "x", "k"), ("f", "y"), [Node("Scan", ("i", "x"), ("f", "y"), attrs)])  # type: ignore[arg-type]
    x, start = values(2, 4), values(2, seed=1)
    sums = start[:, None] + np.cumsum(x[:, ::-1], axis=1)
    assert_same(list(run(graph, {"i": start, "x": x, "k": np.array(3, "f")}).values()), [sums[:, -1], 3 * sums[:, ::-1]])


# --- export ------------------------------------------------------------------------------------------------------------


def test_export_is_a_valid_model() -> None:
    graph = small()
    model = to_model(graph)
    onnx.checker.check_model(model)
    assert [item.name for item in model.graph.initializer] == ["w", "big"]
    assert [item.name for item in to_model(graph, max_constant=3).graph.initializer] == ["w"]
    assert re.search(r"then_branch.*Neg", onnx.printer.to_text(model), re.DOTALL)
