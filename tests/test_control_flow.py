"""Control flow that data decides, and the stages into which it cuts a model."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest

import loopnest
from loopnest.compiler.engine import Engine
from loopnest.compiler.plan import Plan
from loopnest.ir.graph import Graph
from loopnest.runtime.direct import Direct
from tests.graphs import FLOAT, assert_same, make_model, onnxruntime, tensor, values

INT64, BOOL = onnx.TensorProto.INT64, onnx.TensorProto.BOOL


def body(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray] | None = None,
) -> onnx.GraphProto:
    made = [onnx.numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    return oh.make_graph(nodes, "body", inputs, outputs, made)


def counter(name: str = "i") -> onnx.ValueInfoProto:
    return tensor(name, (), INT64)


def flag(name: str) -> onnx.ValueInfoProto:
    return tensor(name, (), BOOL)


def check(model: onnx.ModelProto, *feeds: dict[str, Any], tolerance: float = 1e-5) -> loopnest.CompiledModel:
    """Runs ``model`` on each of ``feeds`` and compares with ONNX Runtime."""
    f = loopnest.compile(model)
    for given in feeds:
        assert_same(f.run(None, given), onnxruntime(model, given), tolerance)
    return f


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the graphs planned so far."""
    made: list[str] = []
    plan = Engine.plan

    def counting(engine: Engine, graph: Graph) -> Plan:
        made.append(graph.name)
        return plan(engine, graph)

    monkeypatch.setattr(Engine, "plan", counting)
    return made


# --- If -----------------------------------------------------------------------------------------------------------------------


def branches() -> tuple[onnx.GraphProto, onnx.GraphProto]:
    then = body([oh.make_node("Add", ["x", "one"], ["a"])], [], [tensor("a")], {"one": np.ones(1, np.float32)})
    orelse = body([oh.make_node("Mul", ["x", "x"], ["m"]), oh.make_node("Neg", ["m"], ["n"])], [], [tensor("n")])
    return then, orelse


def if_model(condition: Sequence[onnx.NodeProto], inputs: dict[str, Any]) -> onnx.ModelProto:
    then, orelse = branches()
    node = oh.make_node("If", ["c"], ["y"], then_branch=then, else_branch=orelse)
    return make_model(
        [*condition, node, oh.make_node("Relu", ["y"], ["z"])], inputs, ["y", "z"], {"zero": np.array(0, np.float32)}
    )


def test_if_that_data_decides(plans: list[str]) -> None:
    condition = [oh.make_node("ReduceSum", ["x"], ["s"], keepdims=0), oh.make_node("Greater", ["s", "zero"], ["c"])]
    x = np.abs(values(3, 5))
    model = if_model(condition, {"x": ("n", "m")})
    f = check(model, {"x": x}, {"x": -x})
    made = len(plans)
    for sign in (1, -1, -1, 1):
        f(sign * x)
    assert len(plans) == made
    check(model, {"x": values(2, 2)})


def test_if_that_an_input_decides_is_one_native_program() -> None:
    model = if_model([], {"x": (3, 5), "c": flag("c")})
    f = check(model, {"x": values(3, 5), "c": np.array(True)}, {"x": values(3, 5), "c": np.array(False)})
    assert len(f.plans) == 2
    assert all(isinstance(plan, Direct) for plan in f.plans)


def test_float_data_is_not_bound_by_value() -> None:
    condition = [oh.make_node("ReduceSum", ["x"], ["s"], keepdims=0), oh.make_node("Greater", ["s", "zero"], ["c"])]
    f = loopnest.compile(if_model(condition, {"x": (4,)}))
    for seed in range(4):
        f(values(4, seed=seed))
    assert len(f.plans) == 1


def test_untaken_branch_may_need_what_is_not_known_yet() -> None:
    """Only the branch that is not taken captures a value that the host makes."""
    then = body([oh.make_node("Relu", ["x"], ["a"])], [], [tensor("a")])
    orelse = body([oh.make_node("SequenceAt", ["s", "zero"], ["b"])], [], [tensor("b")], {"zero": np.array(0)})
    nodes = [
        oh.make_node("SequenceConstruct", ["x"], ["s"]),
        oh.make_node("If", ["c"], ["y"], then_branch=then, else_branch=orelse),
    ]
    f = check(make_model(nodes, {"x": (4,), "c": flag("c")}, ["y"]), {"x": values(4), "c": np.array(True)})
    assert_same([f(values(4), np.array(False))], [values(4)])


