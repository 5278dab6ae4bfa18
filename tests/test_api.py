"""The public entry points: shapes, targets, threads, configuration options and what each of them does."""

from __future__ import annotations

import gc
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.helper import make_node

import loopnest
from loopnest.compiler.config import Config, NodeOptions, Tile
from loopnest.ir.errors import InputError
from loopnest.ir.graph import Graph
from loopnest.runtime.cache import open_cache
from loopnest.runtime.program import Program
from tests.graphs import make_model, reference, tensor, values

X = values(1, 16, 9, 9)
LARGE = values(1, 16, 33, 33)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOPNEST_DUMP", "LOOPNEST_VERIFY"):
        monkeypatch.delenv(name, raising=False)


def network() -> onnx.ModelProto:
    """conv -> batch norm -> relu -> conv -> add -> relu on [1, 16, 9, 9]."""
    constants = {
        "w": values(16, 16, 3, 3, seed=1) / 12,
        "v": values(16, 16, 1, 1, seed=2) / 4,
        **{name: values(16, seed=i) for i, name in enumerate(("scale", "shift", "mean"))},
        "variance": np.abs(values(16, seed=9)),
    }
    nodes = [
        make_node("Conv", ["x", "w"], ["a"], name="first", pads=[1, 1, 1, 1]),
        make_node("BatchNormalization", ["a", "scale", "shift", "mean", "variance"], ["b"], name="norm"),
        make_node("Relu", ["b"], ["c"], name="relu"),
        make_node("Identity", ["c"], ["d"], name="nothing"),
        make_node("Conv", ["d", "v"], ["e"], name="second"),
        make_node("Add", ["e", "x"], ["f"], name="residual"),
        make_node("Relu", ["f"], ["y"], name="last"),
    ]
    return make_model(nodes, {"x": X.shape}, ["y"], constants)


def wide() -> onnx.ModelProto:
    """Strided convolutions of many channels, and the averages of their results."""
    strided = {"pads": [1, 1, 1, 1], "strides": [2, 2]}
    nodes = [
        make_node("Conv", ["x", "w"], ["a"], name="first", **strided),
        make_node("Conv", ["a", "v"], ["b"], name="second", **strided),
        make_node("GlobalAveragePool", ["b"], ["y"], name="averages"),
    ]
    constants = {"w": values(96, 16, 3, 3, seed=1) / 12, "v": values(32, 96, 3, 3, seed=2) / 29}
    return make_model(nodes, {"x": LARGE.shape}, ["y"], constants)


def doubled(*shape: int | str, also: dict[str, tuple[int | str, ...]] | None = None) -> onnx.ModelProto:
    """``y = x + x``, and for each name in ``also`` an output ``name_out`` equal to that input."""
    inputs = {"x": shape, **(also or {})}
    nodes = [
        make_node("Add", ["x", "x"], ["y"], name="add"),
        *(make_node("Neg", [name], [f"{name}_out"]) for name in also or {}),
    ]
    return make_model(nodes, inputs, ["y", *(f"{name}_out" for name in also or {})])


def program(model: loopnest.CompiledModel) -> Program:
    (plan,) = model.plans
    return plan.native.program  # type: ignore[attr-defined]


def titles(item: Program) -> list[str]:
    """The fused groups, without the conversions of layouts."""
    return [step.op for step in item.steps if " to " not in step.name]


# --- options --------------------------------------------------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "tile": {"tile": {"m": 3}},
    "tile.m": {"tile": {"m": 2}},
    "tile.n": {"tile": {"n": 8}},
    "tile.k": {"tile": {"k": 64}},
    "order": {"order": "rows"},
    "tasks": {"tasks": 1024},
    "unroll": {"unroll": 2},
    "prefetch": {"prefetch": 0},
    "layout": {"layout": "plain"},
    "conv": {"conv": "winograd2"},
    "filters": {"filters": "kernel"},
    "fuse": {"fuse": False},
    "opt_level": {"opt_level": 2},
    "vector_bits": {"vector_bits": 128},
    "threads": {"threads": 2},
    "cache": {"cache": False},
    "cache_dir": {"cache_dir": "CACHE"},
    "cache_bytes": {"cache_bytes": 1 << 20},
    "dump": {"dump": "DUMP"},
    "verify": {"verify": True},
}


