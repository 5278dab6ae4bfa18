"""Tuning: noise does not win, crashes and kills do no harm, files are merged, entries that do not fit are ignored with the reason."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx.helper import make_node

import loopnest
from benchmarks import cost_model
from loopnest.codegen.target import resolve
from loopnest.compiler.cli import main
from loopnest.compiler.config import Config, NodeOptions
from loopnest.compiler.notices import ConfigWarning, TuningWarning
from loopnest.compiler.setup import Setup
from loopnest.compiler.tuning import search
from loopnest.compiler.tuning import sites as sites_module
from loopnest.compiler.tuning.entries import SPACE
from loopnest.compiler.tuning.measure import compare
from loopnest.compiler.tuning.search import Tuned, _Search
from loopnest.compiler.tuning.signature import processor_key
from loopnest.compiler.tuning.sites import Sites
from loopnest.compiler.tuning.space import candidates
from loopnest.compiler.tuning.store import Journal, read_entries, write_entries
from loopnest.compiler.tuning.worker import Worker, WorkerFailed, _Bench, plain_config
from tests.graphs import make_model, values

ROOT = Path(__file__).parent.parent
HERE = processor_key(resolve("cpu"), 1)
NAME = "MatMul: 24x40, const 40x48 -> 24x48"
X = values(24, 40)


def product() -> onnx.ModelProto:
    return make_model([make_node("MatMul", ["x", "w"], ["y"], name="p")], {"x": X.shape}, ["y"], {"w": values(40, 48, seed=1)})


def kernels(f: loopnest.CompiledModel) -> tuple[str, ...]:
    return f.plans[0].native.program.kernels  # type: ignore[attr-defined]


# --- measuring ----------------------------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes only while something runs, with noise that now and then is large."""

    def __init__(self, seed: int) -> None:
        self.now, self.random = 0.0, random.Random(seed)

    def call(self, seconds: float) -> Callable[[], None]:
        def run() -> None:
            noise = self.random.gauss(0, 0.01) + (self.random.random() < 0.002) * 3
            self.now += seconds * max(0.5, 1 + noise)

        return run


def test_what_is_clearly_faster_wins_and_noise_does_not() -> None:
    wins = dict.fromkeys((0.9, 1.0, 1.1), 0)
    for seed in range(40):
        for ratio in wins:
            clock = Clock(seed)
            found = compare(clock.call(1e-3), clock.call(ratio * 1e-3), lambda clock=clock: clock.now)
            wins[ratio] += found.better
            assert found.pairs <= 25
    assert wins[0.9] == 40
    assert wins[1.0] <= 1
    assert wins[1.1] == 0


def test_a_comparison_ends_early_when_it_is_decided() -> None:
    clock = Clock(0)
    assert compare(clock.call(1e-3), clock.call(5e-3), lambda: clock.now).pairs == 2
    assert compare(clock.call(1e-3), clock.call(5e-4), lambda: clock.now).pairs == 5


# --- files --------------------------------------------------------------------------------------------------------------------------


def test_entries_are_merged_and_the_rest_of_a_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "tuned.toml"
    mine = '# mine\nthreads = 1\n\n[tuned."another processor"."Conv: ..."]\ntile = { m = 3 }\n\n[op.Conv] # my choice\ntile = { n = 8 }\n'
    path.write_text(mine)
    entries = read_entries(path)
    entries["here"] = {'a "quoted" name': {"tile": {"m": 2, "n": 8}, "order": "rows", "tasks": 3, "gain": 1.25}}
    write_entries(path, entries)
    write_entries(path, read_entries(path))
    assert read_entries(path) == {"another processor": {"Conv: ...": {"tile": {"m": 3}}}, "here": entries["here"]}
    text = path.read_text()
    assert text.startswith("# mine\nthreads = 1\n")
    assert "[op.Conv] # my choice\ntile = { n = 8 }\n" in text
    assert text.count("loopnest tune") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["tuned.toml"]


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "tuned.toml"
    path.write_text("[tuned\n")
    with pytest.raises(loopnest.ConfigError, match="not valid TOML"):
        read_entries(path)
    path.write_text("tuned = 3\n")
    with pytest.raises(loopnest.ConfigError, match="expected tables"):
        read_entries(path)
    with pytest.raises(loopnest.ConfigError, match="cannot write"):
        write_entries(tmp_path / "absent" / "tuned.toml", {})


