"""What happens to artifacts in the field: kill -9 while one is written, damage in every region, full disks, planted links, replacement."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx.helper import make_node

import loopnest
from loopnest.ir.errors import ArtifactError
from loopnest.runtime import container, container_writing
from loopnest.runtime.container import Container
from tests.faults import NOBODY, as_root, damages, posix, python, short_and_long
from tests.graphs import make_model, values

X = values(2, 30)


def network(seed: int, columns: int = 40) -> Any:
    """A matrix product and a softmax, with other weights for each ``seed``."""
    nodes = [make_node("MatMul", ["x", "w"], ["a"]), make_node("Softmax", ["a"], ["y"])]
    return make_model(nodes, {"x": [2, 30]}, ["y"], {"w": values(30, columns, seed=seed)})


def saved(folder: Path, columns: int) -> list[tuple[Path, np.ndarray]]:
    """Two artifacts of the same interface and size, and what they compute."""
    made: list[tuple[Path, np.ndarray]] = []
    for seed in range(2):
        f = loopnest.compile(network(seed, columns), threads=2)
        f.save(folder / f"{seed}.lnest")
        made.append((folder / f"{seed}.lnest", np.asarray(f(X))))
    return made


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, np.ndarray]]:
    return saved(tmp_path_factory.mktemp("pair"), 40)


def regions(path: Path) -> dict[str, range]:
    """The regions of an artifact, as its reader finds them: the header, the manifest, each section, what pads them to pages."""
    data, (*_, nbytes) = path.read_bytes(), container.HEADER.unpack_from(path.read_bytes())
    start, end = container.HEADER.size, container.HEADER.size + nbytes
    found = {"magic": range(len(container.MAGIC)), "header": range(len(container.MAGIC), start), "manifest": range(start, end)}
    for name, section in Container.read(path).sections.items():
        begin = end + -end % container.PAGE
        found[f"padding before {name}"] = range(end, begin)
        end = begin + section.nbytes
        found[name] = range(begin, end)
    assert end == len(data)
    return found


@short_and_long(2, 400)
def test_damage_in_any_region_is_refused_or_harmless(pair: list[tuple[Path, np.ndarray]], tmp_path: Path, turns: int) -> None:
    """Padding holds nothing: a bit in it changes nothing. The code is refused even by who leaves the weights unchecked."""
    path, expected = pair[0]
    seen = regions(path)
    assert {"magic", "manifest", "weights"} < seen.keys() and len(seen) > 8
    copy = tmp_path / "copy.lnest"
    for what, data in damages(path.read_bytes(), seen, seed=0, each=turns):
        copy.write_bytes(data)
        try:
            f = loopnest.load(copy)
        except ArtifactError as error:
            assert str(copy) in str(error), what
            assert "\n" not in str(error), what
        else:
            assert what.startswith("bit in padding"), what
            np.testing.assert_array_equal(f(X), expected)  # type: ignore[arg-type]
        if not what.startswith(("bit in padding", "bit in weights")):
            with pytest.raises(ArtifactError):
                loopnest.load(copy, verify=False)


TAMPERED = """
import sys
import loopnest
from loopnest.runtime import linker
linker.initialize()

def executable():
    lines = [line.split() for line in open("/proc/self/maps")]
    return [line[:2] for line in lines if "x" in line[1] and (len(line) == 5 or line[5].endswith(".lnest"))]

before = executable()
try:
    loopnest.load(sys.argv[1], verify=False)
except loopnest.ArtifactError as error:
    print(error)
print(len(executable()) - len(before))
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux's list of mappings")
@pytest.mark.parametrize("region", ["header", "manifest", "programs", "code"])
def test_tampering_is_found_before_any_code_is_mapped_executable(
    pair: list[tuple[Path, np.ndarray]], tmp_path: Path, region: str
) -> None:
    copy = tmp_path / "copy.lnest"
    data = bytearray(pair[0][0].read_bytes())
    (place,) = [part for name, part in regions(pair[0][0]).items() if name.startswith(region)]
    data[place[-1]] ^= 1
    copy.write_bytes(data)
    message, mapped = python(TAMPERED, copy).stdout.splitlines()
    assert "damaged" in message or "truncated" in message
    assert int(mapped) == 0
    assert int(python(TAMPERED, pair[0][0]).stdout) > 0, "a sound one is mapped"


