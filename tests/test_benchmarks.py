"""The runner of the benchmarks: what it writes, how it goes on, what it says of models that fail. No time is judged."""

from __future__ import annotations

import ast
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import helper, numpy_helper

from benchmarks import catalog, memory, models, overhead, plot, report, session, targets
from benchmarks.__main__ import main
from benchmarks.ratios import ratio
from loopnest.codegen.target import resolve

RNG = np.random.default_rng(0)


def write_model(path: Path, nodes: list[onnx.NodeProto], domain: str = "") -> Path:
    """A model from x[4, 16] to y over the weights w[16, 8]."""
    weights = numpy_helper.from_array(RNG.standard_normal((16, 8)).astype(np.float32), "w")
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (4, 16))
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    imports = [helper.make_opsetid("", 20), *([helper.make_opsetid(domain, 1)] if domain else [])]
    graph = helper.make_graph(nodes, path.stem, [x], [y], [weights])
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]
    return write_model(tmp_path / "good.onnx", nodes)


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="com.example")
    return write_model(tmp_path / "bad.onnx", [node], "com.example")


def invoke(output: Path, *arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments), "--seconds", "0.01", "--rounds", "2", "--output", str(output)])


def test_a_run_writes_every_number_and_reports_a_model_that_fails(tmp_path: Path, good: Path, bad: Path) -> None:
    pytest.importorskip("onnxruntime")
    output = tmp_path / "out"
    result = invoke(output, "--models", f"{bad},{good}", "--threads", "1,2", "--no-memory")
    assert result.exit_code == 1
    assert f"[1/2] {bad}" in result.output
    assert "FAILED UnsupportedOperatorError" in result.output
    written = json.loads((output / "results.json").read_text())
    records = {record["name"]: record for record in written["models"]}
    check_good(records[str(good)])
    assert "threads" not in records[str(bad)]
    assert [peak["threads"] for peak in written["machine"]["peaks"]] == [1, 2]
    assert all(peak["gflops"] > 0 and peak["gbps"] > 0 for peak in written["machine"]["peaks"])
    text = (output / "results.md").read_text()
    assert text.count(f"| {good} |") == 2
    assert f"- `{bad}`: UnsupportedOperatorError: " in text
    assert str(good) in (output / "results.svg").read_text()


def check_good(record: dict[str, Any]) -> None:
    assert "error" not in record
    assert record["family"] == "file"
    assert record["inputs"] == {"x": [4, 16]}
    assert record["compile"]["seconds"] > 0
    assert record["compile"]["cpu_seconds"] > 0
    assert record["kernels"] == record["steps"] == 1
    assert record["arena_bytes"] == 0
    assert record["flops"] >= 2 * 4 * 16 * 8
    assert [kernel["calls"] for kernel in record["kernel_times"]] == [1]
    assert record["peak_gflops"] > 1
    for threads in ("1", "2"):
        engines = record["threads"][threads]
        assert set(engines) == {"loopnest", "onnxruntime", "openvino"}
        assert engines["onnxruntime"]["difference"] <= 1e-6
        for engine in engines.values():
            assert "error" in engine or (0 < engine["min_s"] <= engine["median_s"] and engine["calls"] >= 6)
    assert "memory" not in record


def test_memory_is_measured_alone(tmp_path: Path, good: Path) -> None:
    pytest.importorskip("onnxruntime")
    output = tmp_path / "out"
    arguments = ("--models", good, "--threads", "1")
    assert invoke(output, *arguments, "--memory-only").exit_code == 0
    (record,) = json.loads((output / "results.json").read_text())["models"]
    assert "threads" not in record
    serving, compiling = record["memory"]["serving"], record["memory"]["compiling"]
    assert set(serving) == {"loopnest", "onnxruntime", "openvino"}
    assert 10e6 < serving["loopnest"] < compiling["bytes"], "what is found in the cache needs no compiler"
    assert compiling["helper_bytes"] >= 0
    text = (output / "results.md").read_text()
    assert f"| {good} | {serving['loopnest'] / 1e6:.0f} | {serving['onnxruntime'] / 1e6:.0f} |" in text
    again = invoke(output, *arguments, "--memory-only")
    assert f"memory {serving['loopnest'] / serving['onnxruntime']:.2f}" in again.output, "which is not measured again"
    assert json.loads((output / "results.json").read_text())["models"] == [record]


