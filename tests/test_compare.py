"""The comparison of intermediate values finds the node that is wrong; verification finds stages that are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx.helper import make_node

import loopnest
from loopnest.compiler.accuracy import difference
from loopnest.compiler.cli import main
from loopnest.compiler.cli.demo import light_model, ramp
from loopnest.compiler.compare import compare
from loopnest.compiler.ops import registry
from loopnest.compiler.passes import PASSES, Pass
from tests.graphs import make_model, values


def chain() -> onnx.ModelProto:
    """relu(x @ w) * 2 + 1, on [batch, 4]."""
    nodes = [
        make_node("MatMul", ["x", "w"], ["a"], name="product"),
        make_node("Relu", ["a"], ["b"], name="relu"),
        make_node("Mul", ["b", "two"], ["c"], name="double"),
        make_node("Add", ["c", "one"], ["y"], name="shift"),
    ]
    constants = {"w": values(4, 4), "two": np.float32([2]), "one": np.float32([1])}
    return make_model(nodes, {"x": ("batch", 4)}, ["y"], constants)


@pytest.fixture
def wrong_relu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relu computes |x|."""
    right = registry.lookup("", "Relu")
    absolute = registry.lookup("", "Abs")
    assert right is not None
    assert absolute is not None
    monkeypatch.setitem(registry._OPS, ("", "Relu"), replace(right, define=absolute.define))


@pytest.mark.parametrize("reference", ["onnxruntime", "interpreter"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_right_model_agrees(reference: str, fused: bool) -> None:
    found = compare(chain(), {"x": values(3, 4, seed=1)}, reference=reference, fused=fused)  # type: ignore[arg-type]
    assert [row.value for row in found.rows] == (["y"] if fused else ["a", "b", "c", "y"])
    assert not found.exceeding
    assert f"all {len(found.rows)} values agree with" in str(found)


def test_the_first_wrong_node_comes_first(wrong_relu: None) -> None:
    found = compare(chain(), {"x": values(3, 4, seed=1)})
    assert [row.node for row in found.exceeding] == ["relu", "double", "shift"]
    lines = str(found).splitlines()
    assert lines[0] == "3 of 4 values differ from ONNX Runtime by more than 1e-04:"
    assert lines[3].split()[1:] == ["Relu", "relu", "b", "3x4"]
    assert found.as_text(most=1).splitlines()[-1] == "... and 2 more"


def test_the_command_line(tmp_path: Path, wrong_relu: None) -> None:
    onnx.save(chain(), tmp_path / "chain.onnx")
    arguments = ["compare", str(tmp_path / "chain.onnx"), "--shape", "2,4", "--seed", "3"]
    assert CliRunner().invoke(main, [*arguments, "--bound", "10"]).exit_code == 0
    np.save(tmp_path / "x.npy", values(3, 4))
    found = CliRunner().invoke(main, [*arguments, "--input", f"x={tmp_path / 'x.npy'}"])
    assert found.exit_code == 1
    assert "relu" in found.output


def test_a_reference_that_cannot_run_the_model() -> None:
    model = make_model([make_node("Relu", ["x"], ["y"])], {"x": (3,)}, ["y"])
    model.ir_version = 200
    with pytest.raises(loopnest.LoopnestError, match="IR version"):
        compare(model, {"x": values(3)})
    model.ir_version = 10
    with pytest.raises(loopnest.InputError, match="rank 2"):
        compare(model, {"x": values(3, 3)}, reference="interpreter")
    with pytest.raises(loopnest.LoopnestError, match="ONNX Runtime cannot run this model"):
        compare(model, {"x": values(3, 3)}, reference="onnxruntime")


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.2),
        ([np.nan, np.inf], [np.nan, np.inf], 0.0),
        ([np.nan], [1.0], np.inf),
        ([[1.0]], [1.0], np.inf),
        ([True], [False], 1.0),
        ([], [], 0.0),
    ],
)
def test_difference(ours: list, theirs: list, expected: float) -> None:
    assert difference([np.array(ours)], [np.array(theirs)]) == pytest.approx(expected)


# --- verification ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_every_stage_of_a_network_is_valid(name: str) -> None:
    model, _ = light_model(name)
    f = loopnest.compile(model, config={"verify": True})
    assert np.isfinite(f(ramp(f.inputs[0].extents))).all()


def test_a_pass_that_breaks_the_graph_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_it(graph: object, root: object) -> bool:
        graph.nodes.reverse()  # type: ignore[attr-defined]
        return True

    monkeypatch.setattr("loopnest.compiler.passes.PASSES", (*PASSES, Pass("reverse", break_it)))
    with pytest.raises(loopnest.LoopnestError, match="after pass reverse: .* which is not defined before it"):
        loopnest.compile(chain(), config={"verify": True})


def test_a_nest_that_is_out_of_bounds_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from loopnest.compiler.ops.context import Operand

    read = Operand.__call__
    monkeypatch.setattr(Operand, "__call__", lambda self, *index: read(self, *(i + 1 for i in index)))
    model = make_model([make_node("Transpose", ["x"], ["y"], name="turn")], {"x": (3, 4)}, ["y"])
    with pytest.raises(loopnest.LoopnestError, match="Transpose.*out of bounds"):
        loopnest.compile(model, config={"verify": True})