def test_every_option_is_proved_below() -> None:
    names = {spec.name for spec in fields(Config) if spec.metadata} | {f"tile.{spec.name}" for spec in fields(Tile)}
    assert names == set(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_changes_what_it_declares(name: str, tmp_path: Path) -> None:
    """The result stays; kernels and program change, the program alone, or neither."""
    given = {key: str(tmp_path / value) if value in ("CACHE", "DUMP") else value for key, value in OPTIONS[name].items()}
    record, _, field = name.rpartition(".")
    effect = next(spec.metadata["effect"] for spec in fields(Tile if record else Config) if spec.name == field)
    schedules = name in ("tile.k", "order", "tasks", "unroll", "prefetch")
    model, x = (wide(), LARGE) if schedules else (network(), X)
    beside = {"conv": "winograd2"} if name == "filters" else {}  # only Winograd's algorithm transforms filters
    default, changed = (loopnest.compile(model, config={**beside, **options}, threads=1) for options in ({}, given))
    np.testing.assert_allclose(changed(x), default(x), rtol=1e-4, atol=1e-4)
    before, after = program(default), program(changed)
    if effect == "none":
        assert after == before
    else:
        assert after != before
    if effect == "kernel":
        assert titles(after) == titles(before)
        assert set(after.kernels) != set(before.kernels)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_is_in_the_key_of_plans_if_it_changes_them(name: str) -> None:
    """So are the same options of an operator type, or of a node, where they can be."""
    record, _, field = name.rpartition(".")
    effect = next(spec.metadata["effect"] for spec in fields(Tile if record else Config) if spec.name == field)
    assert (Config(**OPTIONS[name]).decisive != Config().decisive) == (effect != "none")
    if (record or field) in {spec.name for spec in fields(NodeOptions)}:
        keys = [Config(**scope).decisive for scope in ({}, {"op": {"Conv": OPTIONS[name]}}, {"node": {"first": OPTIONS[name]}})]
        assert len(set(keys)) == 3


def test_what_was_tuned_is_in_the_key_of_plans() -> None:
    assert Config(tuned={"a processor": {"a kernel": {"unroll": 2}}}).decisive != Config().decisive


def test_opt_levels() -> None:
    programs = [program(loopnest.compile(network(), config={"opt_level": level})) for level in range(4)]
    assert titles(programs[0]) == ["Conv", "BatchNormalization", "Relu", "Identity", "Conv", "Add", "Relu"]
    assert titles(programs[1]) == ["Conv", "BatchNormalization", "Relu", "Conv", "Add", "Relu"]
    assert titles(programs[2]) == ["Conv", "Relu", "Conv", "Add", "Relu"]
    assert titles(programs[3]) == ["Conv+Relu", "Conv+Add+Relu"]
    blocked = [any(step.layout.startswith("NCHW") for step in item.steps) for item in programs]
    assert blocked == [False, False, False, True]


@pytest.mark.parametrize("level", range(4))
def test_opt_levels_compute_the_same(level: int) -> None:
    lstm = {"w": values(1, 12, 4), "r": values(1, 12, 3, seed=1)}
    node = make_node("LSTM", ["x", "w", "r"], ["", "h"], hidden_size=3)
    recurrent = make_model([node], {"x": (5, 2, 4)}, ["h"], lstm)
    for model, x in ((network(), X), (recurrent, values(5, 2, 4))):
        f = loopnest.compile(model, config={"opt_level": level, "verify": True})
        np.testing.assert_allclose(f(x), reference(model, {"x": x})[0], rtol=1e-4, atol=1e-4)


def test_options_of_one_node_and_of_an_operator_type() -> None:
    first = program(loopnest.compile(network(), config={"node": {"first": {"fuse": False}}}))
    assert titles(first) == ["Conv", "Relu", "Conv+Add+Relu"]
    adds = program(loopnest.compile(network(), config={"op": {"Add": {"fuse": False}}}))
    assert titles(adds) == ["Conv+Relu", "Conv", "Add", "Relu"]
    both = {"Conv": {"fuse": True}, "Relu": {"fuse": True}}
    anyway = program(loopnest.compile(network(), config={"opt_level": 2, "op": both}))
    assert titles(anyway) == ["Conv+Relu", "Conv", "Add", "Relu"]
    assert {spec.name for spec in fields(NodeOptions)} == {
        "tile",
        "layout",
        "conv",
        "filters",
        "order",
        "tasks",
        "unroll",
        "prefetch",
        "fuse",
    }
    default = program(loopnest.compile(network()))
    tiled = program(loopnest.compile(network(), config={"node": {"second": {"tile": {"m": 2}}}}))
    assert [a.op for a, b in zip(default.steps, tiled.steps, strict=True) if a.kernel != b.kernel] == ["Conv+Add+Relu"]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("channels", [16, 17])
def test_a_kernel_adds_few_residuals(count: int, channels: int) -> None:
    constants = {f"w{i}": values(channels, 16, 1, 1, seed=i) / 4 for i in range(count + 1)}
    nodes = [make_node("Conv", ["x", f"w{i}"], [f"c{i}"], kernel_shape=[1, 1]) for i in range(count + 1)]
    nodes[1:] = [*nodes[1:], *(make_node("Relu", [f"c{i}"], [f"r{i}"]) for i in range(1, count + 1))]
    nodes += [make_node("Add", [f"s{i - 1}" if i > 1 else "c0", f"r{i}"], [f"s{i}"]) for i in range(1, count + 1)]
    nodes.append(make_node("Sin", [f"s{count}"], ["y"]))
    model = make_model(nodes, {"x": (1, 16, 9, 15)}, ["y"], constants)
    x = values(1, 16, 9, 15)
    f = loopnest.compile(model, threads=1)
    expected = sum(
        (np.maximum(np.einsum("oc,nchw->nohw", constants[f"w{i}"][:, :, 0, 0], x), 0) for i in range(1, count + 1)), 0
    )
    expected = np.sin(expected + np.einsum("oc,nchw->nohw", constants["w0"][:, :, 0, 0], x))
    np.testing.assert_allclose(f(x), expected, rtol=1e-4, atol=1e-5)
    assert max(title.count("Add") for title in titles(program(f))) == min(count, 2)


def test_threads() -> None:
    large = doubled(1 << 18)
    x = np.zeros(1 << 18, np.float32)
    assert loopnest.compile(large, config={"threads": 2}).profile(x, repeat=1).workers == 2
    assert loopnest.compile(large, config={"threads": 2}, threads=1).profile(x, repeat=1).workers == 1
    with pytest.raises(loopnest.ConfigError, match="threads = 0: expected an integer from 1"):
        loopnest.compile(large, threads=0)


def test_cache_and_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = doubled(3)
    loopnest.compile(model, config={"cache_dir": str(tmp_path / "a")})
    assert len(list((tmp_path / "a" / "kernels").iterdir())) == 1
    monkeypatch.setenv("LOOPNEST_CACHE_DIR", str(tmp_path / "b"))
    open_cache.cache_clear()
    loopnest.compile(model, config={"cache": False})
    assert not (tmp_path / "b").exists()
    loopnest.compile(model)
    assert len(list((tmp_path / "b" / "kernels").iterdir())) == 1
    open_cache.cache_clear()


def test_overrides_may_name_what_passes_and_functions_hide() -> None:
    then = onnx.helper.make_graph([make_node("Neg", ["x"], ["t"], name="inside")], "then", [], [tensor("t", (3,))])
    other = onnx.helper.make_graph([make_node("Abs", ["x"], ["o"])], "else", [], [tensor("o", (3,))])
    nodes = [
        make_node("If", ["c"], ["i"], name="choice", then_branch=then, else_branch=other),
        make_node("Identity", ["i"], ["j"], name="gone"),
        make_node("Twice", ["j"], ["y"], name="call", domain="local"),
    ]
    function = onnx.helper.make_function(
        "local", "Twice", ["a"], ["b"], [make_node("Add", ["a", "a"], ["b"], name="body")], [onnx.helper.make_opsetid("", 17)]
    )
    inputs = {"x": (3,), "c": tensor("c", (), onnx.TensorProto.BOOL)}
    model = make_model(nodes, inputs, ["y"], domains={"local": 1}, functions=[function])
    for name in ("inside", "choice", "gone", "call", "body"):
        loopnest.compile(model, config={"node": {name: {"fuse": False}}})
    with pytest.raises(loopnest.ConfigError, match=r'unknown node node\."insight"; did you mean node\."inside"'):
        loopnest.compile(model, config={"node": {"insight": {"fuse": False}}})
    loopnest.compile(model, config={"op": {"Conv": {"layout": "plain"}}})
    with pytest.raises(loopnest.ConfigError, match=r'unknown op op\."Conf"; did you mean op\."Conv"'):
        loopnest.compile(model, config={"op": {"Conf": {"layout": "plain"}}})


# --- shapes ---------------------------------------------------------------------------------------------------------------------------


def test_fixed_shapes_are_planned_early_and_checked_at_the_call() -> None:
    f = loopnest.compile(doubled("batch", 3), shapes={"x": (2, 3)})
    assert (f.inputs[0].shape, f.outputs[0].shape, len(f.plans)) == ((2, 3), (2, 3), 1)
    np.testing.assert_array_equal(f(np.ones((2, 3), np.float32)), np.full((2, 3), 2, np.float32))
    assert len(f.plans) == 1
    with pytest.raises(loopnest.InputError, match="extent 4 in dim 0"):
        f(np.ones((4, 3), np.float32))
    assert loopnest.compile(doubled("batch", 3)).plans == ()
    assert len(loopnest.compile(doubled(2, 3)).plans) == 1


def test_a_fixed_dim_is_fixed_wherever_its_name_stands() -> None:
    model = doubled("batch", 3, also={"z": ("batch", "other")})
    f = loopnest.compile(model, shapes={"x": np.array([2, 3])})  # type: ignore[dict-item]
    assert [spec.shape for spec in (*f.inputs, *f.outputs)] == [(2, 3), (2, "other"), (2, 3), (2, "other")]
    assert f.plans == ()
    assert len(loopnest.compile(model, shapes={"z": (2, 5)}).plans) == 1


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"y": (1, 3)}, "shapes names 'y'; the inputs are xs: float32[batch, 3], z: float32[batch]"),
        ({"x": (1, 3)}, "shapes names 'x' (did you mean 'xs'?)"),
        ({"xs": (3,)}, "shapes['xs'] = (3,) does not fit input 'xs', which is float32[batch, 3]"),
        ({"xs": (1, 4)}, "shapes['xs'] = (1, 4) does not fit input 'xs'"),
        ({"xs": (-1, 3)}, "shapes['xs'] = (-1, 3): expected extents"),
        ({"xs": ("batch", 3)}, "expected extents"),
        ({"xs": (2, 3), "z": (5,)}, "shapes gives dim 'batch' two extents: 2 and 5 (input 'z')"),
    ],
)
def test_shapes_that_do_not_fit(shapes: dict[str, Any], message: str) -> None:
    model = make_model(
        [make_node("Abs", ["xs"], ["y"]), make_node("Abs", ["z"], ["w"])], {"xs": ("batch", 3), "z": ("batch",)}, ["y", "w"]
    )
    with pytest.raises(loopnest.InputError, match=re.escape(message)):
        loopnest.compile(model, shapes=shapes)


