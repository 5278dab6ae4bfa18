"""Artifacts for several instruction sets and many shapes, in a file or a folder, of older formats, and added to."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import ModelProto
from onnx.helper import make_node

import loopnest
from loopnest.codegen.target import resolve
from loopnest.compiler import precompile as ahead
from loopnest.compiler.cli import main
from loopnest.compiler.staged import Stage
from loopnest.ir.errors import ArtifactError, IncompatibleArtifactError, InputError, ModelError, TargetError
from loopnest.runtime import isa
from loopnest.runtime.artifact import Artifact
from loopnest.runtime.artifact_text import difference
from tests.graphs import make_model, onnxruntime, values

FIXTURES = Path(__file__).parent / "fixtures"
HOST = ahead.sorted_isas([known.name for known in ahead.ISAS if known.arch == ahead.host_isa().arch])
RUNNABLE = [name for name in HOST if resolve(f"cpu-{name}").runs_here]


def network() -> ModelProto:
    nodes = [
        make_node("Gemm", ["x", "w1", "b1"], ["a"]),
        make_node("Relu", ["a"], ["b"]),
        make_node("Gemm", ["b", "w2", "b2"], ["y"]),
    ]
    weights = {"w1": values(12, 16), "b1": values(16), "w2": values(16, 10, seed=1), "b2": values(10)}
    return make_model(nodes, {"x": ("batch", 12)}, ["y"], weights)


def rows(n: int) -> np.ndarray:
    return values(n, 12, seed=n)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the model, for batches of 1 and 3 and every instruction set that there is."""
    path = tmp_path_factory.mktemp("several") / "model.lnest"
    loopnest.precompile(network(), path, dims={"batch": (1, 3)}, isa=["cpu-sse2", "neon", "avx512", "avx2"], with_model=True)
    return path


def pretend(monkeypatch: pytest.MonkeyPatch, folder: Path, arch: str, *features: str, linux: bool = False) -> None:
    """This machine as one with such a processor, as ``linux`` or only LLVM says."""
    import llvmlite.binding as llvm

    flags = folder / "cpuinfo"
    names = [isa.LINUX_NAMES[feature] for feature in features]
    flags.write_text(f"processor\t: 0\nflags\t\t: {' '.join(names) if linux else ''}\n\nprocessor\t: 1\nflags: avx512f\n")
    monkeypatch.setattr(isa, "CPUINFO", flags)
    monkeypatch.setattr(isa.platform, "machine", lambda: arch)
    monkeypatch.setattr(llvm, "get_host_cpu_features", lambda: {} if linux else dict.fromkeys(features, True))


def test_what_this_machine_lacks_is_compiled_and_stored(several: Path) -> None:
    artifact = Artifact.read(several)
    assert [part.isa.name for part in artifact.parts] == ["avx512", "avx2", "sse2", "neon"]
    artifact.verify()
    code = {part.isa.name: bytes(artifact.container.views[f"code-{part.isa.name}"][:20]) for part in artifact.parts}
    assert {name: data[18] for name, data in code.items()} == {"avx512": 62, "avx2": 62, "sse2": 62, "neon": 183}  # e_machine


