"""Artifacts: what is saved runs elsewhere as it did here; what is damaged, foreign or too new is refused."""

from __future__ import annotations

import gc
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto
from onnx.helper import make_node

import loopnest
from loopnest.compiler.cli import main
from loopnest.compiler.cli.precompile import _turns
from loopnest.ir.errors import ArtifactError, IncompatibleArtifactError, InputError, KernelError
from loopnest.runtime import container, driver, loaded
from loopnest.runtime.artifact import Artifact
from loopnest.runtime.model import CompiledModel
from tests.graphs import make_model, tensor, values


def network() -> CompiledModel:
    """Two convolutions and a matrix product, for any batch."""
    nodes = [
        make_node("Conv", ["x", "w1", "b1"], ["a"], pads=[1, 1, 1, 1]),
        make_node("Relu", ["a"], ["b"]),
        make_node("GlobalAveragePool", ["b"], ["c"]),
        make_node("Flatten", ["c"], ["d"]),
        make_node("Gemm", ["d", "w2", "b2"], ["e"]),
        make_node("Softmax", ["e"], ["y"]),
    ]
    weights = {"w1": values(16, 3, 3, 3), "b1": values(16), "w2": values(16, 10, seed=1), "b2": values(10)}
    return loopnest.compile(make_model(nodes, {"x": ("N", 3, 12, 12)}, ["y"], weights), threads=2)


def images(n: int) -> np.ndarray:
    return values(n, 3, 12, 12, seed=n)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, np.ndarray]]:
    """An artifact with plans for batches of 1 and 3, and what the model makes of ``images`` of them."""
    f = network()
    results = {n: np.asarray(f(images(n))) for n in (1, 3)}
    path = tmp_path_factory.mktemp("artifact") / "model.lnest"
    f.save(path)
    return path, results


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("verify", [False, True])
def test_what_is_loaded_computes_the_same(saved: tuple[Path, dict[int, np.ndarray]], threads: int, verify: bool) -> None:
    path, results = saved
    f = loopnest.load(path, threads=threads, verify=verify)
    assert [str(spec) for spec in f.inputs] == ["x: float32[N, 3, 12, 12]"]
    for _ in range(2):
        for n, expected in results.items():
            np.testing.assert_array_equal(f(images(n)), expected)
            np.testing.assert_array_equal(f(x=np.asfortranarray(images(n))), expected)
            np.testing.assert_array_equal(f.run(["y"], {"x": images(n)})[0], expected)
    y = np.zeros((3, 10), np.float32)
    assert f.bind(images(3), out=y).run() is y
    np.testing.assert_array_equal(y, results[3])
    assert f.profile(images(1), repeat=2).steps
    assert len(f.plans) == 2


def test_another_process_needs_neither_the_compiler_nor_numba_nor_onnx(saved: tuple[Path, dict[int, np.ndarray]]) -> None:
    path, results = saved
    code = f"""
import sys
import numpy as np, loopnest
f = loopnest.load({str(path)!r})
np.save({str(path.with_name("y.npy"))!r}, f(np.load({str(path.with_name("x.npy"))!r})))
heavy = [name for name in sys.modules if name.split(".")[0] in ("numba", "onnx", "rich", "click")]
heavy += [name for name in sys.modules if name.startswith(("loopnest.compiler", "loopnest.codegen"))]
assert not heavy, heavy
"""
    np.save(path.with_name("x.npy"), images(3))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(path.with_name("y.npy")), results[3])


def test_shapes_that_are_not_in_it_are_refused_with_a_list(saved: tuple[Path, dict[int, np.ndarray]]) -> None:
    f = loopnest.load(saved[0])
    with pytest.raises(InputError, match=r"no plan for x=\[2, 3, 12, 12\].* it has x=\[1, 3, 12, 12\]; x=\[3, 3, 12, 12\]"):
        f(images(2))
    with pytest.raises(InputError, match="has dtype float64, expected float32"):
        f(images(1).astype(np.float64))


def test_values_that_decide_shapes_are_part_of_it(tmp_path: Path) -> None:
    nodes = [make_node("Reshape", ["x", "shape"], ["y"])]
    f = loopnest.compile(make_model(nodes, {"x": [6], "shape": tensor("shape", [2], TensorProto.INT64)}, ["y"]))
    x = np.arange(6, dtype=np.float32)
    f(x, np.array([2, 3])), f(x, np.array([3, 2]))
    f.save(tmp_path / "m")
    g = loopnest.load(tmp_path / "m")
    for shape in ((2, 3), (3, 2)):
        np.testing.assert_array_equal(g(x, np.array(shape)), x.reshape(shape))
    with pytest.raises(InputError, match="or for the values that decide shapes"):
        g(x, np.array([6, 1]))