# --- Loop ---------------------------------------------------------------------------------------------------------------------


def loop_model(outer: Sequence[onnx.NodeProto] = ()) -> onnx.ModelProto:
    """A geometric series: state = state * w + x, which also is yielded, while its sum stays below a limit."""
    nodes = [
        oh.make_node("MatMul", ["state", "w"], ["p"]),
        oh.make_node("Add", ["p", "x"], ["next"]),
        oh.make_node("ReduceSum", ["next"], ["sum"], keepdims=0),
        oh.make_node("Less", ["sum", "limit"], ["go_on"]),
        oh.make_node("Identity", ["next"], ["yielded"]),
        oh.make_node("Identity", ["i"], ["number"]),
    ]
    inner = body(
        nodes,
        [counter(), flag("c"), tensor("state", (None, None))],
        [flag("go_on"), tensor("next"), tensor("yielded", (None, None)), counter("number")],
    )
    node = oh.make_node("Loop", ["trips", "", "x"], ["last", "all", "numbers"], body=inner)
    constants = {"w": np.eye(4, dtype=np.float32) * 1.5, "limit": np.array(1e3, np.float32)}
    inputs = {"x": (None, 4), "trips": counter("trips")}
    return make_model([*outer, node], inputs, ["last", "all", "numbers"], constants)


def test_loop(plans: list[str]) -> None:
    x = np.abs(values(2, 4))
    f = check(loop_model(), {"x": x, "trips": np.array(3)}, {"x": x, "trips": np.array(9)}, {"x": x, "trips": np.array(100)})
    assert plans == ["body"], "the body is planned once, whatever the number of trips"
    f(x, np.array(11))
    assert len(plans) == 1


def test_loop_that_never_runs() -> None:
    last, everything, numbers = loopnest.compile(loop_model())(values(2, 4), np.array(0))
    assert_same([last], [values(2, 4)])
    assert everything.shape == (0, 0, 0) or everything.shape[0] == 0
    assert numbers.shape == (0,) and numbers.dtype == np.int64


def test_loop_with_a_condition_only() -> None:
    inner = body(
        [
            oh.make_node("Add", ["state", "state"], ["next"]),
            oh.make_node("Less", ["next", "hundred"], ["go_on"]),
        ],
        [counter(), flag("c"), tensor("state", (1,))],
        [flag("go_on"), tensor("next", (1,))],
    )
    node = oh.make_node("Loop", ["", "start", "x"], ["y"], body=inner)
    model = make_model([node], {"x": (1,), "start": flag("start")}, ["y"], {"hundred": np.array([100], np.float32)})
    x = np.array([3], np.float32)
    check(model, {"x": x, "start": np.array(True)}, {"x": x, "start": np.array(False)})


def test_values_that_decide_shapes_in_a_body() -> None:
    """Iteration i yields the sum of the first i + 1 columns: one plan for each i, since Slice's end is i."""
    inner = body(
        [
            oh.make_node("Add", ["i", "one"], ["end0"]),
            oh.make_node("Unsqueeze", ["end0", "zero"], ["end"]),
            oh.make_node("Slice", ["x", "zero", "end", "one_axis"], ["part"]),
            oh.make_node("ReduceSum", ["part"], ["sum"], keepdims=0),
            oh.make_node("Identity", ["c"], ["go_on"]),
        ],
        [counter(), flag("c")],
        [flag("go_on"), tensor("sum", ())],
        {"one": np.array(1), "zero": np.array([0]), "one_axis": np.array([1])},
    )
    model = make_model(
        [oh.make_node("Loop", ["trips", ""], ["sums"], body=inner)], {"x": (3, 9)}, ["sums"], {"trips": np.array(9)}
    )
    check(model, {"x": values(3, 9)})


