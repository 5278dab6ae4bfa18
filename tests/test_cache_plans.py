"""Plans on disk: a process that finds one behaves as if it had made it, and takes none that is not its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.external_data_helper
import onnx.helper as oh
import pytest

import loopnest
from loopnest.codegen import host
from loopnest.compiler import build, content, kept, kept_host
from loopnest.runtime.cache import CacheWarning
from loopnest.runtime.driver import driver
from loopnest.runtime.files import CacheFiles
from tests.graphs import make_model, tensor, values

Compile = Callable[..., loopnest.CompiledModel]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    driver()  # or the first test would find it in its cache
    host.host()
    for name in ("LOOPNEST_DUMP", "LOOPNEST_VERIFY"):
        monkeypatch.delenv(name, raising=False)


def network(extent: int | str = 3, seed: int = 0) -> onnx.ModelProto:
    """Rows of an embedding, a matrix product and a pointwise operator: constants in the plan, in files as they are, and packed."""
    constants = {
        "table": values(300, 160, seed=seed),
        "w": values(160, 200, seed=seed + 1),
        "b": values(200, seed=seed + 2),
    }
    nodes = [
        oh.make_node("Gather", ["table", "ids"], ["a"], name="embedding"),
        oh.make_node("MatMul", ["a", "w"], ["c"], name="product"),
        oh.make_node("Add", ["c", "b"], ["d"], name="bias"),
        oh.make_node("Tanh", ["d"], ["y"], name="squash"),
    ]
    return make_model(nodes, {"ids": tensor("ids", (extent,), onnx.TensorProto.INT64)}, ["y"], constants)


def expected(ids: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.tanh(values(300, 160, seed=seed)[ids] @ values(160, 200, seed=seed + 1) + values(200, seed=seed + 2))


def files_of(directory: Path, folder: str) -> list[Path]:
    return sorted((directory / "cache" / folder).glob("*.*"))


IDS = np.array([5, 299, 0])


def check(f: loopnest.CompiledModel, seed: int = 0) -> None:
    np.testing.assert_allclose(f(IDS), expected(IDS, seed), rtol=1e-4, atol=1e-5)


# --- what is found ----------------------------------------------------------------------------------------------------------------------


def test_a_plan_that_is_found_is_the_plan_that_was_made(compiled: Compile, reads: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(network().SerializeToString())
    first, second = compiled(path), compiled(path)
    assert len(reads) == 1
    assert (second.inputs, second.outputs, second.name, second.isa) == (first.inputs, first.outputs, first.name, first.isa)
    (mine,), (theirs,) = first.plans, second.plans
    assert mine.native.program == theirs.native.program  # type: ignore[attr-defined]
    assert str(second).splitlines()[:-1] == str(first).splitlines()[:-1]
    report = second.compile_report
    assert (report.compiled, report.found) == (0, len(mine.native.program.kernels))  # type: ignore[attr-defined]
    assert set(report.seconds) == {"cache", "link"}
    np.testing.assert_array_equal(second(IDS), first(IDS))
    assert [step.name for step in second.profile(repeat=1).steps] == [step.name for step in first.profile(repeat=1).steps]
    second.save(tmp_path / "saved.lnest")
    check(loopnest.load(tmp_path / "saved.lnest"))
    with pytest.raises(loopnest.KernelError, match=r"embedding.*300"):
        second(np.array([1, 300, 2]))
    with pytest.raises(loopnest.InputError, match="extent 4 in dim 0"):
        second(np.zeros(4, np.int64))


def test_where_constants_are(compiled: Compile, tmp_path: Path) -> None:
    """The embedding and the packed weight are files, the bias is in the plan."""
    compiled(network())
    check(compiled(network()))
    packed, table = sorted(path.stat().st_size for path in files_of(tmp_path, "weights"))
    assert (packed > 1 << 16, table) == (True, 4 * 300 * 160 + 4096)
    assert len(files_of(tmp_path, "plans")) == 2
    assert max(path.stat().st_size for path in files_of(tmp_path, "plans")) < 20_000


def test_a_path_bytes_and_a_proto_are_one_model(compiled: Compile, reads: list[Any], tmp_path: Path) -> None:
    data = network().SerializeToString(deterministic=True)
    (tmp_path / "a.onnx").write_bytes(data)
    (tmp_path / "copy.onnx").write_bytes(data)
    for model in (tmp_path / "a.onnx", str(tmp_path / "copy.onnx"), data, onnx.load_from_string(data)):
        check(compiled(model))
    assert len(reads) == 1


def test_a_shape_that_is_new_is_planned_then(compiled: Compile, reads: list[Any]) -> None:
    model = network("n")
    check(compiled(model))
    second = compiled(model)
    assert second.plans == ()
    check(second)
    assert (len(reads), second.compile_report.compiled) == (1, 0)
    ids = np.arange(7)
    np.testing.assert_allclose(second(ids), expected(ids), rtol=1e-4, atol=1e-5)
    assert len(reads) == 2
    check(second)
    third = compiled(model)
    np.testing.assert_allclose(third(ids), expected(ids), rtol=1e-4, atol=1e-5)
    check(third)
    assert len(reads) == 2
    assert len(third.plans) == 2


def test_a_relative_path_means_what_it_meant(compiled: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.onnx").write_bytes(network("n").SerializeToString())
    monkeypatch.chdir(tmp_path)
    compiled("model.onnx")(IDS)
    f = compiled("model.onnx")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    np.testing.assert_allclose(f(np.arange(7)), expected(np.arange(7)), rtol=1e-4, atol=1e-5)


def test_a_proto_that_is_changed_afterwards_is_not_what_is_planned(compiled: Compile) -> None:
    compiled(network("n"))(IDS)
    model = network("n")
    f = compiled(model)
    del model.graph.node[:]
    np.testing.assert_allclose(f(np.arange(7)), expected(np.arange(7)), rtol=1e-4, atol=1e-5)


def test_inputs_whose_values_decide_are_kept_by_value(compiled: Compile, reads: list[Any]) -> None:
    inputs = {"x": (2, 6), "shape": tensor("shape", (2,), onnx.TensorProto.INT64)}
    model = make_model([oh.make_node("Reshape", ["x", "shape"], ["y"])], inputs, ["y"])
    x = values(2, 6)
    compiled(model)(x, np.array([3, 4]))
    second = compiled(model)
    assert second(x, np.array([3, 4])).shape == (3, 4)  # type: ignore[union-attr]
    assert (len(reads), second.value_inputs) == (1, (1,))
    assert second(x, np.array([4, 3])).shape == (4, 3)  # type: ignore[union-attr]
    assert len(reads) == 2


def test_a_model_without_inputs(compiled: Compile, reads: list[Any]) -> None:
    node = oh.make_node("RandomUniform", [], ["y"], shape=[2, 3], seed=1.0)
    first, second = (compiled(make_model([node], {}, ["y"])) for _ in range(2))
    np.testing.assert_array_equal(first(), second())
    assert len(reads) == 1


# --- what is not kept -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [{"cache": False}, {"verify": True}, {"dump": "DUMP"}])
def test_who_wants_to_see_or_verify_stages_gets_them(
    compiled: Compile, reads: list[Any], tmp_path: Path, config: dict[str, Any]
) -> None:
    config = {key: str(tmp_path / "dump") if value == "DUMP" else value for key, value in config.items()}
    check(compiled(network(), config=config))
    assert files_of(tmp_path, "plans") == []
    check(compiled(network()))
    check(compiled(network(), config=config))
    if "dump" in config:
        names = [path.name[4:] for path in (tmp_path / "dump").iterdir()]
        assert names.count("program.txt") == names.count("report.txt") == 2
    else:
        assert len(reads) == 1 + 2


def test_what_the_host_has_a_part_in_is_planned_each_time(compiled: Compile, reads: list[Any], tmp_path: Path) -> None:
    body = oh.make_graph([oh.make_node("Neg", ["x"], ["n"])], "then", [], [tensor("n", None)])
    same = oh.make_graph([oh.make_node("Identity", ["x"], ["s"])], "else", [], [tensor("s", None)])
    nodes = [
        oh.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        oh.make_node("Cast", ["sum"], ["any"], to=onnx.TensorProto.BOOL),
        oh.make_node("If", ["any"], ["y"], then_branch=body, else_branch=same),
    ]
    decided = make_model(nodes, {"x": (4,)}, ["y"])
    drawn = make_model([oh.make_node("RandomUniform", [], ["y"], shape=[8])], {}, ["y"])
    for _ in range(2):
        x = np.array([0, 1, 0, 1], np.float32)
        np.testing.assert_array_equal(compiled(decided)(x), -x)
        f = compiled(drawn)
        assert not np.array_equal(f(), f())  # type: ignore[arg-type]
    assert len(reads) == 4
    assert len(files_of(tmp_path, "plans")) == 2, "what goes in and out is known"


def test_errors_come_each_time(compiled: Compile, tmp_path: Path) -> None:
    unknown = make_model(
        [oh.make_node("Frobnicate", ["x"], ["y"], domain="com.example")], {"x": (3,)}, ["y"], domains={"com.example": 1}
    )
    for _ in range(2):
        with pytest.raises(loopnest.UnsupportedOperatorError, match="Frobnicate"):
            compiled(unknown)
        with pytest.raises(loopnest.ModelError, match="cannot read the model file"):
            compiled(tmp_path / "missing.onnx")
        with pytest.raises(loopnest.ModelError, match="not an ONNX model"):
            compiled(b"no model")
        with pytest.raises(loopnest.ModelError, match="a model is a path"):
            compiled(3)
        with pytest.raises(loopnest.InputError, match="does not fit input 'ids'"):
            compiled(network("n"), shapes={"ids": (3, 4)})
        with pytest.raises(loopnest.InputError, match="expected extents"):
            compiled(network("n"), shapes={"ids": ("n",)})
        with pytest.raises(loopnest.ConfigError, match="unknown node"):
            compiled(network(), config={"node": {"produkt": {"fuse": False}}})
        with pytest.raises(loopnest.TargetError):
            compiled(network(), target="cpu-neon")
        check(compiled(network("n"), shapes={"ids": (3,)}))


def test_a_model_too_large_for_the_cache(compiled: Compile, reads: list[Any], tmp_path: Path) -> None:
    constants = {"table": values(1000, 300)}
    model = make_model(
        [oh.make_node("Gather", ["table", "i"], ["y"])], {"i": tensor("i", (2,), onnx.TensorProto.INT64)}, ["y"], constants
    )
    for _ in range(2):
        np.testing.assert_array_equal(compiled(model, config={"cache_bytes": 1 << 20})(IDS[:2]), constants["table"][IDS[:2]])
    assert len(reads) == 2
    assert files_of(tmp_path, "weights") == []


# --- keys -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    ["weights", "shapes", "target", "sources", "numba", "options", "tuned"],
)
def test_what_makes_another_plan(compiled: Compile, reads: list[Any], monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    compiled(network("n"), shapes={"ids": (3,)})
    options: dict[str, Any] = {"shapes": {"ids": (3,)}}
    seed = 0
    if change == "weights":
        seed = 10
    elif change == "shapes":
        options = {"shapes": {"ids": (4,)}}
    elif change == "target":
        options["target"] = "cpu-sse2"
    elif change == "sources":
        monkeypatch.setattr(kept, "source_fingerprint", lambda **_: "edited")
    elif change == "numba":
        monkeypatch.setattr(kept, "version_of", lambda name: {"numba": "99"}.get(name, "1"))
    elif change == "options":
        options["config"] = {"node": {"product": {"fuse": False}}}
    else:
        options["config"] = {"tuned": {"another processor": {"MatMul": {"unroll": 2}}}}
    f = compiled(network("n", seed), **options)
    assert len(reads) == 2
    ids = np.arange(4) if change == "shapes" else IDS
    np.testing.assert_allclose(f(ids), expected(ids, seed), rtol=1e-4, atol=1e-5)


def test_threads_are_no_part_of_a_plan(compiled: Compile, reads: list[Any], tmp_path: Path) -> None:
    x = values(1 << 18)
    model = make_model([oh.make_node("Add", ["x", "x"], ["y"])], {"x": (1 << 18,)}, ["y"])
    config = {"cache_dir": str(tmp_path / "cache")}
    compiled(model)
    f = loopnest.compile(model, config=config, threads=2)
    assert (f.profile(x, repeat=1).workers, len(reads)) == (2, 1)


def test_a_file_with_the_same_times_and_size_is_another_model(compiled: Compile, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for seed in (0, 10):
        path.write_bytes(network(seed=seed).SerializeToString())
        os.utime(path, (1e9, 1e9))
        check(compiled(path), seed)


def external(path: Path, seed: int = 0) -> None:
    """The network with its weights in a file of their own."""
    path.with_name("weights.bin").unlink(missing_ok=True)
    onnx.save(network(seed=seed), path, save_as_external_data=True, location="weights.bin", size_threshold=0)


def test_external_data_is_part_of_the_model(compiled: Compile, reads: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    main: set[bytes] = set()
    for seed in (0, 10, 0):
        external(path, seed)
        os.utime(tmp_path / "weights.bin", (1e9, 1e9))
        main.add(path.read_bytes())
        before = len(reads)
        check(compiled(path), seed)
        check(compiled(path), seed)
        assert len(reads) - before == 1
    assert len(main) == 1, "only the weights differ"
    os.replace(tmp_path / "weights.bin", tmp_path / "elsewhere.bin")
    with pytest.raises(loopnest.ModelError, match="not a file in the model's folder"):
        compiled(path)
    (tmp_path / "weights.bin").symlink_to("/dev/null")
    with pytest.raises(loopnest.ModelError, match=r"outside the model's folder"):
        compiled(path)


def test_files_that_are_too_large_are_not_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they hold would find no room in the cache."""
    path = tmp_path / "model.onnx"
    hashed: list[Path] = []
    part = content.FileContent._part

    def counting(file: content.FileContent, start: int) -> bytes:
        hashed.append(file.path)
        return part(file, start)

    monkeypatch.setattr(content.FileContent, "_part", counting)
    external(path)
    assert content.Content.of(path, 100) is None
    assert hashed == []
    main = content.Content(path, 100_000)
    assert main.external(["weights.bin"]) is None
    assert main.digest
    assert hashed == [path]
    assert content.Content(path, 10**6).external(["weights.bin"])
    assert hashed[-1] == tmp_path / "weights.bin"