def test_errors_of_kernels_still_name_the_node(tmp_path: Path) -> None:
    inputs = {"x": [4], "i": tensor("i", [1], TensorProto.INT64)}
    f = loopnest.compile(make_model([make_node("Gather", ["x", "i"], ["y"], name="pick")], inputs, ["y"]))
    f.save(tmp_path / "m")
    g = loopnest.load(tmp_path / "m")
    with pytest.raises(KernelError, match="pick"):
        g(np.zeros(4, np.float32), np.array([9]))


def test_an_artifact_can_be_saved_again(saved: tuple[Path, dict[int, np.ndarray]], tmp_path: Path) -> None:
    path, results = saved
    loopnest.load(path).save(tmp_path / "again")
    np.testing.assert_array_equal(loopnest.load(tmp_path / "again")(images(3)), results[3])
    assert (tmp_path / "again").stat().st_size == path.stat().st_size
    assert [item.name for item in tmp_path.iterdir()] == ["again"]


def test_weights_are_mapped_on_cache_lines_and_shared_by_plans(saved: tuple[Path, dict[int, np.ndarray]]) -> None:
    path, _ = saved
    f = loopnest.load(path)
    f(images(1)), f(images(3))
    first, second = (plan.native.constants for plan in f.plans)  # type: ignore[attr-defined]
    assert [a.ctypes.data for a in first] == [b.ctypes.data for b in second]
    assert all(blob.ctypes.data % 64 == 0 and not blob.flags.owndata and not blob.flags.writeable for blob in first)
    del f
    gc.collect()
    assert all(np.isfinite(blob.view(np.float32)).all() for blob in first)


def test_what_cannot_be_saved_says_why(tmp_path: Path) -> None:
    f = loopnest.compile(make_model([make_node("Relu", ["x"], ["y"])], {"x": ["N"]}, ["y"]))
    with pytest.raises(ArtifactError, match="the model has no plan yet: call it"):
        f.save(tmp_path / "m")
    f(np.zeros(3, np.float32))
    with pytest.raises(ArtifactError, match="cannot write the artifact .*No such file or directory"):
        f.save(tmp_path / "nowhere" / "m")
    g = loopnest.compile(make_model([make_node("NonZero", ["x"], ["n"]), make_node("Neg", ["n"], ["y"])], {"x": [4]}, ["y"]))
    with pytest.raises(ArtifactError, match="parts of it run in Python"):
        g.save(tmp_path / "m")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["missing", "."])