def test_a_part_that_is_measured_again_leaves_the_other(tmp_path: Path) -> None:
    results, settings = session.Results(tmp_path), session.Settings((1,))
    timed = {"name": "a", "settings": json.loads(json.dumps(vars(settings))), "threads": {}}
    results.put({"name": "a", "error": "cannot be prepared"})
    assert results.missing("a", settings, session.PARTS) == ["time", "memory"]
    results.put({"name": "a", "memory": {"serving": {"loopnest": 1}}})
    assert "error" not in (results.get("a") or {})
    assert results.missing("a", settings, session.PARTS) == ["time"]
    results.put({**timed, "error": "wrong"})
    assert results.missing("a", settings, session.PARTS) == ["time"]
    results.put({"name": "a", "memory": {"error": "it broke"}})
    assert (results.get("a") or {})["error"] == "wrong"
    assert results.missing("a", settings, session.PARTS) == ["time", "memory"]
    results.put(timed)
    assert results.get("a") == {**timed, "memory": {"error": "it broke"}}
    assert results.missing("a", session.Settings((2,)), ["time"]) == ["time"]


def test_the_table_of_memory_says_what_failed() -> None:
    serving = {"loopnest": 80_000_000, "onnxruntime": 100_000_000, "openvino": None}
    compiling = {"bytes": 150_000_000, "helper_bytes": 0}
    records: list[dict[str, Any]] = [
        {"name": "a", "memory": {"serving": serving, "compiling": compiling}},
        {"name": "b", "memory": {"serving": {**serving, "loopnest": 20_000_000}, "compiling": compiling}},
        {"name": "c", "memory": {"error": "it broke"}},
        {"name": "d"},
    ]
    lines = list(memory.markdown(records))
    assert lines[0] == "Geometric mean of loopnest / ONNX Runtime over 2 models: 0.40."
    assert "| a | 80 | 100 | - | 0.80 | 150 | - |" in lines
    assert "| c | - | - | - | it broke | - | - |" in lines
    assert not any(line.startswith("| d |") for line in lines)


def test_a_second_run_goes_on_where_the_first_ended(tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def measure(name: str, family: str, settings: session.Settings, parts: list[str]) -> session.Record:
        measured.append(name)
        record = {"name": name, "family": family, "settings": json.loads(json.dumps(vars(settings)))}
        return record | ({"error": "Broken: it broke"} if len(measured) == 2 else {})

    monkeypatch.setattr("benchmarks.__main__.measure", measure)
    other = write_model(tmp_path / "other.onnx", [helper.make_node("Relu", ["x"], ["y"])])
    arguments = ("--models", f"{good},{other}", "--threads", "1", "--no-memory")
    assert invoke(tmp_path / "out", *arguments).exit_code == 1
    assert measured == [str(good), str(other)]
    assert invoke(tmp_path / "out", *arguments).exit_code == 0
    assert measured == [str(good), str(other), str(other)]
    invoke(tmp_path / "out", *arguments, "--clock", "cpu")
    assert measured[3:] == [str(good), str(other)]
    invoke(tmp_path / "out", *arguments, "--clock", "cpu", "--fresh")
    assert measured[5:] == [str(good), str(other)]


@pytest.mark.parametrize(("option", "value"), [("--models", "resnet51"), ("--families", "huge"), ("--threads", "one")])
def test_unknown_names_are_refused(tmp_path: Path, option: str, value: str) -> None:
    result = invoke(tmp_path, option, value)
    assert result.exit_code == 2
    assert repr(value) in result.output


def test_a_missing_file_is_a_record_with_a_sentence(tmp_path: Path) -> None:
    settings = session.Settings((1,), 0.01, 1)
    assert session.measure(f"{tmp_path}/none.onnx", "file", settings)["error"] == f"there is no file {tmp_path}/none.onnx"


def test_a_process_that_hangs_or_dies_is_an_error_of_its_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"stage": "time", "folder": str(tmp_path)}
    assert session._stage(job, limit=0.001) == {"error": "the stage time took longer than 0.001 s"}
    monkeypatch.setattr(session.sys, "executable", "/bin/false")
    assert session._stage(job, limit=10) == {"error": "the process of the stage time ended with status 1: it printed nothing"}


def record(name: str, ours: float, theirs: dict[str, float], family: str = "small", **more: object) -> dict[str, Any]:
    engines = {engine: {"median_s": seconds, "min_s": seconds} for engine, seconds in theirs.items()}
    return {
        "name": name,
        "family": family,
        "threads": {"1": {"loopnest": {"median_s": ours, "min_s": ours}, **engines}},
        "settings": {"threads": [1]},
        "flops": 5_000_000,
        "arena_bytes": 1_500_000,
        "compile": {"seconds": 1.25},
        "kernels": 7,
        **more,
    }


