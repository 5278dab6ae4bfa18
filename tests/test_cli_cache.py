"""``loopnest cache``: what is there, what is missing and why, and how to make room."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from onnx import helper as oh

import loopnest
from loopnest.compiler.cli import main
from loopnest.compiler.cli.cache import size_text
from loopnest.runtime.driver import driver
from tests.graphs import make_model, values


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["cache", *map(str, arguments)])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """``y = relu(x @ w)``, z = max over its rows."""
    nodes = [
        oh.make_node("MatMul", ["x", "w"], ["a"], name="product"),
        oh.make_node("Relu", ["a"], ["y"], name="positive"),
        oh.make_node("ReduceMax", ["y"], ["z"], name="largest", axes=[1]),
    ]
    path = tmp_path / "model.onnx"
    model = make_model(nodes, {"x": ["n", 200]}, ["y", "z"], {"w": values(200, 160)})
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(autouse=True)
def plans_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    driver()  # so that none of these caches needs one
    monkeypatch.delenv("LOOPNEST_VERIFY", raising=False)


@pytest.fixture
def filled(model: Path, tmp_path: Path) -> Path:
    """A cache that holds the kernels, weights and plan of ``model``."""
    loopnest.compile(model, shapes={"x": (2, 200)}, config={"cache_dir": str(tmp_path / "cache")})
    return tmp_path / "cache"


def test_show(filled: Path) -> None:
    text = call("show", "--dir", filled, "--kernels").output
    total = sum(path.stat().st_size for path in filled.rglob("*") if path.is_file())
    assert text.splitlines()[0] == f"{filled}: {size_text(total)}"
    assert re.search(r"^kernels +2 +\d+\.\d KB +\d{4}-\d\d-\d\d \d\d:\d\d +\d{4}", text, re.MULTILINE)
    assert re.search(r"^weights +1 +1\d\d\.\d KB", text, re.MULTILINE)
    # the plan and its interface; what LLVM says of this machine, if this process was the first to ask
    assert re.search(r"^plans +[23] +\d+\.\d KB", text, re.MULTILINE)
    assert re.search(r"^[0-9a-f]{12} +\d+\.\d KB .* MatMul\+Relu$", text, re.MULTILINE)
    assert re.search(r"^[0-9a-f]{12} +\d+\.\d KB .* ReduceMax$", text, re.MULTILINE)


def test_show_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = call("show", "--dir", tmp_path / "nowhere").output
    assert re.search(r"^kernels +0 +0 B$", text, re.MULTILINE)
    assert not (tmp_path / "nowhere").exists()
    monkeypatch.setattr("loopnest.runtime.cache.default_directory", lambda: None)
    loopnest.runtime.cache.open_cache.cache_clear()
    with pytest.warns(loopnest.runtime.cache.CacheWarning):
        failed = call("show")
    loopnest.runtime.cache.open_cache.cache_clear()
    assert (failed.exit_code, "LOOPNEST_CACHE_DIR or --dir" in failed.output) == (2, True)


def test_explain(model: Path, filled: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in filled.rglob("*") if path.is_file()}
    known = call("explain", model, "--dir", filled, "--shape", "2,200").output
    assert known == "the plan is in the cache\n2 kernels: 2 in the cache, 0 not\n"
    other = call("explain", model, "--dir", filled, "--shape", "2,200", "--target", "cpu-generic").output.splitlines()
    assert other[0].startswith("the plan is not in the cache: target differs: ")
    assert other[1] == "2 kernels: 0 in the cache, 2 not"
    assert other[2].startswith("target differs: ")
    assert [line.split(maxsplit=1)[1] for line in other[3:]] == ["MatMul+Relu of product + positive", "ReduceMax of largest"]
    empty = call("explain", model, "--dir", tmp_path / "empty", "--shape", "2,200").output.splitlines()
    assert (empty[0], empty[2]) == ("the plan is not in the cache: the cache has no plans", "the cache is empty:")
    config = tmp_path / "config.toml"
    config.write_text(f"cache_dir = '{filled}'\nfuse = false\n")
    tuned = call("explain", model, "--config", config, "--shape", "2,200").output.splitlines()
    assert tuned[0].startswith("the plan is not in the cache: options differs: ")
    assert tuned[1] == "3 kernels: 1 in the cache, 2 not"
    assert tuned[2].startswith("source differs: line ")
    shape = call("explain", model, "--dir", filled, "--shape", "3,200").output.splitlines()
    assert shape[0].startswith("the plan is not in the cache: shapes differs: ")
    assert {path: path.stat().st_mtime_ns for path in filled.rglob("*") if path.is_file()} == before, "asking is no use"
    assert not (tmp_path / "empty").exists()


def test_explain_needs_shapes(model: Path, filled: Path) -> None:
    failed = call("explain", model, "--dir", filled)
    assert (failed.exit_code, "--shape" in failed.output) == (2, True)


def test_prune_and_clear(filled: Path) -> None:
    assert "0 B removed" in call("prune", "--dir", filled, "--max-size", "1.5GB").output
    assert len(list((filled / "weights").iterdir())) == 1
    text = call("prune", "--dir", filled, "--max-size", "20 KB").output
    assert re.search(r"1\d\d\.\d KB removed, \d+\.\d KB left$", text)
    assert list((filled / "weights").iterdir()) == []
    assert re.search(r"\d+\.\d KB removed$", call("clear", "--dir", filled).output)
    assert not [path for path in filled.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("text", "nbytes"), [("0", 0), ("10", 10), ("1k", 1000), ("500MB", 500_000_000), ("1.5 GB", 1_500_000_000)]
)
def test_sizes(text: str, nbytes: int, tmp_path: Path) -> None:
    assert call("prune", "--dir", tmp_path, "--max-size", text).exit_code == 0
    assert re.sub(r"[ .]", "", size_text(nbytes).upper()).startswith(str(nbytes)[:2].rstrip("0") or "0")


@pytest.mark.parametrize("text", ["", "MB", "-5", "5 XB", "1e9"])
def test_what_is_no_size(text: str, tmp_path: Path) -> None:
    failed = call("prune", "--dir", tmp_path, "--max-size", text)
    assert failed.exit_code == 2 and "is not a size such as" in failed.output