@pytest.mark.parametrize("names", [["x"], ["x", "z"]])
def test_a_dict_of_inputs_is_refused_with_how_to_give_it(names: list[str]) -> None:
    nodes = [make_node("Sum", names, ["y"])]
    f = loopnest.compile(make_model(nodes, dict.fromkeys(names, (2,)), ["y"]))
    feeds = {name: np.ones(2, np.float32) for name in names}
    with pytest.raises(loopnest.InputError, match=re.escape("inputs in a dict go by name: call model(**inputs)")):
        f(feeds)
    with pytest.raises(loopnest.InputError, match=re.escape("takes inputs by name, in a dict; got list: call model(*inputs)")):
        f.run(None, [X])  # type: ignore[arg-type]
    np.testing.assert_array_equal(f(**feeds), [len(names)] * 2)


def test_an_input_whose_value_decides_a_shape_waits_for_it() -> None:
    inputs = {"x": (2, 6), "shape": tensor("shape", (2,), onnx.TensorProto.INT64)}
    f = loopnest.compile(make_model([make_node("Reshape", ["x", "shape"], ["y"])], inputs, ["y"]))
    assert f.plans == ()
    assert f(values(2, 6), np.array([3, 4])).shape == (3, 4)
    assert f.profile(repeat=1).steps
    assert [plan.native.program.outputs[0].shape for plan in f.plans] == [(3, 4)]  # type: ignore[attr-defined]