def test_nested_loops_capture_from_every_level() -> None:
    inner = body(
        [
            oh.make_node("Mul", ["state2", "x"], ["p"]),
            oh.make_node("Add", ["p", "outer_state"], ["q"]),
            oh.make_node("Cast", ["i"], ["fi"], to=FLOAT),
            oh.make_node("Add", ["q", "fi"], ["next2"]),
            oh.make_node("Identity", ["c2"], ["go2"]),
        ],
        [counter("j"), flag("c2"), tensor("state2", (None,))],
        [flag("go2"), tensor("next2", (None,))],
    )
    outer = body(
        [
            oh.make_node("Loop", ["three", "", "outer_state"], ["next"], body=inner),
            oh.make_node("Identity", ["c"], ["go_on"]),
        ],
        [counter(), flag("c"), tensor("outer_state", (None,))],
        [flag("go_on"), tensor("next", (None,))],
        {"three": np.array(3)},
    )
    node = oh.make_node("Loop", ["two", "", "x"], ["y"], body=outer)
    model = make_model([node, oh.make_node("Neg", ["y"], ["z"])], {"x": (None,)}, ["z"], {"two": np.array(2)})
    check(model, {"x": values(5)}, {"x": values(9)}, tolerance=1e-4)


def test_state_that_grows() -> None:
    """The state gets longer in each iteration, so that the body has a plan for each length."""
    inner = body(
        [oh.make_node("Concat", ["state", "x"], ["next"], axis=0), oh.make_node("Identity", ["c"], ["go_on"])],
        [counter(), flag("c"), tensor("state", (None,))],
        [flag("go_on"), tensor("next", (None,))],
    )
    node = oh.make_node("Loop", ["trips", "", "x"], ["y"], body=inner)
    check(make_model([node], {"x": (3,), "trips": counter("trips")}, ["y"]), {"x": values(3), "trips": np.array(4)})


def test_condition_of_more_than_one_element() -> None:
    model = if_model([oh.make_node("Greater", ["x", "zero"], ["c"])], {"x": (2,)})
    with pytest.raises(loopnest.KernelError, match="If"):
        loopnest.compile(model)(values(2))


# --- Scan ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backward", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_scan(axis: int, backward: int) -> None:
    inner = body(
        [
            oh.make_node("Add", ["state", "item"], ["next"]),
            oh.make_node("Mul", ["next", "other"], ["out"]),
        ],
        [tensor("state", (None,)), tensor("item", (None,)), tensor("other", ())],
        [tensor("next", (None,)), tensor("out", (None,))],
    )
    attrs = {
        "scan_input_axes": [axis, 0],
        "scan_input_directions": [backward, 0],
        "scan_output_axes": [axis],
        "scan_output_directions": [1 - backward],
    }
    node = oh.make_node("Scan", ["s", "x", "factors"], ["last", "y"], body=inner, num_scan_inputs=2, **attrs)
    x = values(4, 4)
    model = make_model([node], {"s": (4,), "x": ("n", "m"), "factors": ("k",)}, ["last", "y"])
    check(model, {"s": values(4), "x": x, "factors": values(4)})


def test_scanned_inputs_of_different_lengths() -> None:
    inner = body([oh.make_node("Add", ["a", "b"], ["c"])], [tensor("a", ()), tensor("b", ())], [tensor("c", ())])
    node = oh.make_node("Scan", ["x", "z"], ["y"], body=inner, num_scan_inputs=2)
    f = loopnest.compile(make_model([node], {"x": ("n",), "z": ("m",)}, ["y"]))
    with pytest.raises(loopnest.KernelError, match="different lengths: 3, 4"):
        f(values(3), values(4))


# --- stages -------------------------------------------------------------------------------------------------------------------


def test_outputs_that_nothing_computes() -> None:
    """An input, a constant, a value twice, a view of an input: all of them fresh memory."""
    nodes = [
        oh.make_node("Identity", ["x"], ["same"]),
        oh.make_node("Identity", ["k"], ["constant"]),
        oh.make_node("Relu", ["x"], ["r"]),
        oh.make_node("Identity", ["r"], ["again"]),
        oh.make_node("Reshape", ["x", "shape"], ["flat"]),
    ]
    constants = {"k": np.arange(3, dtype=np.float32), "shape": np.array([-1])}
    f = loopnest.compile(make_model(nodes, {"x": (2, 3)}, ["same", "constant", "r", "again", "flat"], constants))
    x = values(2, 3)
    expected = [x, constants["k"], np.maximum(x, 0), np.maximum(x, 0), x.reshape(-1)]
    first = f(x)
    assert_same(first, expected)
    for i, result in enumerate(first):
        assert not any(np.shares_memory(result, other) for other in (x, *first[:i]))
        result[...] = 7
    assert_same(f(x), expected)


