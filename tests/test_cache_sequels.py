"""Plans on disk of models whose data decides shapes: the program, what is cut off, and plans of the rest by the shapes that came out."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnxruntime
import pytest

import loopnest
from loopnest.compiler import lazy
from loopnest.runtime.chained import Chained
from loopnest.runtime.sequel import Cut, Rest, Sequel
from tests.graphs import make_model, tensor, values

Compile = Callable[..., loopnest.CompiledModel]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOOPNEST_DUMP", raising=False)
    monkeypatch.delenv("LOOPNEST_VERIFY", raising=False)


def constant(name: str, value: Any) -> onnx.NodeProto:
    return oh.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.asarray(value)))


def detector() -> onnx.ModelProto:
    """What detectors end with: rows above a threshold, their products with weights, then those of a second choice."""
    nodes = [
        constant("least", np.float32(0)),
        oh.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=0),
        oh.make_node("Greater", ["mean", "least"], ["wanted"]),
        oh.make_node("Compress", ["x", "wanted"], ["rows"], axis=0),
        oh.make_node("MatMul", ["rows", "w"], ["scores"]),
        oh.make_node("Greater", ["scores", "least"], ["high"]),
        oh.make_node("NonZero", ["high"], ["places"]),
        oh.make_node("Transpose", ["places"], ["pairs"], perm=[1, 0]),
        oh.make_node("GatherND", ["scores", "pairs"], ["found"]),
        oh.make_node("Add", ["mean", "mean"], ["twice"]),
    ]
    w = values(6, 5, seed=3)
    return make_model(nodes, {"x": ("n", 6)}, ["twice", "rows", "found", "pairs"], {"w": w}, opset=17)


def reference(model: onnx.ModelProto) -> Callable[..., list[Any]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))


def check(f: loopnest.CompiledModel, theirs: Callable[..., list[Any]], *arrays: np.ndarray) -> None:
    mine: Any = f(*arrays)
    for ours, other in zip(mine if isinstance(mine, tuple) else [mine], theirs(*arrays), strict=True):
        assert (ours.shape, ours.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(ours, other, rtol=1e-5, atol=1e-5)


def plans(folder: Path) -> int:
    return len(list((folder / "cache/plans").iterdir()))


ROWS = [values(n, 6, seed=n) for n in (1, 8, 17)]


def test_what_is_planned_behind_data_is_found_too(compiled: Compile, reads: list[Any]) -> None:
    model = detector()
    theirs = reference(model)
    first = compiled(model)
    for x in ROWS:
        check(first, theirs, x)
    second = compiled(model)
    for x in (*ROWS, *ROWS):
        check(second, theirs, x)
    assert len(reads) == 1
    assert second.compile_report.compiled == 0
    assert all(isinstance(plan, Chained) for plan in (*first.plans, *second.plans))
    (_, *between, last) = second.plans[-1].as_text().splitlines()
    assert any("planned for the shapes that came out" in line for line in between) and last


def test_a_rest_that_is_new_is_planned_then_and_kept(compiled: Compile, reads: list[Any], tmp_path: Path) -> None:
    model = detector()
    theirs = reference(model)
    x = values(9, 6, seed=1)
    compiled(model)(x)
    second = compiled(model)
    check(second, theirs, x)
    assert len(reads) == 1
    before = plans(tmp_path)
    for changed in (-np.abs(x), np.abs(x), -x):
        check(second, theirs, changed)  # no row, all rows, others
    assert len(reads) == 2
    assert plans(tmp_path) > before
    third = compiled(model)
    for changed in (-np.abs(x), np.abs(x), -x, x):
        check(third, theirs, changed)
    assert len(reads) == 2


def test_only_so_many_rests_are_kept(compiled: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "MAX_RESTS", 2)
    model = make_model([oh.make_node("NonZero", ["x"], ["i"]), oh.make_node("Neg", ["i"], ["y"])], {"x": (6,)}, ["y"])
    f = compiled(model)
    counts: list[int] = []
    for count in range(1, 6):
        x = (np.arange(6) < count).astype(np.float32)
        np.testing.assert_array_equal(f(x), -np.arange(count)[None])
        counts.append(plans(tmp_path))
    assert counts[1] - counts[0] == 1 and counts[1:] == [counts[1]] * 4


def test_an_extent_that_only_data_gives_at_the_end(compiled: Compile, reads: list[Any]) -> None:
    model = make_model([oh.make_node("Abs", ["x"], ["a"]), oh.make_node("NonZero", ["a"], ["y"])], {"x": (3, 5)}, ["a", "y"])
    theirs = reference(model)
    x = np.where(values(3, 5) > 0.3, values(3, 5), 0).astype(np.float32)
    for _ in range(2):
        f = compiled(model)
        for array in (x, np.zeros_like(x), np.ones_like(x)):
            check(f, theirs, array)
        a, y = np.empty((3, 5), np.float32), np.empty((2, 15), np.int64)
        f.bind(np.ones_like(x), out=(a, y)).run()
        np.testing.assert_array_equal(y, np.nonzero(np.ones_like(x)))
        with pytest.raises(loopnest.InputError, match="the result is"):
            f.bind(x, out=(a, y)).run()
        assert len(f.profile(x, repeat=1).steps) >= 2
        assert f.trim() >= 0
    assert len(reads) == 1


def test_values_that_decide_before_and_behind(compiled: Compile, reads: list[Any]) -> None:
    """The rest is kept by the values of inputs that only it needs, too."""
    nodes = [
        oh.make_node("NonZero", ["x"], ["i"]),
        oh.make_node("Reshape", ["i", "shape"], ["y"]),
    ]
    model = make_model(nodes, {"x": (8,), "shape": tensor("shape", (2,), onnx.TensorProto.INT64)}, ["y"])
    theirs = reference(model)
    x = (np.arange(8) < 6).astype(np.float32)
    for _ in range(2):
        f = compiled(model)
        for shape in ([2, 3], [3, 2], [-1, 1]):
            check(f, theirs, x, np.array(shape))
    assert len(reads) == 1


def test_threads_find_rests_at_once(compiled: Compile) -> None:
    model = detector()
    theirs = reference(model)
    x = values(16, 6, seed=5)
    f, turns = compiled(model), [x * sign for sign in (1, -1) for _ in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda turn: check(f, theirs, turn), turns))


def test_a_model_that_changed_meanwhile_is_refused(compiled: Compile, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(detector().SerializeToString())
    x = values(9, 6, seed=1)
    compiled(path)(x)
    f = compiled(path)
    f(x)
    changed = detector()
    changed.graph.node[2].op_type = "Less"
    path.write_bytes(changed.SerializeToString())
    with pytest.raises(loopnest.ModelError, match="is not the model any more"):
        f(np.abs(x))


# --- the record -------------------------------------------------------------------------------------------------------------------------

SEQUEL = Sequel((Cut(1, 2, 1), Cut(0, 2, None)), ("a", "b", "c"), (3, 1, -1), Rest((0, 3), ("float32", "int64"), (1,), ("c",)))
INPUTS, MADE = [("float32", 2)], [("int64", 2), ("int64", 0)]


def test_it_survives_json() -> None:
    assert Sequel.from_dict(json.loads(json.dumps(SEQUEL.to_dict()))) == SEQUEL
    bare = SEQUEL.replace(results=(3, 1, 4), rest=None)
    assert Sequel.from_dict(json.loads(json.dumps(bare.to_dict()))) == bare
    assert SEQUEL.kinds(INPUTS, MADE) == [("int64", 2), ("int64", 2), None]


@pytest.mark.parametrize(
    "wrong",
    [
        {"cuts": (Cut(1, 2, 2), Cut(0, 2, None))},
        {"cuts": (Cut(1, 1, 1), Cut(0, 2, None))},
        {"cuts": (Cut(1, 9, 1), Cut(0, 2, None))},
        {"cuts": (Cut(4, 2, 1), Cut(0, 2, None))},
        {"cuts": (Cut(-1, 2, 1), Cut(0, 2, None))},
        {"results": (5, 1, -1)},
        {"results": (0, 1, -1)},
        {"results": (3, -2, -1)},
        {"results": (-1, 1, -1)},
        {"rest": None},
        {"rest": Rest((0, 5), ("float32", "int64"), (1,), ("c",))},
        {"rest": Rest((0, 3), ("float32", "float32"), (1,), ("c",))},
        {"rest": Rest((0, 3), ("float32", "int64"), (2,), ("c",))},
        {"rest": Rest((0, 3), ("float32", "int64"), (1,), ("d",))},
    ],
)
def test_what_refers_to_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="that there is not|what there is not"):
        SEQUEL.replace(**wrong).kinds(INPUTS, MADE)