# --- targets, errors, reports -----------------------------------------------------------------------------------------------------------


def test_targets() -> None:
    with pytest.raises(loopnest.TargetError, match=r"unknown target 'cpu-avx3'.*The known ones are cpu, cpu-avx512"):
        loopnest.compile(doubled(3), "cpu-avx3")
    with pytest.raises(loopnest.TargetError, match=r"cannot run code for target 'cpu-neon'.*aarch64.*it can run cpu"):
        loopnest.compile(doubled(3), "cpu-neon")
    with pytest.raises(loopnest.TargetError, match="vector_bits = 512 is wider"):
        loopnest.compile(doubled(3), "cpu-sse2", config={"vector_bits": 512})
    np.testing.assert_array_equal(
        loopnest.compile(doubled(3), "cpu-generic")(np.ones(3, np.float32)), np.full(3, 2, np.float32)
    )


def test_check() -> None:
    nodes = [make_node("Relu", ["x"], ["a"]), make_node("NonZero", ["a"], ["n"]), make_node("Loop", ["", "c", "n"], ["y"])]
    body = onnx.helper.make_graph(
        [make_node("Identity", ["k"], ["k2"]), make_node("Frobnicate", ["v"], ["v2"], name="frob", domain="com.example")],
        "body",
        [
            tensor("i", (), onnx.TensorProto.INT64),
            tensor("k", (), onnx.TensorProto.BOOL),
            tensor("v", None, onnx.TensorProto.INT64),
        ],
        [tensor("k2", (), onnx.TensorProto.BOOL), tensor("v2", None, onnx.TensorProto.INT64)],
    )
    nodes[2].attribute.append(onnx.helper.make_attribute("body", body))
    inputs = {"x": (4,), "c": tensor("c", (), onnx.TensorProto.BOOL)}
    report = loopnest.check(make_model(nodes, inputs, ["y"], domains={"com.example": 1}))
    assert not report.ok
    assert [item.op for item in report.unsupported] == ["Frobnicate"]
    assert {item.op for item in report.supported} == {"Relu", "NonZero", "Loop", "Identity"}
    assert [item.op for item in report.host] == ["Loop"]
    assert "host     ai.onnx Loop (1 x)" in str(report)
    assert "missing  com.example Frobnicate (opset 1, 1 x: 'frob')" in str(report)
    assert "all 1 operators are supported\n" in str(loopnest.check(doubled(3)))