def test_a_journal_survives_a_line_that_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal(path, resume=False).add("kernel", "candidate", "1.02")
    with path.open("a") as file:
        file.write('["kernel", "oth')
    assert Journal(path, resume=True).tried == {("kernel", "candidate")}
    assert not Journal(path, resume=False).tried


def test_a_journal_that_cannot_be_written_is_told_of_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(loopnest.ConfigError, match=r"cannot write .*journal: No such file"):
        searched(tmp_path / "absent" / "tuned.toml")


# --- the search, with a process that only says what it measured -----------------------------------------------------------------------

FAKE = f"""
import json, os, sys, time
sys.path[:] = {sys.path!r}
from loopnest.codegen.child import receive, send
source, sink = sys.stdin.buffer, sys.stdout.buffer
COSTS = {{"6": 1.0, "5": 0.8, "4": 1.3, "3": 0.7}}
LAYOUTS = {{"plain": 2.0, "NCHW8c": 1.0, "NCHW16c": 0.9, "NCHW32c": 0.95}}
def cost(options):
    if "layout" in options: return LAYOUTS[options["layout"]]
    m = str(options.get("tile", {{}}).get("m", 6))
    if m == "7": os.abort()
    if m == "8": time.sleep(60)
    return COSTS[m]
while True:
    message = json.loads(receive(source)[0])
    if "candidate" in message:
        time.sleep(0.02)
        ratio = cost(message["candidate"]) / cost(message["incumbent"])
        answer = {{"ratio": ratio, "low": ratio - 0.01, "high": ratio + 0.01, "milliseconds": ratio, "pairs": 5}}
    elif message.get("kernel") == "all":
        wrong = message["options"].get("layout", "plain") not in LAYOUTS
        answer = {{"error": "no such layout"}} if wrong else {{"candidates": [{{"layout": name}} for name in LAYOUTS]}}
    elif "kernel" in message:
        answer = {{"candidates": [{{"tile": {{"m": m}}}} for m in (4, 7, 5, 8, 3)]}}
    else:
        answer = {{"kernels": [["large", 9.0, 2], ["small", 1.0, 1], ["tiny", 0.001, 1]]}}
        if message.get("whole"):
            answer["graphs"] = ["all", "another part"]
        if "layout" in message:
            answer = {{"kernels": [["of " + message["layout"], 8.0, 2]]}}
    send(sink, json.dumps(answer).encode())
"""


def searched(path: Path, *, resume: bool = False, most: int | None = None, whole: bool = False) -> Tuned:
    worker, entries = Worker({"whole": whole}, (sys.executable, "-c", FAKE)), read_entries(path)
    return _Search(path, entries, entries.get("here", {}), "here", worker, None, most, lambda _: None).run(resume=resume)


def test_candidates_that_crash_or_hang_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "PATIENCE", 0.4)
    path = tmp_path / "tuned.toml"
    found = searched(path)
    assert [kernel.best for kernel in found.kernels] == [{"tile": {"m": 3}}, {"tile": {"m": 3}}, {}]
    assert found.gain == pytest.approx(10.001 / (7 + 0.001))
    assert {"ended with status -6" in line or "took more than" in line for line in found.failed} == {True}
    entry = read_entries(path)["here"]["large"]
    assert entry == {"tile": {"m": 3}, "gain": 1.429, "milliseconds": 0.7, "space": SPACE}
    assert not path.with_name("tuned.toml.journal").exists()