def test_what_is_linked_is_what_was_checked(tmp_path: Path) -> None:
    """Plans are made runnable when they are first called for: code and programs that somebody writes into the file by then are not used."""
    model = network(0)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    f = loopnest.compile(model, threads=1)
    inputs = [values(n, 30, seed=n) for n in (1, 2, 16)]
    expected = [np.asarray(f(x)) for x in inputs]
    path = tmp_path / "m.lnest"
    f.save(path)
    g = loopnest.load(path, threads=1)
    np.testing.assert_array_equal(g(inputs[0]), expected[0])  # type: ignore[arg-type]
    with path.open("r+b") as file:
        for name, region in regions(path).items():
            if name.startswith(("code", "programs")):
                file.seek(region.start)
                file.write(b"\xcc" * len(region))
    for x, y in zip(inputs, expected, strict=True):
        np.testing.assert_array_equal(g(x), y)  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match="does not match its checksum"):
        loopnest.load(path)


KILLED = """
import sys, time
from pathlib import Path
import loopnest
from tests.faults import killed

folder, turns, unpacked = Path(sys.argv[1]), int(sys.argv[2]), bool(int(sys.argv[3]))
models = [loopnest.load(path, threads=1) for path in sys.argv[4:]]
target, left = folder / "model.lnest", 0

def write():
    for model in models:
        model.save(target, unpacked=unpacked)

def content(path):
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [(file.name if path.is_dir() else "", file.read_bytes()) for file in files]

wanted = []
for model in models:
    model.save(target, unpacked=unpacked)
    wanted.append(content(target))

write()
start = time.monotonic()
write()
span = time.monotonic() - start
for turn in range(turns):
    killed(write, span, seed=turn, warm=True)
    loopnest.load(target, threads=1)
    assert content(target) in wanted
    left += len(list(folder.iterdir())) > 1
models[0].save(target, unpacked=unpacked)
assert list(folder.iterdir()) == [target], list(folder.iterdir())
print(left)
"""


@posix
@short_and_long(8, 200)
@pytest.mark.parametrize("unpacked", [False, True])
def test_kill_9_while_saving(tmp_path: Path, turns: int, unpacked: bool) -> None:
    """Whoever loads finds the old artifact or the new one, whole; what was left half written goes with the next save."""
    for folder in ("models", "target"):
        (tmp_path / folder).mkdir()
    pair = saved(tmp_path / "models", 40_000)  # so large that it is mostly written when the time comes
    left = int(python(KILLED, tmp_path / "target", turns, int(unpacked), *(path for path, _ in pair)).stdout)
    assert turns < 100 or left, "some were killed in the middle"
    np.testing.assert_array_equal(loopnest.load(tmp_path / "target" / "model.lnest")(X), pair[0][1])  # type: ignore[arg-type]


@posix
def test_what_others_are_writing_is_not_taken_for_left(pair: list[tuple[Path, np.ndarray]], tmp_path: Path) -> None:
    """Neither files nor folders, as long as whoever made them lives; nor what only looks alike."""
    f = loopnest.load(pair[0][0])
    target, precious = tmp_path / "model.lnest", tmp_path / "precious"
    precious.write_text("mine")
    alike = [tmp_path / f".model.lnest.{name}.tmp" for name in ("0" * 15, "0" * 17, "x" * 16, f"{os.getpid()}.{'0' * 16}")]
    alike.append(tmp_path / f".model.lnest.{'1' * 16}.tmp")
    alike[-1].symlink_to(precious)
    for path in alike[:-1]:
        path.touch()
    (tmp_path / f".model.lnest.{'2' * 16}.tmp").touch()
    (tmp_path / f".model.lnest.{'3' * 16}.tmp" / "part").mkdir(parents=True)
    with (
        container_writing._temporary(target, folder=False) as (file, _),
        container_writing._temporary(target, folder=True) as (folder, _),
    ):
        f.save(target)
        assert {*tmp_path.iterdir()} == {target, precious, file, folder, *alike}
    assert {*tmp_path.iterdir()} == {target, precious, *alike}
    assert precious.read_text() == "mine"