def test_a_kernel_that_cannot_be_compiled_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise IndexError("registers")

    monkeypatch.setattr("loopnest.codegen.kernel.emit_kernel", fail)
    with pytest.raises(loopnest.LoopnestError, match=r"the kernel Add of add cannot be compiled: IndexError: registers"):
        loopnest.compile(doubled(3), config={"cache": False})


def test_a_group_that_cannot_be_lowered_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("axis")

    monkeypatch.setattr("loopnest.compiler.lowering.Lowering.lower", fail)
    with pytest.raises(loopnest.LoopnestError, match="Add of add cannot be lowered: KeyError: 'axis'"):
        loopnest.compile(doubled(3), config={"cache": False})


def test_kernels_are_compiled_once(tmp_path: Path) -> None:
    config = {"cache_dir": str(tmp_path)}
    model = loopnest.compile(network(), config=config)
    assert (model.compile_report.compiled, model.compile_report.found) == (len(program(model).kernels), 0)
    open_cache.cache_clear()  # as a new process would
    again = loopnest.compile(network(), config=config).compile_report
    assert (again.compiled, again.found) == (0, model.compile_report.compiled)


def test_profile_without_inputs() -> None:
    f = loopnest.compile(doubled("n"))
    with pytest.raises(loopnest.InputError, match="no plan yet"):
        f.profile()
    f(np.zeros(5, np.float32))
    assert f.profile(repeat=2).steps[0].bytes == 2 * 4 * 5
    assert loopnest.compile(doubled(7)).profile(repeat=2).steps[0].bytes == 2 * 4 * 7