def test_the_layout_is_searched_before_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their names, times and entries are those in the layout that won. An entry that is no layout any more is left behind."""
    monkeypatch.setattr(search, "PATIENCE", 0.4)
    path = tmp_path / "tuned.toml"
    for before in ({}, {"layout": "NCHW16c", "gain": 1.111}, {"layout": "NCHW6c", "gain": 7.0}):
        write_entries(path, {"here": {"all": {**before, "space": SPACE}} if before else {}})
        found = searched(path, whole=True)
        assert found.whole is not None
        assert found.whole.best == {"layout": "NCHW16c"}
        assert [kernel.signature for kernel in found.kernels] == ["of NCHW16c"]
        assert found.gain == pytest.approx(1 / 0.9 / 0.7, rel=1e-3)
        here = read_entries(path)["here"]
        assert here["of NCHW16c"]["tile"] == {"m": 3}
        assert here["all"]["layout"] == "NCHW16c" and here["all"]["gain"] == 1.111
        assert before == {"layout": "NCHW16c", "gain": 1.111} or here["another part"] == here["all"]


def test_a_search_of_layouts_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    path, journal = tmp_path / "tuned.toml", tmp_path / "tuned.toml.journal"
    Journal(journal, resume=False).add("all", '{"layout": "plain"}', "2.000")
    Journal(journal, resume=True).add("all", '{"layout": "NCHW8c"}', "it makes the same kernel")
    found = searched(path, resume=True, most=1, whole=True)
    assert found.whole is not None and found.whole.best == {"layout": "NCHW16c"}
    assert read_entries(path)["here"]["all"]["layout"] == "NCHW16c"


def test_what_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed when the first entry is there: the file is whole, and what was measured is not measured again."""
    monkeypatch.setattr(search, "PATIENCE", 0.4)
    path, journal = tmp_path / "tuned.toml", tmp_path / "tuned.toml.journal"
    code = "import sys; from pathlib import Path; from tests.test_tuning import searched; searched(Path(sys.argv[1]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, path], cwd=ROOT, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert read_entries(path)["here"]["large"]["tile"] == {"m": 5}
    before = len(Journal(journal, resume=True).tried)
    assert before >= 2
    found = searched(path, resume=True, most=1)
    assert found.trials == 1
    assert not journal.exists()


def test_a_model_that_cannot_be_measured(tmp_path: Path) -> None:
    worker = Worker({}, (sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(loopnest.LoopnestError, match="cannot be tuned: the process that measures ended with status 3"):
        worker.open()
    with pytest.raises((WorkerFailed, loopnest.LoopnestError)):
        worker.ask({}, 5)


# --- entries ------------------------------------------------------------------------------------------------------------------------


def tuned(entry: Any, **config: Any) -> loopnest.CompiledModel:
    return loopnest.compile(product(), threads=1, config={**config, "tuned": {HERE: {NAME: entry}}})


def test_an_entry_acts_on_its_kernel_and_what_is_set_otherwise_comes_first() -> None:
    default, found = loopnest.compile(product()), tuned({"tile": {"m": 2, "n": 8}, "gain": 1.1})
    assert kernels(found) != kernels(default)
    np.testing.assert_allclose(found(X), default(X), rtol=1e-5, atol=1e-5)
    same = loopnest.compile(product(), config={"tile": {"m": 2, "n": 8}})
    assert kernels(found) == kernels(same)
    for override in (
        {"tile": {"m": 4, "n": 16}},
        {"op": {"MatMul": {"tile": {"m": 4, "n": 16}}}},
        {"node": {"p": {"tile": {"m": 4, "n": 16}}}},
    ):
        assert kernels(tuned({"tile": {"m": 2, "n": 8}}, **override)) == kernels(loopnest.compile(product(), config=override))
    elsewhere = {"tuned": {"another processor": {NAME: {"tile": {"m": 2}}}}}
    assert kernels(loopnest.compile(product(), config=elsewhere)) == kernels(default)


def test_an_entry_is_for_as_many_threads_as_it_was_measured_with(tmp_path: Path) -> None:
    """Also with plans from the cache. Files of older versions say so in the entry."""
    entry = {"tile": {"m": 2, "n": 8}}
    default = kernels(loopnest.compile(product()))
    two, old = processor_key(resolve("cpu"), 2), processor_key(resolve("cpu"))
    assert two.endswith(", 2 threads")
    for tuned, used in (
        ({two: {NAME: entry}}, (2,)),
        ({old: {NAME: {**entry, "threads": 2}}}, (2,)),
        ({old: {NAME: entry}}, (1, 2)),
        ({old: {NAME: {**entry, "threads": 3}}, two: {NAME: entry}}, (2,)),
    ):
        config = {"cache_dir": str(tmp_path), "tuned": tuned}
        for threads in (2, 1, 2):
            assert (kernels(loopnest.compile(product(), threads=threads, config=config)) != default) == (threads in used)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"tyle": 3}, "unknown option tyle; known: conv, order"),
        ({"tile": {"m": 0}}, "m = 0: expected an integer from 1"),
        ({"tile": {"m": 99}}, "tile.m = 99: a tile is whole vectors of columns, and registers hold it; legal: 1 to"),
        ({"conv": "winograd4"}, "conv = 'winograd4' is not for this kernel; legal: none"),
        ({"tile": {"m": 2}, "space": SPACE + 1}, f"for version {SPACE + 1} of the space of schedules"),
        (3, "expected a table of options, not 3"),
    ],
)
def test_an_entry_that_does_not_fit_is_ignored_with_the_reason(entry: Any, reason: str) -> None:
    default = loopnest.compile(product())
    with pytest.warns(TuningWarning) as caught:
        found = tuned(entry, cache=False)
    assert reason in str(caught[0].message)
    assert kernels(found) == kernels(default)