@posix
def test_a_folder_where_names_cannot_be_exchanged(
    pair: list[tuple[Path, np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container_writing, "_exchange", lambda one, other: False)
    for path, expected in pair:
        loopnest.load(path).save(tmp_path / "model", unpacked=True)
        np.testing.assert_array_equal(loopnest.load(tmp_path / "model")(X), expected)  # type: ignore[arg-type]
        assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    "unpacked", [False, pytest.param(True, marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux"))]
)
def test_loading_while_others_are_saved(pair: list[tuple[Path, np.ndarray]], tmp_path: Path, unpacked: bool) -> None:
    """What is loaded is one of them, and stays it when its file or folder is replaced."""
    target = tmp_path / "model.lnest"
    models = [loopnest.load(path) for path, _ in pair]
    models[0].save(target, unpacked=unpacked)
    done, saved = threading.Event(), list[int]()

    def write() -> None:
        while not done.is_set():
            for number, model in enumerate(models):
                model.save(target, unpacked=unpacked)
                saved.append(number)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        loaded = [loopnest.load(target, threads=1) for _ in range(20)]
    finally:
        done.set()
        for writer in writers:
            writer.join()
    assert len(saved) > 2
    results = [np.asarray(f(X)) for f in loaded]
    assert all(any(np.array_equal(result, expected) for _, expected in pair) for result in results)
    assert [path.name for path in tmp_path.iterdir()] == ["model.lnest"]


def test_threads_that_load_at_once(pair: list[tuple[Path, np.ndarray]]) -> None:
    start, results = threading.Barrier(8), list[Any]()

    def load(number: int) -> None:
        start.wait()
        path, expected = pair[number % 2]
        results.append(np.array_equal(np.asarray(loopnest.load(path, threads=2)(X)), expected))

    threads = [threading.Thread(target=load, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 8


LIMITED = """
import resource, sys
import loopnest
f = loopnest.load(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    f.save(sys.argv[2])
except loopnest.ArtifactError as error:
    print(error)
"""


@posix
def test_a_save_that_finds_no_room_leaves_the_old_one(pair: list[tuple[Path, np.ndarray]], tmp_path: Path) -> None:
    target = tmp_path / "model.lnest"
    target.write_bytes(pair[0][0].read_bytes())
    assert "cannot write the artifact" in python(LIMITED, pair[1][0], target).stdout
    assert [path.name for path in tmp_path.iterdir()] == ["model.lnest"]
    np.testing.assert_array_equal(loopnest.load(target)(X), pair[0][1])  # type: ignore[arg-type]


@posix
def test_a_folder_without_permission(pair: list[tuple[Path, np.ndarray]], tmp_path: Path) -> None:
    f = loopnest.load(pair[0][0])
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o555)
    root = os.geteuid() == 0
    if root:
        for path in (tmp_path, *tmp_path.parents[:3]):
            path.chmod(path.stat().st_mode | 0o011)
        os.seteuid(NOBODY)
    try:
        with pytest.raises(ArtifactError, match="cannot write the artifact .*Permission denied"):
            f.save(folder / "model.lnest")
        with pytest.raises(ArtifactError, match="No such file or directory"):
            loopnest.load(folder / "model.lnest")
    finally:
        if root:
            os.seteuid(0)
    assert not list(folder.iterdir())


@as_root
@pytest.mark.parametrize("closed", ["file", "folder"])
def test_a_file_that_may_not_be_read(pair: list[tuple[Path, np.ndarray]], tmp_path: Path, closed: str) -> None:
    copy = tmp_path / "model.lnest"
    copy.write_bytes(pair[0][0].read_bytes())
    copy.chmod(0o600 if closed == "file" else 0o644)
    for path in (tmp_path, *tmp_path.parents[:3]) if closed == "file" else ():
        path.chmod(path.stat().st_mode | 0o011)
    os.seteuid(NOBODY)
    try:
        with pytest.raises(ArtifactError, match="cannot read the artifact .*Permission denied"):
            loopnest.load(copy)
    finally:
        os.seteuid(0)


@posix
def test_links_planted_beside_an_artifact_are_not_followed(pair: list[tuple[Path, np.ndarray]], tmp_path: Path) -> None:
    """In a folder where others may write: neither the name itself nor a name that could be guessed leads elsewhere."""
    f = loopnest.load(pair[0][0])
    precious, target = tmp_path / "precious", tmp_path / "model.lnest"
    precious.write_text("mine")
    target.symlink_to(precious)
    (tmp_path / f".model.lnest.{os.getpid()}.tmp").symlink_to(precious)
    f.save(target)
    assert precious.read_text() == "mine"
    assert not target.is_symlink()
    np.testing.assert_array_equal(loopnest.load(target)(X), pair[0][1])  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX special files")
def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null"), Path("/dev/zero"), tmp_path):
        with pytest.raises(ArtifactError, match="not a regular file|not a loopnest artifact|No such file|Is a directory"):
            loopnest.load(path)