def test_the_table_shows_groups_and_layouts() -> None:
    text = str(loopnest.compile(network()))
    assert re.search(r"Conv\+Add\+Relu +[0-9a-f]{12} +NCHW\d+c .*second \+ residual \+ last", text)
    assert re.search(r"Identity +[0-9a-f]{12} +plain .*y to plain", text)


# --- dump -----------------------------------------------------------------------------------------------------------------------------


def test_dump_leaves_stages_and_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loopnest.compile(network())  # so that the kernels are in the cache
    monkeypatch.setenv("LOOPNEST_DUMP", str(tmp_path / "d"))
    f = loopnest.compile(network())
    names = sorted(path.name for path in (tmp_path / "d").iterdir())
    stages = [name[4:] for name in names if name[0].isdigit()]
    assert stages[0] == "graph.txt"
    assert {"fold_batch_norm.txt", "groups.txt", "nests.txt", "kernels.txt", "program.txt"} <= set(stages)
    assert [int(name[:3]) for name in names if name[0].isdigit()] == list(range(len(stages)))
    kernels = [name for name in names if not name[0].isdigit()]
    assert kernels == [f"kernel_{i:02}.{s}" for i in range(len(program(f).kernels)) for s in ("ll", "py", "s")]
    source, ir, assembly = ((tmp_path / "d" / f"kernel_01.{suffix}").read_text() for suffix in ("py", "ll", "s"))
    assert source.startswith(f"# {program(f).steps[1].kernel[:12]}: first + relu\n")
    compile(source, "kernel_01.py", "exec")
    assert "define " in ir
    assert "\tret" in assembly


def test_a_second_dump_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    for _ in range(2):
        loopnest.compile(doubled(3), config={"dump": str(tmp_path)})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [name[4:] for name in names if name.endswith("_graph.txt")] == ["graph.txt"] * 2
    assert "kernel_01.s" in names


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(loopnest.ConfigError, match="cannot dump to"):
        loopnest.compile(doubled(3), config={"dump": str(tmp_path / "file")})


def graphs_alive() -> int:
    gc.collect()
    return sum(type(item) is Graph for item in gc.get_objects())


def test_a_model_of_fixed_shapes_lets_go_of_its_graph() -> None:
    """Its weights are packed, and no other plan can be asked for: what the model file held need not stay in memory."""
    weight = values(16, 16)
    model = make_model([make_node("MatMul", ["x", "w"], ["y"])], {"x": ("N", 16)}, ["y"], {"w": weight})
    before = graphs_alive()
    f = loopnest.compile(model, shapes={"x": (3, 16)}, config={"cache": False})
    x = values(3, 16, seed=1)
    np.testing.assert_allclose(f(x), x @ weight, rtol=1e-5, atol=1e-5)
    assert graphs_alive() == before
    g = loopnest.compile(model, config={"cache": False})
    assert graphs_alive() > before
    np.testing.assert_allclose(g(x), x @ weight, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="extent 4 in dim 0"):
        f(values(4, 16))