@pytest.mark.parametrize("linux", [False, True])
@pytest.mark.parametrize("name", RUNNABLE)
def test_the_best_instruction_set_that_the_machine_has_is_used(
    several: Path, name: str, linux: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    part = next(part for part in Artifact.read(several).parts if part.isa.name == name)
    pretend(monkeypatch, tmp_path, part.isa.arch, *part.isa.features, linux=linux)
    f = loopnest.load(several)
    assert f.isa == part.isa
    for n in (1, 3):
        np.testing.assert_allclose(f(rows(n)), onnxruntime(network(), {"x": rows(n)})[0], rtol=1e-4, atol=1e-5)


def test_a_machine_that_can_run_none_is_told_what_it_lacks(
    several: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(monkeypatch, tmp_path, "x86_64", "avx", "fma")
    expected = (
        "is compiled for avx512, and this machine lacks avx2, .*; for avx2, and this machine lacks avx2, .*; "
        "for sse2, and this machine lacks sse2; for neon, and this machine lacks the aarch64 architecture"
    )
    with pytest.raises(IncompatibleArtifactError, match=expected):
        loopnest.load(several)


def test_linux_and_llvm_agree_on_what_the_processor_has() -> None:
    import llvmlite.binding as llvm

    flags, host = isa.linux_flags(), llvm.get_host_cpu_features()
    for feature in {feature for known in ahead.ISAS for feature in known.requires} if flags else ():
        assert (isa.LINUX_NAMES[feature] in flags) == host.get(feature, False), feature
    for feature, name in isa.LINUX_NAMES.items():
        assert name not in flags or host.get(feature, feature == "neon"), feature


def test_weights_that_are_equal_are_stored_once(several: Path) -> None:
    artifact = Artifact.read(several)
    used = [{number for plan in part.plans for number in plan["constants"]} for part in artifact.parts]
    assert set.intersection(*used)
    assert len({blob["sha256"] for blob in artifact.manifest["blobs"]}) == len(artifact.manifest["blobs"])


def test_code_for_another_machine_is_not_run_here() -> None:
    foreign = next(known.name for known in ahead.ISAS if resolve(f"cpu-{known.name}").missing)
    with pytest.raises(TargetError, match="cannot run"):
        loopnest.compile(network(), target=f"cpu-{foreign}")
    planner = ahead.LazyPlanner(network(), ahead.Setup.of(f"cpu-{foreign}", ahead.Config(), foreign=True))
    f = ahead.unplanned(planner.interface, planner, planner.setup, planner.report)
    with pytest.raises(TargetError, match=f"compiled for {foreign}, and this machine lacks"):
        f(rows(1))
    with pytest.raises(TargetError, match="this machine lacks"):
        f.profile(rows(1))
    with pytest.raises(TargetError, match="this machine lacks"):
        f.bind(rows(1))


def test_plans_for_other_machines_are_kept_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPNEST_VERIFY", "0")
    foreign = [known.name for known in ahead.ISAS if resolve(f"cpu-{known.name}").missing]
    for name in ("first", "second"):
        loopnest.precompile(network(), tmp_path / name, isa=foreign, config={"cache_dir": str(tmp_path / "cache")})
        if name == "first":
            monkeypatch.setattr(Stage, "make", None)  # the second time, nothing is planned
    assert difference(Artifact.read(tmp_path / "first"), Artifact.read(tmp_path / "second")) == []


@pytest.mark.parametrize("number", [1, 2])
def test_an_artifact_of_an_older_format_still_loads(number: int) -> None:
    """Written by the version that had it, for any x86-64 machine: y = relu(x w1 + b1) w2 + b2 with small integers."""

    def integers(*shape: int) -> np.ndarray:
        return (np.arange(np.prod(shape)) % 7 - 3).astype(np.float32).reshape(shape)

    path = FIXTURES / f"format{number}.lnest"
    Artifact.read(path).verify()
    if not Artifact.read(path).parts[0].isa.is_host_architecture():
        with pytest.raises(IncompatibleArtifactError, match="lacks the x86_64 architecture"):
            loopnest.load(path)
        return
    f = loopnest.load(path)
    for n in (1, 5):
        hidden = np.maximum(integers(n, 4) @ integers(4, 8) + integers(8), 0)
        np.testing.assert_array_equal(f(integers(n, 4)), hidden @ integers(8, 3) + integers(3))
    assert f"format {number}, written by loopnest 0.1.0" in Artifact.read(path).as_text()


def test_damage_to_an_artifact_of_format_1_is_found(tmp_path: Path) -> None:
    whole = (FIXTURES / "format1.lnest").read_bytes()
    read = Artifact.read(FIXTURES / "format1.lnest")
    for name in ("code", "weights"):
        copy = bytearray(whole)
        copy[whole.index(bytes(read.container.views[name][:200]))] ^= 4
        (tmp_path / "m").write_bytes(copy)
        with pytest.raises(ArtifactError, match=f"its section {name} does not match"):
            Artifact.read(tmp_path / "m").verify()


def test_it_can_be_a_folder(several: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for shape in ((1, 12), (2, 12)):  # the second takes the place of the first
        loopnest.precompile(network(), folder, shapes={"x": shape}, unpacked=True)
        f = loopnest.load(folder)
        np.testing.assert_allclose(f(rows(shape[0])), loopnest.compile(network())(rows(shape[0])), rtol=1e-6)
    assert [item.name for item in tmp_path.iterdir()] == ["model"]
    name = ahead.host_isa().name
    assert sorted(item.name for item in folder.iterdir()) == [f"code-{name}", "manifest", f"programs-{name}", "weights"]
    weights = folder / "weights"
    weights.write_bytes(bytes(weights.stat().st_size))
    with pytest.raises(ArtifactError, match="of its weights does not match its checksum"):
        loopnest.load(folder)
    weights.write_bytes(b"")
    with pytest.raises(ArtifactError, match="is truncated: weights ends at byte"):
        loopnest.load(folder)
    weights.unlink()
    with pytest.raises(ArtifactError, match="cannot read the artifact .*No such file"):
        loopnest.load(folder)


def test_no_other_folder_gives_way(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ArtifactError, match="cannot write the artifact .*mine': Directory not empty"):
        loopnest.precompile(network(), tmp_path / "mine", unpacked=True)
    assert [item.name for item in tmp_path.rglob("*")] == ["mine", "letter.txt"]


@pytest.mark.parametrize("name", ["../elsewhere", "/etc/passwd", "manifest", "", ".hidden"])
def test_sections_are_files_of_the_folder(name: str, tmp_path: Path) -> None:
    from loopnest.runtime import container

    manifest = {"format": container.FORMAT, "sections": [{"name": name, "nbytes": 0, "sha256": None}]}
    text = json.dumps(manifest).encode()
    head = container.HEADER.pack(container.MAGIC, container.FORMAT, hashlib.sha256(text).digest(), len(text))
    (tmp_path / "manifest").write_bytes(head + text)
    with pytest.raises(ArtifactError, match="is damaged: ValueError: a section"):
        Artifact.read(tmp_path)


def test_other_shapes_are_compiled_when_that_is_allowed(several: Path, tmp_path: Path) -> None:
    """The compiler is imported when the first one comes up, and plans that were made are kept by ``save``."""
    code = f"""
import sys
import numpy as np, loopnest
f = loopnest.load({str(several)!r}, allow_compile=True)
heavy = lambda: sorted({{"numba", "onnx"}} & {{name.split(".")[0] for name in sys.modules}})
f(np.zeros((3, 12), np.float32))
assert not heavy(), heavy()
assert f(np.zeros((2, 12), np.float32)).shape == (2, 10)
assert "onnx" in heavy()
f.save({str(tmp_path / "more.lnest")!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    f = loopnest.load(tmp_path / "more.lnest")
    np.testing.assert_allclose(f(rows(2)), onnxruntime(network(), {"x": rows(2)})[0], rtol=1e-4, atol=1e-5)
    lines = difference(Artifact.read(several), Artifact.read(tmp_path / "more.lnest"))
    name = ahead.host_isa().name
    assert f"+ {name} shape x=[2, 12]" in lines
    assert not [line for line in lines if line.startswith("-") or not line.startswith(f"+ {name} ")]


def test_the_model_may_lie_beside_it(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(network().SerializeToString())
    f = loopnest.compile(model)
    f(rows(1))
    f.save(tmp_path / "m.lnest")
    with pytest.raises(ArtifactError, match="has no model to compile other shapes from"):
        loopnest.load(tmp_path / "m.lnest", allow_compile=True)
    g = loopnest.load(tmp_path / "m.lnest", allow_compile=True, model=model, config={"conv": "direct"})
    np.testing.assert_allclose(g(rows(2)), f(rows(2)), rtol=1e-5, atol=1e-6)
    other = make_model([make_node("Relu", ["x"], ["z"])], {"x": ("N",)}, ["z"])
    h = loopnest.load(tmp_path / "m.lnest", allow_compile=True, model=other)
    np.testing.assert_array_equal(h(rows(1)), f(rows(1)))
    with pytest.raises(ArtifactError, match="has other inputs or outputs"):
        h(rows(2))
    f.save(tmp_path / "with.lnest", model=model)
    np.testing.assert_array_equal(loopnest.load(tmp_path / "with.lnest", allow_compile=True)(rows(5)), f(rows(5)))
    with pytest.raises(ModelError, match="cannot read the model"):
        f.save(tmp_path / "with.lnest", model=tmp_path / "missing.onnx")


def test_shapes_from_dims() -> None:
    inputs = loopnest.compile(
        make_model([make_node("MatMul", ["x", "y"], ["z"])], {"x": ("n", "k"), "y": ("k", 4)}, ["z"])
    ).inputs

    def shapes(given: Any, dims: Any) -> list[Any]:
        return [(chosen["x"], chosen["y"]) for chosen in ahead.plan_shapes(inputs, given, dims)]

    assert shapes({}, {}) == [((1, 1), (1, 4))]
    assert shapes({"x": (2, 3)}, {}) == [((2, 3), (3, 4))]
    assert shapes({}, {"n": range(1, 3), "k": 5}) == [((1, 5), (5, 4)), ((2, 5), (5, 4))]
    with pytest.raises(InputError, match="no input has a dim 'm'; their dims are k, n"):
        shapes({}, {"m": 1})
    with pytest.raises(InputError, match="the model has no input 'z'; it has x, y"):
        shapes({"z": (1,)}, {})


def test_kernels_are_shared_by_shapes(tmp_path: Path) -> None:
    model = make_model([make_node("Relu", ["x"], ["y"])], {"x": ("n", 64)}, ["y"])
    loopnest.precompile(model, tmp_path / "m", dims={"n": range(8, 40)})
    part = Artifact.read(tmp_path / "m").parts[0]
    assert len(part.plans) == 32
    assert len(part.entry["kernels"]) <= 2
    f = loopnest.load(tmp_path / "m")
    assert not f.plans  # each is made runnable when it is called for
    for n in (8, 39):
        np.testing.assert_array_equal(f(values(n, 64)), np.maximum(values(n, 64), 0))
    assert len(f.plans) == 2


def test_values_that_decide_shapes_must_be_given(tmp_path: Path) -> None:
    from onnx import TensorProto

    from tests.graphs import tensor

    inputs = {"x": [6], "shape": tensor("shape", [2], TensorProto.INT64)}
    model = make_model([make_node("Reshape", ["x", "shape"], ["y"])], inputs, ["y"])
    with pytest.raises(InputError, match="the value of input shape: int64.* decides shapes or control flow: give it"):
        loopnest.precompile(model, tmp_path / "m")
    loopnest.precompile(model, tmp_path / "m", inputs={"shape": [3, 2]})
    assert np.shape(loopnest.load(tmp_path / "m")(np.zeros(6, np.float32), np.array([3, 2]))) == (3, 2)


def run(*arguments: object, status: int = 0) -> str:
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == status, done.output
    return done.output


def test_the_commands(tmp_path: Path) -> None:
    model, first, second = tmp_path / "m.onnx", tmp_path / "a.lnest", tmp_path / "b.lnest"
    model.write_bytes(network().SerializeToString())
    shown = run("precompile", model, "-o", first, "--dim", "batch=1..2", "--isa", ",".join(HOST[-2:]), "--with-model")
    assert shown.count("x=[2, 12]") == len(HOST[-2:])
    run("precompile", model, "-o", second, "--dim", "batch=1,2", "--isa", ",".join(HOST[-2:]), "--with-model")
    assert run("artifact", "diff", first, second) == ""
    added = run("artifact", "add-shape", second, "--shape", "3,12")
    assert added.count("x=[3, 12]") == len(HOST[-2:])
    changes = run("artifact", "diff", first, second, status=1)
    assert f"+ {HOST[-1]} shape x=[3, 12]" in changes.splitlines()
    assert "sound, and runs on this machine" in run("artifact", "verify", second)
    run("precompile", model, "-o", first, "--unpacked", status=2)  # a file is no folder that may be replaced
    run("precompile", model, "-o", tmp_path / "folder", "--unpacked", "--dim", "batch=1")
    assert "has no model in it: say --model" in run("artifact", "add-shape", tmp_path / "folder", "--dim", "batch=2", status=2)
    run("artifact", "add-shape", tmp_path / "folder", "--dim", "batch=2", "--model", model)
    assert loopnest.load(tmp_path / "folder")(rows(2)).shape == (2, 10)  # type: ignore[union-attr]
    assert "expected a dim and its extents" in run("precompile", model, "-o", first, "--dim", "batch=x", status=2)


NEEDED = """
import sys
from importlib.machinery import PathFinder

ALLOWED = {"numpy", "llvmlite", "loopnest"}

class Blocked:
    @staticmethod
    def find_spec(name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in ALLOWED:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Blocked)
import numpy as np, loopnest
"""


def blocked(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", NEEDED + code], capture_output=True, text=True, timeout=60, check=False)


def test_loading_needs_numpy_and_llvmlite_alone(several: Path) -> None:
    code = f"""
f = loopnest.load({str(several)!r})
assert f(np.zeros((1, 12), np.float32)).shape == (1, 10)
assert not [name for name in sys.modules if name.startswith("llvmlite")] or sys.platform != "linux", "LLVM was loaded"
f.bind(np.zeros((1, 12), np.float32)).run()
f.profile(np.zeros((1, 12), np.float32), repeat=1)
print(f, f.plans)
try:
    f(np.zeros((7, 12), np.float32))
except loopnest.InputError as error:
    assert "it has x=[1, 12]; x=[3, 12]" in str(error)
"""
    done = blocked(code)
    assert done.returncode == 0, done.stderr


def test_what_numpy_has_no_dtype_for_needs_ml_dtypes(tmp_path: Path) -> None:
    from onnx import TensorProto

    from tests.graphs import tensor

    model = make_model([make_node("Neg", ["x"], ["y"])], {"x": tensor("x", [4], TensorProto.BFLOAT16)}, ["y"])
    loopnest.precompile(model, tmp_path / "m")
    done = blocked(f"loopnest.load({str(tmp_path / 'm')!r})")
    assert "blocked: ml_dtypes" in done.stderr


def _private(folder: Path, path: Path, code: str) -> int:
    """Bytes of memory that a second process has for itself after ``code``, while a first one lives, from its part of the first's file."""
    script = folder / "share.py"
    script.write_text(code)
    first = subprocess.Popen([sys.executable, script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        first.stdout.readline()
        second = subprocess.run(
            [sys.executable, script, path], input="", capture_output=True, text=True, timeout=60, check=True
        )
    finally:
        first.communicate("", timeout=60)
    return int(second.stdout)


SHARING = """
import re, sys
import numpy as np, loopnest
def used():
    maps = open("/proc/self/smaps").read()
    found = re.findall(r"^[0-9a-f]+-.* (\\S*model\\.lnest)$(.*?)^VmFlags", maps, re.M | re.S)
    return sum(int(n) * 1024 for _, part in found for n in re.findall(r"^Private_(?:Clean|Dirty): +(\\d+) kB", part, re.M))
f = loopnest.load(sys.argv[1], threads=1)
f(np.zeros((1, 2048), np.float32))
print(used(), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the kernel does not say which pages are shared")
def test_a_second_process_shares_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.lnest"
    model = make_model([make_node("MatMul", ["x", "w"], ["y"])], {"x": (1, 2048)}, ["y"], {"w": values(2048, 2048)})
    loopnest.precompile(model, path)
    assert _private(tmp_path, path, SHARING) < 0.1 * 2048 * 2048 * 4