def test_what_is_ignored_is_told_of_a_plan_from_the_cache_too(tmp_path: Path) -> None:
    told = list[list[str]]()
    for _ in range(2):
        with pytest.warns(TuningWarning) as caught:
            found = tuned({"tile": {"m": 99}, "order": "rows"}, cache_dir=str(tmp_path))
        told.append([str(warning.message) for warning in caught])
    assert found.compile_report.found == 1
    assert told[0] == told[1]
    assert "the tuned tile.m = 99: a tile is whole vectors" in told[0][0]


def dilated() -> onnx.ModelProto:
    nodes = [
        make_node("Conv", ["x", "w"], ["c"], name="conv", dilations=[2, 2], pads=[1, 1, 1, 1]),
        make_node("Relu", ["c"], ["y"], name="relu"),
    ]
    return make_model(nodes, {"x": (1, 16, 33, 33)}, ["y"], {"w": values(32, 16, 3, 3) / 12})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"node": {"conv": {"conv": "winograd4"}}},
            "node.\"conv\".conv = 'winograd4': it is dilated; legal: 'auto', 'direct'",
        ),
        ({"node": {"conv": {"tile": {"m": 99}}}}, 'node."conv".tile.m = 99: a tile is whole vectors'),
        ({"op": {"Conv": {"tile": {"n": 5}}}}, "op.Conv.tile.n = 5: a tile is whole vectors"),
        (
            {"node": {"conv": {"unroll": 2}}},
            'node."conv".unroll = 2: the kernel of Conv+Relu has no such choice; it chooses tile.m (1 to',
        ),
    ],
)
def test_an_override_that_no_schedule_has_is_refused_with_what_is_legal(config: Any, message: str) -> None:
    with pytest.raises(loopnest.ConfigError) as caught:
        loopnest.compile(dilated(), config=config)
    assert message in str(caught.value)