def test_a_model_that_changes_while_it_is_used_is_an_error_where_it_matters(compiled: Compile, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(network("n").SerializeToString())
    compiled(path)(IDS)
    f = compiled(path)
    path.write_bytes(network("n", seed=10).SerializeToString())
    check(f)
    with pytest.raises(loopnest.ModelError, match=r"model.onnx.* compile it again"):
        f(np.arange(7))
    check(f)
    check(compiled(path), seed=10)


def test_a_model_that_changes_while_it_is_compiled_is_not_kept(
    compiled: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its digest is of other bytes than those that were read, or so it may be."""
    path = tmp_path / "model.onnx"
    path.write_bytes(network().SerializeToString())
    read = build.read

    def writing(*arguments: Any) -> Any:
        path.write_bytes(network(seed=10).SerializeToString())
        return read(*arguments)

    monkeypatch.setattr(build, "read", writing)
    check(compiled(path), seed=10)
    assert files_of(tmp_path, "plans") == []


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 3000, 3500])
def test_digests_of_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """A file and its bytes have one digest, which any byte, and the size, decides."""
    monkeypatch.setattr(content, "_PART", 1000)
    monkeypatch.setattr(content, "_CHUNK", 300)
    data = np.random.default_rng(0).bytes(size)
    seen: set[str | None] = set()
    variants = [data, data + b"\0", *(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(0, size, 499))]
    for variant in variants:
        (tmp_path / "file").write_bytes(variant)
        digests = {content.Content(variant).digest, content.Content(tmp_path / "file").digest}
        assert len(digests) == 1
        seen |= digests
    assert len(seen) == len(variants)


def test_a_file_that_changed_twice_within_the_resolution_of_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    for settled in (False, True):
        path.write_bytes(b"one")
        monkeypatch.setattr(content, "_SETTLED_NS", -(10**18) if settled else 10**18)
        file = content.FileContent(path)
        assert file.digest
        monkeypatch.setattr(content, "_status", lambda _, status=file._status: status)
        assert file.is_unchanged()
        path.write_bytes(b"two")
        assert file.is_unchanged() == settled
        monkeypatch.undo()
        path.unlink()
        assert not file.is_unchanged()


# --- damage -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped", "foreign", "swapped"])
def test_a_damaged_plan_is_made_again(compiled: Compile, reads: list[Any], tmp_path: Path, how: str) -> None:
    compiled(network())
    paths = files_of(tmp_path, "plans")
    contents = [path.read_bytes() for path in paths]
    for at, (path, data) in enumerate(zip(paths, contents, strict=True)):
        changed = {
            "truncated": data[: len(data) // 2],
            "empty": b"",
            "flipped": data[:-1] + bytes([data[-1] ^ 1]),
            "foreign": b"#!/bin/sh\n" * 20,
            "swapped": contents[1 - at],
        }
        path.write_bytes(changed[how])
    with pytest.warns(CacheWarning, match="ignored the cache entry") as caught:
        check(compiled(network()))
    assert (len(caught), len(reads)) == (1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(compiled(network()))
    assert len(reads) == 2


@pytest.mark.parametrize("folder", ["kernels", "weights", "plans"])
def test_a_plan_of_which_something_is_gone_is_made_again(
    compiled: Compile, reads: list[Any], tmp_path: Path, folder: str
) -> None:
    compiled(network())
    for path in files_of(tmp_path, folder):
        before = path.read_bytes()
        path.unlink()
        check(compiled(network()))
        assert path.read_bytes()[:16] == before[:16]
    assert len(reads) == 1 + len(files_of(tmp_path, folder))


def test_a_plan_that_says_something_else_is_none(compiled: Compile, reads: list[Any], tmp_path: Path) -> None:
    """Sound by its checksum, and not as this version writes it."""
    from loopnest.runtime import plans

    compiled(network())
    for path in files_of(tmp_path, "plans"):
        form = next(form for form in (plans._PLAN, plans._INTERFACE) if path.read_bytes().startswith(form.magic))
        record = form.decode(path.read_bytes())
        path.write_bytes(b"".join(form.encode(record.key, {name: {"steps": 3} for name in record.fields}, ())))
    with pytest.warns(CacheWarning, match="malformed"):
        check(compiled(network()))
    assert len(reads) == 2


def test_a_directory_that_cannot_be_written_is_read(
    compiled: Compile, monkeypatch: pytest.MonkeyPatch, reads: list[Any]
) -> None:
    compiled(network())

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(CacheFiles, "_write", refuse)
    check(compiled(network()))
    assert len(reads) == 1
    with pytest.warns(CacheWarning, match="Permission denied"):
        check(compiled(network(seed=10)), seed=10)


def test_threads_that_compile_at_once(compiled: Compile) -> None:
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(compiled(network())(IDS))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for result in results:
        np.testing.assert_array_equal(result, results[0])
    check(compiled(network()))


LIGHT = """
import sys
import numpy as np, loopnest
from loopnest.runtime import driver
emit = driver.emit_ir
driver.emit_ir = lambda text: print("driver") or emit(text)
f = loopnest.compile(sys.argv[1], config={"cache_dir": sys.argv[2]})
print(f(np.array([5, 299, 0])).sum())
print(*sorted({"onnx", "numba", "loopnest.compiler.plan", "loopnest.compiler.frontend", "loopnest.ir.loops"} & set(sys.modules)))
print("llvmlite" in sys.modules)
"""


def test_a_new_process_imports_neither_onnx_nor_llvm_nor_the_compiler(compiled: Compile, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(network().SerializeToString())
    compiled(path)
    command = [sys.executable, "-W", "error", "-c", LIGHT, str(path), str(tmp_path / "cache")]
    first, second = (subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout for _ in range(2))
    compiled_driver, *lines = first.splitlines()
    assert compiled_driver == "driver", "by the first process that needs it"
    assert lines[-1] == "True", "which asks LLVM what this machine is, too"
    assert second.splitlines()[:-1] == lines[:-1]
    total, imported, loaded = second.splitlines()
    assert imported == ""
    assert loaded == "False" or (sys.platform, platform.machine()) != ("linux", "x86_64")
    assert float(total) == pytest.approx(expected(IDS).sum(), rel=1e-3)


# --- what LLVM says of this machine -----------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., host.Host]:
    """What a new process takes this machine for, with a cache of this test, if LLVM and the system say so."""

    def take(said: str, identity: str | None = "a processor") -> host.Host:
        monkeypatch.setattr(host, "_known", list[host.Host]())
        monkeypatch.setattr("llvmlite.binding.get_host_cpu_name", lambda: said)
        monkeypatch.setattr(kept_host, "processor_identity", lambda: identity)
        kept_host.bring_host(CacheFiles(tmp_path / "cache", 1 << 20))
        return host.host()

    return take


def test_llvm_is_asked_once_for_each_processor(asked: Callable[..., host.Host], monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked("first").cpu == "first"
    assert asked("second") == asked("first")
    assert asked("second", "another processor").cpu == "second"
    assert asked("third", None).cpu == "third", "nobody says which processor it is"
    assert asked("third").cpu == "first"
    monkeypatch.setattr(kept_host, "version_of", lambda package: "99")
    assert asked("third").cpu == "third", "another LLVM may have another name for it"


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data.replace(b"first", b"frist"), lambda data: b""])
def test_llvm_is_asked_again_where_what_it_said_is_damaged(
    asked: Callable[..., host.Host], tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    asked("first")
    (file,) = files_of(tmp_path, "plans")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.warns(CacheWarning, match="made again"):
        assert asked("second").cpu == "second"
    assert asked("third").cpu == "second"


def test_a_record_of_the_machine_with_other_fields_is_damaged(
    asked: Callable[..., host.Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_host, "asdict", lambda said: {"triple": "x", "cpu": 1, "features": ""})
    asked("first")
    with pytest.warns(CacheWarning, match="made again"):
        assert asked("second").cpu == "second"