def test_graph_without_nodes() -> None:
    model = make_model([], {"x": (3,)}, ["x"])
    model.graph.output[0].CopyFrom(tensor("x", (3,)))
    x = values(3)
    y = loopnest.compile(model)(x)
    assert_same([y], [x])
    assert not np.shares_memory(x, y)


def test_unused_input() -> None:
    f = loopnest.compile(make_model([oh.make_node("Neg", ["x"], ["y"])], {"unused": (2,), "x": (3,)}, ["y"]))
    assert_same([f(values(2), values(3))], [-values(3)])


def test_values_bound_at_a_plan_are_copied() -> None:
    """The caller's array becomes a constant of the plan; changing it later changes no result."""
    f = loopnest.compile(
        make_model([oh.make_node("Reshape", ["x", "shape"], ["y"])], {"x": (6,), "shape": tensor("shape", (2,), INT64)}, ["y"])
    )
    shape = np.array([2, 3])
    assert f(values(6), shape).shape == (2, 3)
    shape[:] = 3, 2
    assert f(values(6), shape).shape == (3, 2)
    assert f(values(6), np.array([2, 3])).shape == (2, 3)


def test_extents_that_data_decides(plans: list[str]) -> None:
    """NonZero cuts the program; what follows is planned for each count once."""
    nodes = [
        oh.make_node("NonZero", ["x"], ["where"]),
        oh.make_node("Transpose", ["where"], ["places"]),
        oh.make_node("GatherND", ["x", "places"], ["picked"]),
        oh.make_node("Exp", ["picked"], ["y"]),
    ]
    model = make_model(nodes, {"x": (4, 5)}, ["places", "y"])
    x = np.maximum(values(4, 5), 0)
    f = check(model, {"x": x}, {"x": np.zeros((4, 5), np.float32)}, {"x": np.ones((4, 5), np.float32)})
    made = len(plans)
    f(x[::-1].copy())
    assert len(plans) == made


def test_empty_tensors() -> None:
    condition = [oh.make_node("ReduceSum", ["x"], ["s"], keepdims=0), oh.make_node("GreaterOrEqual", ["s", "zero"], ["c"])]
    check(if_model(condition, {"x": ("n", 3)}), {"x": np.zeros((0, 3), np.float32)})


def test_many_threads() -> None:
    """Threads with different shapes and conditions plan and run at the same time."""
    condition = [oh.make_node("ReduceSum", ["x"], ["s"], keepdims=0), oh.make_node("Greater", ["s", "zero"], ["c"])]
    f = loopnest.compile(if_model(condition, {"x": ("n", "m")}))
    failures: list[str] = []

    def work(thread: int) -> None:
        for step in range(12):
            x = values(1 + (thread + step) % 3, 4, seed=step)
            y, z = f(x)
            expected = x + 1 if x.sum() > 0 else -(x * x)
            if not np.allclose(y, expected, atol=1e-5) or not np.allclose(z, np.maximum(expected, 0), atol=1e-5):
                failures.append(f"thread {thread}, step {step}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_profile_and_text_cover_all_stages() -> None:
    condition = [oh.make_node("ReduceSum", ["x"], ["s"], keepdims=0), oh.make_node("Greater", ["s", "zero"], ["c"])]
    f = loopnest.compile(if_model(condition, {"x": (3, 5)}))
    f(values(3, 5))
    assert "on the host: If" in str(f) and "planned for the shapes that come out" in str(f)
    assert any("Relu" in step.op for step in f.profile(values(3, 5), repeat=2).steps)


def test_report_tells_what_runs_on_the_host() -> None:
    report = loopnest.check(loop_model()).as_text()
    assert any(line.split()[0] == "host" and " Loop " in line for line in report.splitlines())