def test_files_that_cannot_be_read(missing: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot read the artifact"):
        loopnest.load(tmp_path / missing)


def damaged(path: Path, tmp_path: Path, change: Callable[[bytearray], bytes | bytearray]) -> Path:
    copy = tmp_path / "damaged.lnest"
    copy.write_bytes(change(bytearray(path.read_bytes())))
    return copy


def test_every_truncation_is_refused(saved: tuple[Path, dict[int, np.ndarray]], tmp_path: Path) -> None:
    nbytes = saved[0].stat().st_size
    for length in (0, 1, 11, 40, 60, 500, 4096, nbytes // 3, nbytes // 2, nbytes - 4096, nbytes - 1):
        copy = damaged(saved[0], tmp_path, lambda data, n=length: data[:n])
        with pytest.raises(ArtifactError, match="truncated|damaged|empty|not a loopnest artifact"):
            loopnest.load(copy)


def test_a_flipped_bit_is_found_in_every_region(saved: tuple[Path, dict[int, np.ndarray]], tmp_path: Path) -> None:
    path, results = saved
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    places = [0, 13, 20, 50, 60, *(int(at) for at in random.integers(0, len(whole), 60))]
    for at in places:

        def flip(data: bytearray, at: int = at) -> bytearray:
            data[at] ^= 1 << int(random.integers(0, 8))
            return data

        copy = damaged(path, tmp_path, flip)
        try:
            f = loopnest.load(copy)
        except ArtifactError:
            continue
        np.testing.assert_array_equal(f(images(3)), results[3])  # padding between the sections


def test_no_damaged_code_is_linked(
    saved: tuple[Path, dict[int, np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither when code nor when weights are damaged, which the driver finds: its code is sound then."""

    def never(*_: Any) -> None:
        raise AssertionError("linked")

    monkeypatch.setattr(loaded, "link", never)
    read = Artifact.read(saved[0])
    for section, verify in (("code", False), ("programs", False), ("weights", True)):
        name = read.parts[0].entry.get(section, section)
        view = bytes(read.container.views[name][:64])

        def flip(data: bytearray, view: bytes = view) -> bytearray:
            data[data.rindex(view)] ^= 1
            return data

        with monkeypatch.context() as patched, pytest.raises(ArtifactError, match=f"damaged: .*{section}.* does not match"):
            if section != "weights":
                patched.setattr(driver, "bring", never)
            loopnest.load(damaged(saved[0], tmp_path, flip), verify=verify)


def rewritten(path: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], number: int = container.FORMAT) -> Path:
    """The artifact with another manifest, whose checksum is right."""
    data = path.read_bytes()
    _, _, _, nbytes = container.HEADER.unpack_from(data)
    start = container.HEADER.size
    manifest = json.loads(data[start : start + nbytes])
    change(manifest)
    text = json.dumps(manifest).encode()
    head = container.HEADER.pack(container.MAGIC, number, hashlib.sha256(text).digest(), len(text)) + text
    rest = data[start + nbytes + -(start + nbytes) % 4096 :]
    copy = tmp_path / "rewritten.lnest"
    copy.write_bytes(head + bytes(-len(head) % 4096) + rest)
    return copy


def test_another_processor_is_refused(saved: tuple[Path, dict[int, np.ndarray]], tmp_path: Path) -> None:
    def want(manifest: dict[str, Any]) -> None:
        manifest["isas"][0]["features"] += ["avx1024", "amx-quantum"]

    with pytest.raises(IncompatibleArtifactError, match="this machine lacks amx-quantum, avx1024"):
        loopnest.load(rewritten(saved[0], tmp_path, want))

    def elsewhere(manifest: dict[str, Any]) -> None:
        manifest["isas"][0]["arch"] = "riscv64"

    with pytest.raises(IncompatibleArtifactError, match="this machine lacks the riscv64 architecture"):
        loopnest.load(rewritten(saved[0], tmp_path, elsewhere))


def test_a_newer_format_is_refused(saved: tuple[Path, dict[int, np.ndarray]], tmp_path: Path) -> None:
    def newer(manifest: dict[str, Any]) -> None:
        manifest["format"], manifest["needs"] = 99, "9.1"

    with pytest.raises(
        ArtifactError, match=r"format 99, which needs loopnest 9\.1; this is loopnest .*, which reads formats up to 3"
    ):
        loopnest.load(rewritten(saved[0], tmp_path, newer, 99))


PARTS = ["inputs", "outputs", "isas", "blobs", "sections", "value_inputs", "name"]
PARTS += [
    "isas.kernels",
    "isas.plans",
    "isas.code",
    "isas.programs",
    "isas.driver",
    "isas.features",
    "isas.arch",
    "isas.plans.0",
]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("value", [None, 7, [], "text", [{}], {"a": 1}])
def test_a_malformed_manifest_is_refused(
    saved: tuple[Path, dict[int, np.ndarray]], tmp_path: Path, part: str, value: object
) -> None:
    """When it is loaded, or else at the first call; what nobody needs to read makes no difference."""

    def spoil(manifest: Any) -> None:
        *way, last = part.split(".")
        for name in way:
            manifest = manifest["isas"][0] if name == "isas" else manifest[name]
        manifest[int(last) if last.isdigit() else last] = value

    path = rewritten(saved[0], tmp_path, spoil)
    try:
        f = loopnest.load(path)
        results = {n: f(images(n)) for n in (1, 3)}
    except (ArtifactError, InputError):
        return
    assert part in ("value_inputs", "name", "isas.driver", "isas.features")
    for n, result in results.items():
        np.testing.assert_array_equal(result, saved[1][n])


def test_the_text_says_what_is_in_it(saved: tuple[Path, dict[int, np.ndarray]]) -> None:
    text = Artifact.read(saved[0]).as_text()
    for part in (f"format {container.FORMAT}", "x: float32[N, 3, 12, 12]", "bytes of weights", "2 plans", "x=[3, 3, 12, 12]"):
        assert part in text


def test_the_commands(tmp_path: Path) -> None:
    path, out = tmp_path / "m.onnx", tmp_path / "m.lnest"
    model = make_model([make_node("Add", ["x", "y"], ["z"])], {"x": ("N", 3), "y": ("N", 3)}, ["z"])
    path.write_bytes(model.SerializeToString())
    shapes = [f"--shape={shape}" for shape in ("x=2,3", "x=5,3", "y=2,3", "y=5,3")]
    done = CliRunner().invoke(main, ["precompile", str(path), "-o", str(out), *shapes])
    assert done.exit_code == 0, done.output
    assert "2 plans" in done.output
    f = loopnest.load(out)
    for n in (2, 5):
        np.testing.assert_array_equal(f(np.ones((n, 3), np.float32), np.ones((n, 3), np.float32)), np.full((n, 3), 2))
    shown = CliRunner().invoke(main, ["artifact", "show", str(out)])
    assert "x=[5, 3], y=[5, 3]" in shown.output
    assert CliRunner().invoke(main, ["artifact", "verify", str(out)]).output.endswith("sound, and runs on this machine\n")
    out.write_bytes(out.read_bytes()[:-1])
    refused = CliRunner().invoke(main, ["artifact", "verify", str(out)])
    assert refused.exit_code == 2
    assert "is truncated" in refused.output


def test_shapes_of_several_inputs_are_taken_in_turns() -> None:
    assert _turns([]) == [[]]
    assert _turns([("x", (1,)), ("y", (5,)), ("x", (8,))]) == [[("x", (1,)), ("y", (5,))], [("x", (8,)), ("y", (5,))]]
