"""The command line: arguments, feeds, tables, errors as one sentence. The compiler is a stand-in where only arguments matter."""

from __future__ import annotations

import subprocess
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

import loopnest.compiler
from loopnest.compiler import progress
from loopnest.compiler.api import interface
from loopnest.compiler.cli import bench, main
from loopnest.compiler.cli.demo import MODELS, expected_output, light_model, ramp
from loopnest.compiler.cli.feeds import make_feeds
from loopnest.compiler.cli.options import ShapeType, stopwatch
from loopnest.ir.errors import ModelError
from loopnest.runtime.compile_report import CompileReport
from loopnest.runtime.profile import Profile, StepTime
from loopnest.runtime.program import TensorSpec

X = TensorSpec("x", "float32", ("batch", 3))
IDS = TensorSpec("ids", "int64", ("batch",))


@dataclass
class FakeModel:
    """Computes ``2 x``, and the ids as they are."""

    inputs: tuple[TensorSpec, ...] = (X, IDS)
    outputs: tuple[TensorSpec, ...] = (TensorSpec("y/0", "float32", ("batch", 3)), IDS)
    compile_report: CompileReport = field(default_factory=lambda: CompileReport({"import": 0.25}, compiled=2))

    def run(self, names: None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert names is None
        return [feeds["x"] * np.float32(2), feeds["ids"]]

    def profile(self, *inputs: np.ndarray) -> Profile:
        assert len(inputs) == len(self.inputs)
        return Profile((StepTime("n", "Mul", "k", 0.5, flops=1_000_000),), 0.5)


@dataclass
class FakeApi:
    model: FakeModel = field(default_factory=FakeModel)
    calls: list[dict[str, Any]] = field(default_factory=list)

    def compile(self, model: Path, **options: Any) -> FakeModel:
        progress.report("kernels", 1, 2)
        self.calls.append(options)
        return self.model

    def stages(self, model: Path, **options: Any) -> dict[str, str]:
        self.calls.append(options)
        return {"graph": "the graph", "fold_constants": "folded", "nests": "the nests"}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    fake = FakeApi()
    module = types.SimpleNamespace(compile=fake.compile, stages=fake.stages, interface=interface)
    monkeypatch.setitem(sys.modules, "loopnest.compiler.api", module)
    monkeypatch.setattr(loopnest.compiler, "api", module, raising=False)
    return fake


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """``y = x + x`` of shape [batch, 3]."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", value[:1], value[1:])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_help_lists_the_commands_without_importing_the_compiler() -> None:
    code = "import sys\nfrom loopnest.compiler.cli import main\ntry:\n    main(['--help'])\nfinally:\n    assert 'numba' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in ("demo", "run", "bench", "inspect", "check", "compare"):
        assert name in done.stdout


def test_python_dash_m() -> None:
    done = subprocess.run([sys.executable, "-m", "loopnest", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: loopnest ")


def test_run_prints_and_saves_the_outputs(api: FakeApi, model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[1, 2, np.nan]], np.float32))
    arguments = ("--input", f"x={tmp_path / 'x.npy'}", "--shape", "ids=1", "--threads", 2, "--target", "cpu-sse2")
    result = invoke("run", model, *arguments, "--output-dir", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert api.calls == [{"target": "cpu-sse2", "shapes": {"ids": (1,)}, "config": None, "threads": 2}]
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "y_0.npy"), np.array([[2, 4, np.nan]], np.float32))
    assert np.load(tmp_path / "out" / "ids.npy").dtype == np.int64
    assert "1x3" in result.output
    assert "float32" in result.output


def test_run_takes_the_shape_of_the_only_input_without_its_name(api: FakeApi, model: Path) -> None:
    result = invoke("run", model, "--shape", "5,3")
    assert result.exit_code == 0, result.output
    assert api.calls[0]["shapes"] == {"x": (5, 3)}
    assert "5x3" in result.output


def test_feeds_are_seeded_and_share_the_extent_of_a_named_dim() -> None:
    feeds = make_feeds((X, IDS), {}, {"x": (4, 3)}, seed=1)
    assert [(a.shape, a.dtype) for a in feeds.values()] == [((4, 3), np.float32), ((4,), np.int64)]
    assert 0 <= feeds["x"].min() <= feeds["x"].max() < 1
    assert set(np.unique(feeds["ids"])) <= {0, 1}
    again = make_feeds((X, IDS), {}, {"x": (4, 3)}, seed=1)
    np.testing.assert_array_equal(feeds["x"], again["x"])
    assert not np.array_equal(feeds["x"], make_feeds((X, IDS), {}, {"x": (4, 3)}, seed=2)["x"])


@pytest.mark.parametrize("dtype", ["bool", "uint8", "float16", "bfloat16", "complex64", "string", "int4"])
def test_feeds_of_every_kind(dtype: str) -> None:
    spec = TensorSpec("v", dtype, (2, None))
    assert make_feeds([spec], {}, {})["v"].dtype == spec.numpy
    assert make_feeds([spec], {}, {})["v"].shape == (2, 1)


def test_feeds_given_as_numbers() -> None:
    feeds = make_feeds([IDS], {"ids": "16000"}, {})
    assert (feeds["ids"].shape, feeds["ids"].dtype, int(feeds["ids"])) == ((), np.int64, 16000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--input", "z=1"), "the model has no input 'z'; it has 'x', 'ids'"),
        (("--input", "x=absent.npy"), "cannot read absent.npy"),
        (("--input", "x=one"), "neither a .npy file nor a number"),
        (("--input", "x"), "is not NAME=FILE.npy"),
        (("--shape", "x=1,a"), "not a comma-separated list of integers"),
        (("--shape", "x=1,-3"), "an extent is negative"),
        (("--threads", "0"), "0 is not in the range"),
    ],
)
def test_bad_arguments_are_usage_errors(api: FakeApi, model: Path, arguments: tuple[str, ...], message: str) -> None:
    result = invoke("run", model, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_shape_type() -> None:
    assert ShapeType().convert("a=b=1,2", None, None) == ("a=b", (1, 2))
    assert ShapeType().convert("x=", None, None) == ("x", ())
    with pytest.raises(click.BadParameter):
        ShapeType().convert("x=1;2", None, None)


def test_errors_of_loopnest_are_one_sentence(api: FakeApi, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ModelError("node 'a' has no input")

    monkeypatch.setattr(loopnest.compiler.api, "compile", fail)  # type: ignore[attr-defined]
    result = invoke("run", model)
    assert (result.exit_code, result.output) == (2, "Error: node 'a' has no input\n")


def test_check_ends_with_1_on_unsupported_operators(model: Path) -> None:
    assert invoke("check", model).exit_code == 0
    assert "all 1 operators are supported" in invoke("check", model).output
    proto = onnx.load(model)
    proto.graph.node[0].domain, proto.graph.node[0].op_type = "com.example", "Frobnicate"
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save(proto, model)
    result = invoke("check", model)
    assert result.exit_code == 1
    assert "com.example Frobnicate (opset 1, 1 x" in result.output
    refused = invoke("run", model)
    assert refused.exit_code == 2
    assert refused.output.startswith("Error: the model uses 1 operators that loopnest does not have: com.example Frobnicate")


def test_inspect_prints_the_chosen_stages(api: FakeApi, model: Path) -> None:
    folded = "# fold_constants\n\nfolded\n\n"
    assert invoke("inspect", model).stdout == f"# graph\n\nthe graph\n\n{folded}# nests\n\nthe nests\n\n"
    assert invoke("inspect", model, "--stage", "passes").stdout == folded
    assert invoke("inspect", model, "--stage", "fold_constants").stdout == folded
    assert invoke("inspect", model, "--stage", "nests", "--shape", "2,3").stdout == "# nests\n\nthe nests\n\n"
    assert api.calls[-1]["shapes"] == {"x": (2, 3)}
    assert "no stage 'tokens'; it has graph, fold_constants, nests" in " ".join(
        invoke("inspect", model, "--stage", "tokens").output.split()
    )


def test_bench_prints_one_row_an_engine(api: FakeApi, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    spec = (TensorSpec("x", "float32", ("batch", 3)),)
    api.model = FakeModel(inputs=spec, outputs=(TensorSpec("y", "float32", ("batch", 3)),))
    api.model.run = lambda names, feeds: [feeds["x"] * np.float32(2)]  # type: ignore[method-assign]
    monkeypatch.setenv("COLUMNS", "160")
    result = invoke("bench", model, "--vs", "onnxruntime", "--seconds", "0.02", "--rounds", "2", "--shape", "8,3")
    assert result.exit_code == 0, result.output
    assert api.calls[0]["threads"] == 1
    assert "loopnest and onnxruntime differ by at most 0.0e+00" in result.output
    rows = [line for line in result.output.splitlines() if line.strip("│ ").startswith(("loopnest ", "onnxruntime "))]
    assert any("│" in row and "1.00" in row for row in rows)
    assert "1 MFLOP" in result.output
    assert "compiled in 0.25 s (import 0.25): 2 kernels made, 0 found in the cache" in result.output


def test_bench_names_the_engines_it_knows(api: FakeApi, model: Path) -> None:
    result = invoke("bench", model, "--vs", "tvm")
    assert result.exit_code == 2
    assert "unknown engine 'tvm'; known: onnxruntime, openvino" in " ".join(result.output.split())


def test_interleave_alternates_and_counts_only_timed_calls() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in ("a", "b")}
    timings = bench.interleave(calls, seconds=0, rounds=2, pause=0, minimum=3)
    assert [len(timing.seconds) for timing in timings] == [6, 6]
    assert order == ["a"] * 5 + ["b"] * 10 + ["a"] * 5
    assert timings[0].best <= timings[0].median


def test_progress_reaches_only_a_listener() -> None:
    events: list[tuple[str, int, int]] = []
    progress.report("before", 1, 2)
    with progress.listening(lambda *event: events.append(event)):
        progress.report("kernels", 1, 2)
    progress.report("after", 1, 2)
    assert events == [("kernels", 1, 2)]


def test_commands_are_quiet_when_not_on_a_terminal(api: FakeApi, model: Path) -> None:
    assert invoke("run", model, "--shape", "1,3").stderr == ""


def test_stopwatch_stops_at_the_end_of_its_block() -> None:
    with stopwatch() as elapsed:
        assert elapsed() <= elapsed()
    assert elapsed() == elapsed()


@pytest.mark.parametrize("name", MODELS)
def test_light_models_are_in_the_onnx_package(name: str) -> None:
    model, output = light_model(name)
    assert model.exists()
    assert expected_output(output).shape[-1] in (1000, 1)


def test_ramp_is_the_input_of_the_onnx_test_runner() -> None:
    from onnx.backend.test.runner import Runner

    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    np.testing.assert_array_equal(ramp((2, 3)), Runner.generate_dummy_data(info))


def test_run_with_the_real_compiler(model: Path, tmp_path: Path) -> None:
    result = invoke("run", model, "--shape", "x=4,3", "--output-dir", tmp_path, "--seed", 3)
    assert result.exit_code == 0, result.output
    expected = make_feeds([TensorSpec("x", "float32", ("batch", 3))], {}, {"x": (4, 3)}, seed=3)["x"] * 2
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)


def test_inspect_with_the_real_compiler(model: Path) -> None:
    result = invoke("inspect", model, "--shape", "4,3")
    assert result.exit_code == 0, result.output
    headings = [line[2:] for line in result.output.splitlines() if line.startswith("# ")]
    assert [name for name in ("graph", "groups", "nests", "kernels", "program") if name not in headings] == []


def test_inspect_says_what_a_plan_needs(model: Path) -> None:
    result = invoke("inspect", model)
    assert result.exit_code == 0
    assert "# graph" in result.stdout
    assert "fix their shapes with --shape" in result.stderr


def test_bench_with_the_real_compiler(model: Path) -> None:
    pytest.importorskip("onnxruntime")
    arguments = ("--shape", "x=64,3", "--seconds", "0.02", "--rounds", "2", "--target", "cpu-generic", "--vs", "onnxruntime")
    result = invoke("bench", model, *arguments)
    assert result.exit_code == 0, result.output
    assert "loopnest and onnxruntime differ by at most 0.0e+00" in result.output


def test_check_with_the_real_compiler(model: Path) -> None:
    assert invoke("check", model).output == "1 nodes, all 1 operators are supported\n  ok       ai.onnx Add (1 x)\n"


def test_bad_shapes_and_targets_are_one_sentence(model: Path) -> None:
    for arguments in (("--shape", "x=4,5"), ("--shape", "4"), ("--target", "cpu-avx9")):
        result = invoke("run", model, *arguments)
        assert (result.exit_code, result.output.count("\n")) == (2, 1), result.output
        assert result.output.startswith("Error: ")


def test_demo_checks_against_the_shipped_output(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke("demo", "--model", "squeezenet", "--seconds", "0.05", "--threads", "1")
    assert result.exit_code == 0, result.output
    assert "matches light_squeezenet_output_0.pb" in result.output
    assert "ms a run on 1 thread" in result.output
    monkeypatch.setattr("loopnest.compiler.cli.demo.TOLERANCE", -1.0)
    wrong = invoke("demo", "--model", "squeezenet", "--seconds", "0.05", "--threads", "1")
    assert wrong.exit_code == 2
    assert "the output differs from light_squeezenet_output_0.pb" in wrong.output