def folded() -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, Flatten, and a shape that is computed."""
    nodes = [
        make_node("Conv", ["x", "w"], ["c"], name="conv"),
        make_node("BatchNormalization", ["c", *"sbmv"], ["n"], name="bn"),
        make_node("Relu", ["n"], ["r"], name="relu"),
        make_node("Shape", ["r"], ["extents"], name="shape"),
        make_node("Reshape", ["r", "flat"], ["y"], name="flatten"),
        make_node("Identity", ["r"], ["z"], name="same"),
    ]
    constants = {"w": values(8, 8, 3, 3), **{name: abs(values(8)) + 0.5 for name in "sbmv"}, "flat": np.array([-1, 8])}
    return make_model(nodes, {"x": (1, 8, 9, 9)}, ["y", "extents", "z"], constants)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bn", "the pass fold_batch_norm put others in its place"),
        ("relu", 'its Relu is part of the kernel of node."conv" (Conv+Relu), whose options decide'),
        ("shape", "the pass fold_constants put others in its place, or found it needless"),
        ("flatten", "its Reshape needs no kernel"),
    ],
)
def test_an_override_of_a_node_without_a_kernel_is_told_once_with_the_reason(name: str, reason: str, tmp_path: Path) -> None:
    config = {"cache_dir": str(tmp_path), "node": {name: {"tasks": 3}, "conv": {"tasks": 2}}}
    for _ in range(2):  # the second time from the cache
        with pytest.warns(ConfigWarning) as caught:
            loopnest.compile(folded(), config=config)
        (told,) = (str(warning.message) for warning in caught)
        assert told.startswith(f'the options of node."{name}" have no effect: {reason}'), told


# --- the layout of a graph -----------------------------------------------------------------------------------------------------------


def network() -> onnx.ModelProto:
    nodes = [
        make_node("Conv", ["x", "a"], ["c"], name="first", pads=[1, 1, 1, 1]),
        make_node("Relu", ["c"], ["r"]),
        make_node("Conv", ["r", "b"], ["d"], name="second"),
        make_node("Add", ["c", "d"], ["y"]),
    ]
    return make_model(nodes, {"x": (1, 3, 9, 9)}, ["y"], {"a": values(32, 3, 3, 3) / 5, "b": values(32, 32, 1, 1) / 6})


def layouts(f: loopnest.CompiledModel) -> set[str]:
    """Of what the convolutions make, without halos."""
    steps = f.plans[0].native.program.steps  # type: ignore[attr-defined]
    return {step.layout.split("+")[0] for step in steps if step.op.startswith("Conv")}


def graph_name() -> str:
    (name,) = Sites(network().SerializeToString(), Setup.of("cpu", Config(vector_bits=256), 1), {}).graphs()
    return name


def in_layout(table: Any, **config: Any) -> loopnest.CompiledModel:
    place = processor_key(Setup.of("cpu", Config(vector_bits=256)).target, 1)
    return loopnest.compile(network(), threads=1, config={"vector_bits": 256, **config, "tuned": {place: table}})


def test_an_entry_for_a_graph_is_its_layout(tmp_path: Path) -> None:
    """Other options come first; entries for kernels go by the layout in force; plans from the cache have it too."""
    name, x = graph_name(), values(1, 3, 9, 9)
    assert name.startswith("All of 2 Conv") and "1x3x9x9 -> 1x32x9x9" in name
    entry = {"layout": "NCHW16c", "gain": 1.1, "space": SPACE}
    for _ in range(2):
        found = in_layout({name: entry}, cache_dir=str(tmp_path))
        assert layouts(found) == {"NCHW16c"}
    assert not found.compile_report.compiled
    np.testing.assert_allclose(found(x), loopnest.compile(network())(x), rtol=1e-4, atol=1e-5)
    assert layouts(in_layout({name: entry}, layout="plain")) == {"plain"}
    assert layouts(in_layout({name: entry}, node={"second": {"layout": "NCHW8c"}})) == {"NCHW8c", "NCHW16c"}
    assert layouts(in_layout({name: entry}, opt_level=2)) == {"plain"}
    sites = Sites(network().SerializeToString(), Setup.of("cpu", Config(vector_bits=256, layout="NCHW16c"), 1), {})
    assert sites.graphs() == [name]
    (kernel,) = (site.signature for site in sites.sites(1) if site.signature.startswith("Conv+Add"))
    assert "NCHW16c" in kernel
    tiled = in_layout({name: entry, kernel: {"tile": {"m": 2, "n": 8}}})
    assert kernels(tiled) != kernels(found)
    assert kernels(in_layout({kernel: {"tile": {"m": 2, "n": 8}}})) == kernels(in_layout({}))


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (
            {"layout": "NCHW64c"},
            "layout = 'NCHW64c': a block is one, two or four vectors of the target; legal: 'plain', 'NCHW8c'",
        ),
        ({"layout": "NCHW7c"}, "layout = 'NCHW7c': expected one of"),
        ({"tile": {"m": 2}}, "unknown option tile; known: layout"),
        ({"layout": "plain", "space": SPACE + 1}, f"for version {SPACE + 1} of the space"),
    ],
)
def test_a_layout_that_does_not_fit_is_ignored_with_the_reason(entry: Any, reason: str) -> None:
    with pytest.warns(TuningWarning) as caught:
        found = in_layout({graph_name(): entry}, cache=False)
    assert reason in str(caught[0].message)
    assert layouts(found) == {"NCHW8c"}


def test_a_kernel_has_no_layout_of_its_own() -> None:
    with pytest.warns(TuningWarning, match="unknown option layout"):
        tuned({"layout": "plain"}, cache=False)


def test_results_that_are_no_numbers_in_the_same_places_agree() -> None:
    """Data are random: a square root of some is none."""
    nodes = [make_node("MatMul", ["x", "w"], ["c"]), make_node("Sqrt", ["c"], ["y"])]
    model = make_model(nodes, {"x": (24, 40)}, ["y"], {"w": values(40, 48, seed=1)})
    config = plain_config(Config(cache=False))
    bench = _Bench({"model": model.SerializeToString(), "shapes": {}, "config": config, "target": "cpu", "threads": 1})
    (name,) = (name for name, *_ in bench.listing()["kernels"])
    found = bench.compare({"kernel": name, "incumbent": {}, "candidate": {"tile": {"m": 2, "n": 8}}, "seconds": 0.05})
    assert found["pairs"] >= 2


@pytest.mark.parametrize(("nbytes", "copies"), [(0, 1), (64, 64), (1 << 17, 8), (1 << 19, 2), (1 << 20, 1), (1 << 24, 1)])
def test_weights_that_would_stay_in_a_cache_have_copies(nbytes: int, copies: int) -> None:
    assert sites_module._copies(nbytes, 1 << 20) == copies


def test_as_many_weights_pass_as_in_the_model_but_no_more_than_caches_hold() -> None:
    node = make_node("MatMul", ["x", "w"], ["y"])
    model = make_model([node], {"x": (8, 300)}, ["y"], {"w": values(300, 256)}).SerializeToString()
    setup = Setup.of("cpu", Config(cache=False), 1)
    for l2, l3, expected in ((1 << 20, 1 << 25, 300 * 256 * 4), (1 << 15, 1 << 16, 1 << 17), (1 << 15, 0, 1 << 16)):
        small = replace(setup.target, l2=l2, l3=l3)
        assert sites_module.Sites(model, replace(setup, target=small), {})._passing() == expected


def test_copies_are_used_in_turn() -> None:
    called: list[int] = []
    run = sites_module._in_turn([lambda n=n: called.append(n) for n in range(3)])
    for _ in range(4):
        run()
    assert called == [0, 1, 2, 0]


def test_layouts_are_measured_with_the_whole_model() -> None:
    """Only what is another plan, and computes the same, is timed."""
    config = plain_config(Config(vector_bits=256, cache=False))
    opening = {"model": network().SerializeToString(), "shapes": {}, "config": config, "target": "cpu", "threads": 1}
    bench = _Bench(opening)
    (name,) = bench.listing()["graphs"]
    look = {"kernel": name, "options": {}}
    assert bench.look(look) == {"candidates": [{"layout": layout} for layout in ("plain", "NCHW16c", "NCHW32c")]}
    assert {"layout": "NCHW8c"} in bench.look({**look, "options": {"layout": "plain"}})["candidates"]
    asked = {"kernel": name, "incumbent": {}, "candidate": {"layout": "NCHW16c"}, "seconds": 0.05}
    assert bench.compare(asked)["pairs"] >= 2
    assert bench.compare({**asked, "candidate": {"layout": "NCHW8c"}}) == {"error": "it makes the same kernels"}
    with pytest.raises(loopnest.ConfigError, match="NCHW64c"):
        bench.look({**look, "options": {"layout": "NCHW64c"}})
    assert not _Bench({**opening, "layout": "NCHW16c"}).listing()["graphs"], "it has been searched"


def test_a_convolutional_network_is_tuned_with_its_layout(tmp_path: Path) -> None:
    """An entry in the file is what its search begins with, and its kernels are those that are tuned."""
    path = tmp_path / "tuned.toml"
    place = processor_key(Setup.of("cpu", Config(vector_bits=256)).target, 1)
    write_entries(path, {place: {graph_name(): {"layout": "NCHW16c", "gain": 1.1, "space": SPACE}}})
    found = loopnest.tune(network(), path, trials=0, threads=1, config={"vector_bits": 256})
    assert found.whole is not None and found.whole.best == {"layout": "NCHW16c"}
    assert found.gain == pytest.approx(1.1)
    assert all("NCHW16c" in kernel.signature for kernel in found.kernels if kernel.signature.startswith("Conv"))


# --- all of it ------------------------------------------------------------------------------------------------------------------------


def test_a_model_is_tuned_used_and_saved(tmp_path: Path) -> None:
    """The second model finds the entries of the first in the file."""
    model, path = tmp_path / "model.onnx", tmp_path / "tuned.toml"
    onnx.save(product(), model)
    write_entries(path, {HERE: {"Conv: of another model": {"tile": {"m": 2}}}})
    done = CliRunner().invoke(main, ["tune", str(model), "-o", str(path), "--trials", "3", "--threads", "1"])
    assert done.exit_code == 0, done.output
    assert "3 candidates; the model should be" in done.output
    assert NAME in done.output
    assert read_entries(path)[HERE]["Conv: of another model"] == {"tile": {"m": 2}}
    table = read_entries(path)[HERE]
    table[NAME] = {"tile": {"m": 3, "n": 16}}  # as an editor would
    write_entries(path, {HERE: table})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        f = loopnest.compile(model, config=path, threads=1)
    assert kernels(f) == kernels(loopnest.compile(model, config={"tile": {"m": 3, "n": 16}}))
    f.save(tmp_path / "model.lnest")
    np.testing.assert_array_equal(loopnest.load(tmp_path / "model.lnest")(X), f(X))


def attention() -> onnx.ModelProto:
    nodes = [
        make_node("MatMul", ["q", "k"], ["scores"]),
        make_node("Softmax", ["scores"], ["p"], axis=-1),
        make_node("MatMul", ["p", "v"], ["y"]),
    ]
    return make_model(nodes, {"q": (2, 80, 8), "k": (2, 8, 80), "v": (2, 80, 8)}, ["y"], {})


def recurrence() -> onnx.ModelProto:
    weights = {"w": values(1, 64, 8), "r": values(1, 64, 16) / 4}
    return make_model([make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=16)], {"x": (5, 3, 8)}, ["y"], weights)


@pytest.mark.parametrize(
    ("model", "op", "least"),
    [
        (attention(), "Attention", {"tile.m", "tile.k"}),
        (recurrence(), "LSTM", {"tile.m", "tile.n"}),
        (product(), "MatMul", {"order"}),
    ],
)
def test_every_kind_of_kernel_has_something_to_try(model: onnx.ModelProto, op: str, least: set[str]) -> None:
    """Each candidate is another kernel, or is called with other extents, and computes the same."""
    setup = Setup.of("cpu", Config(), 1)
    sites = Sites(model.SerializeToString(), setup, {})
    sites.run()
    site = next(site for site in sites.sites(1) if site.signature.startswith(op))
    default = sites.trial(site, NodeOptions())
    assert least <= default.choices.taken.keys()
    found = candidates(default, NodeOptions(), {}, setup.target)
    trials = [sites.trial(site, options) for options in found if options.tile != NodeOptions().tile][:4]
    assert any(trial.identity != default.identity for trial in trials)
    for trial in (default, *trials):
        trial.run()
        for a, b in zip(trial.outputs(), default.outputs(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


# --- how well the cost model ranks ----------------------------------------------------------------------------------------------------


def test_rank_correlation() -> None:
    assert cost_model.spearman([1, 2, 3], [10, 20, 90]) == pytest.approx(1)
    assert cost_model.spearman([1, 2, 3], [9, 5, 1]) == pytest.approx(-1)
    assert cost_model.spearman([1, 1, 2, 2], [5, 5, 7, 7]) == pytest.approx(1)
    assert np.isnan(cost_model.spearman([1, 1], [1, 2]))


def test_the_cost_model_is_compared_with_measurements() -> None:
    ranked = cost_model.rank("product", product(), 1, np.random.default_rng(0))
    assert ranked is not None
    assert ranked.work == 2 * 24 * 40 * 48
    assert ranked.predicted > ranked.work / 32
    assert 0 < ranked.seconds < 1
    assert ranked.tiles[0][2] == 1.0