MACHINE = {
    "processor": "A Processor",
    "cpus": 2,
    "isa": "avx2",
    "clock": "wall",
    "versions": {"onnxruntime": "1.0"},
    "peaks": [{"threads": 1, "gflops": 100.0, "gbps": 20.0}],
}


def test_ratio_is_the_best_peer_by_ours() -> None:
    assert ratio(record("a", 0.002, {"onnxruntime": 0.004, "openvino": 0.003}), 1) == pytest.approx(1.5)
    assert ratio(record("a", 0.002, {"onnxruntime": 0.004}), 1) == pytest.approx(2.0)
    assert ratio(record("a", 0.002, {}), 1) is None
    assert ratio(record("a", 0.002, {"onnxruntime": 0.004}), 2) is None
    assert ratio({"name": "a", "error": "broken"}, 1) is None


def test_the_report_has_means_rows_and_failures() -> None:
    records = [
        record("a", 0.001, {"onnxruntime": 0.002, "openvino": 0.004}),
        record("b", 0.001, {"onnxruntime": 0.0005}),
        record("c", 0.001, {"onnxruntime": 0.004}, family="large"),
        {"name": "d", "family": "large", "error": "ModelError: no such thing"},
    ]
    lines = report.markdown(MACHINE, records).splitlines()
    assert "| small | 2 | 1.00 |" in lines
    assert "| large | 2 | 4.00 |" in lines
    assert "| all | 4 | 1.59 |" in lines
    assert "| a | small | 1.000 | 2.000 | 4.000 | 2.00 | 5% | 1.50 | 1.2 | 7 |" in lines
    assert "| b | small | 1.000 | 0.500 | failed | 0.50 | 5% | 1.50 | 1.2 | 7 |" in lines
    assert "- `d`: ModelError: no such thing" in lines
    assert "A Processor, 2 CPUs, avx2; measured peak 100 GFLOP/s and 20 GB/s on 1 thread" in lines[0]


def test_targets_are_judged_by_what_was_measured() -> None:
    records = [
        record("vgg16", 0.1, {"onnxruntime": 0.2}, "classic", compile={"seconds": 9.0}),
        record("mobilenet_v2", 0.01, {"onnxruntime": 0.014}, "mobile"),
        record("mlp", 0.0002, {"onnxruntime": 0.0001}, "tiny", memory={"serving": {"loopnest": 3, "onnxruntime": 2}}),
        {"name": "bert_base_128", "family": "language", "error": "ModelError: no such thing"},
    ]
    found = {verdict.target: (verdict.measured, verdict.met) for verdict in targets.verdicts(records, 1)}
    assert found["geometric mean of all models: 1.30"] == ("1.12", False)
    assert found["no model under 1.00"] == ("1 of 3: mlp 0.50", False)
    assert found["VGG-16: 1.80"] == ("2.00", True)
    assert found["ResNet-50: 1.25"] == found["BERT-base at 128 tokens: 1.10"] == ("", None)
    assert found["models under 1 ms in the peers: none under 1.50"] == ("1 of 1: mlp 0.50", False)
    assert found["batch of 8: none under 1.00"] == ("", None)
    assert found["every model compiled in 8 s"] == ("vgg16 9.0", False)
    assert found["peak resident memory at most ONNX Runtime's"] == ("mlp 1.50", False)
    assert not any("by that on" in target for target in found)
    twice = {str(count): {"loopnest": {"median_s": seconds}} for count, seconds in ((1, 0.10), (2, 0.05))}
    scaled = {verdict.target: verdict.met for verdict in targets.verdicts([record("resnet50", 1, {}, threads=twice)], 2)}
    assert scaled["resnet50, time on one thread by that on 2: 1.85"] is True
    assert "| VGG-16: 1.80 | 2.00 | met |" in targets.markdown(records, 1)
    kernels = [("MatMul+Add", 1.0, 95_000_000), ("MatMul", 1.0, 85_000_000), ("Softmax", 7.0, 1)]
    times = [{"op": op, "ms": ms, "flops": flops} for op, ms, flops in kernels]
    of_peak = targets.verdicts([record("bert_base_128", 1, {}, kernel_times=times, peak_gflops=100.0)], 1)
    assert targets.Verdict("bert_base_128, MatMul at its best, of peak: 0.93", "0.90", False) in of_peak


def test_kernels_stand_next_to_their_roofline() -> None:
    kernel = {
        "op": "Conv",
        "layout": "NCHW8c",
        "nodes": "first\n second",
        "calls": 3,
        "ms": 0.99,
        "flops": 49_500_000,
        "bytes": 100,
    }
    moving = {**kernel, "op": "Add", "ms": 0.3, "flops": 1, "bytes": 3_000_000}
    small = {**kernel, "op": "Relu", "ms": 0.01}
    measured = record("a", 0.001, {}, kernel_times=[kernel, moving, small], peak_gflops=200.0)
    records = [measured, {**record("b", 1.0, {}), "error": "broken"}]
    lines = report.kernels_markdown(MACHINE, records).splitlines()
    assert "| Conv | NCHW8c | 3 | 0.990 | 76.2% | 50.0 | 0.0 | 25% | `first second` |" in lines
    assert "| Add | NCHW8c | 3 | 0.300 | 23.1% | 0.0 | 10.0 | 50% | `first second` |" in lines
    assert "### a, 200 GFLOP/s" in lines
    assert len([line for line in lines if line.startswith("| ")]) == 4  # header, rule, two kernels


def test_what_a_call_costs_is_measured_for_each_way_to_call() -> None:
    ways = overhead.calls()
    for call in ways.values():
        np.testing.assert_array_equal(np.reshape(call(), -1), -np.arange(16))
    found = overhead.microseconds(ways, 10, 2)
    assert found.keys() == ways.keys()
    assert all(0.01 < time < 1e5 for time in found.values())


def test_a_wrong_result_is_an_error() -> None:
    engines = {"loopnest": {}, "onnxruntime": {"difference": 2e-4}, "openvino": {"difference": 0.0}}
    assert (
        session._wrong({"threads": {"2": engines}})
        == "wrong result on 2 thread(s): 2.0e-04 of the largest value from onnxruntime"
    )
    engines["onnxruntime"] = {"difference": float("nan")}
    assert session._wrong({"threads": {"1": engines}}) is not None
    engines["onnxruntime"] = {"error": "it cannot"}
    assert session._wrong({"threads": {"1": engines}}) is None


def test_the_drawing_has_a_dot_a_ratio() -> None:
    records = [
        record("a<b", 0.001, {"onnxruntime": 0.002}),
        record("c", 0.004, {"onnxruntime": 0.001}),
        {"name": "d", "family": "x"},
    ]
    drawing = ET.fromstring(plot.svg(records))
    space = "{http://www.w3.org/2000/svg}"
    dots = [circle for circle in drawing.iter(f"{space}circle") if circle.find(f"{space}title") is not None]
    assert [dot.find(f"{space}title").text for dot in dots] == ["a<b, 1 thread: 2.00", "c, 1 thread: 0.25"]
    assert float(dots[0].get("cx")) > float(dots[1].get("cx"))
    assert plot.svg([]).startswith("<svg")


def test_the_table_of_definitions_is_what_the_files_define() -> None:
    folder = Path(models.__file__).parent
    assert {file.stem for file in folder.glob("*.py")} == {*models.FILES, "common", "__init__"}
    for name, listed in models.FILES.items():
        tree = ast.parse((folder / f"{name}.py").read_text())
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
        assert {node.name for node in functions} == set(listed)
        imports = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert ("transformers" in imports) == (name in models.TRANSFORMERS)


def test_the_catalog_has_the_families_and_every_definition() -> None:
    entries = catalog.all_entries()
    assert len(entries) >= 40
    families = (
        "classic",
        "mobile",
        "modern",
        "vision",
        "dense",
        "generation",
        "audio",
        "language",
        "tiny",
        "trained",
        "batch8",
    )
    assert {entry.family for entry in entries.values()} == set(families)
    covered = {name for name in models.NAMES for entry in entries if entry.startswith(name)}
    assert set(models.NAMES) - covered == {"gpt2_block"}  # which is for tests


def test_the_copy_kernel_copies() -> None:
    from benchmarks import machine

    target = resolve("cpu")
    lanes = target.lanes(32)
    memory = machine._aligned(np.arange(16 * lanes + 16, dtype=np.float32))
    expected = memory[: 8 * lanes].copy()
    machine._compiled(machine._copy_program(lanes), "copy", target)(memory.ctypes.data, 8)
    assert np.array_equal(memory[8 * lanes : 16 * lanes], expected)
    assert np.array_equal(memory[: 8 * lanes], expected)
