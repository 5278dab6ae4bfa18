"""How well the cost model ranks: predicted against measured time, on kernels that nothing was fitted to.

    python -m benchmarks.cost_model --kernels 12 --tiles 6

Matrix products and convolutions of random shapes, one thread, in the time used. Three rank correlations (Spearman): of the time of
kernels, of their rate (what is left when the amount of work is taken out), and, in each kernel, of tiles, which is what the model chooses.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import click
import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from loopnest.codegen.target import Target
from loopnest.compiler.algorithms import Algorithm, algorithm_of, winograd_cost
from loopnest.compiler.config import Config, NodeOptions, Tile
from loopnest.compiler.schedule.register_blocks import fitting_tiles
from loopnest.compiler.setup import Setup
from loopnest.compiler.tuning.measure import compare
from loopnest.compiler.tuning.sites import Site, Sites, Trial
from loopnest.runtime.tables import format_table


@dataclass(frozen=True)
class Ranked:
    """A kernel: predicted and measured time of its default schedule, and of tiles relative to that."""

    title: str
    work: int
    predicted: float
    seconds: float
    tiles: tuple[tuple[Tile, float, float], ...]

    @property
    def correlation(self) -> float:
        """Of the tiles' predicted and measured times."""
        return spearman([cost for _, cost, _ in self.tiles], [ratio for _, _, ratio in self.tiles])

    @property
    def best(self) -> float:
        """The time of the best tile by that of the default."""
        return min([1.0, *(ratio for _, _, ratio in self.tiles)])


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """The correlation of ranks; ties share their rank. NaN where one side is all the same."""
    x, y = (np.array([mean(i for i, other in enumerate(sorted(values)) if other == v) for v in values]) for values in (a, b))
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale else math.nan


def random_model(random: np.random.Generator) -> tuple[str, ModelProto]:
    """A matrix product or a convolution that networks might have."""

    def pick(*values: int) -> int:
        return int(random.choice(values))

    def weights(*shape: int) -> Any:
        return numpy_helper.from_array(random.standard_normal(shape).astype(np.float32) / math.sqrt(math.prod(shape[1:])), "w")

    if random.random() < 0.4:
        m, k, n = pick(1, 7, 17, 48, 100, 197), pick(48, 200, 320, 640), pick(40, 96, 250, 512, 1000)
        node, shape, w, title = helper.make_node("MatMul", ["x", "w"], ["y"]), (m, k), weights(k, n), f"{m}x{k} * {k}x{n}"
    else:
        size, taps, stride = pick(9, 13, 19, 28, 40), pick(1, 1, 3, 3, 5), pick(1, 1, 2)
        inputs, outputs = pick(16, 40, 80, 144, 224), pick(24, 48, 80, 128, 176)
        pads = [taps // 2] * 4
        node = helper.make_node("Conv", ["x", "w"], ["y"], pads=pads, strides=[stride, stride])
        shape, w = (1, inputs, size, size), weights(outputs, inputs, taps, taps)
        title = f"conv {taps}x{taps}/{stride}, {inputs} to {outputs}, {size}x{size}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "random", [x], [y], [w])
    return title, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def rank(title: str, model: ModelProto, tiles: int, random: np.random.Generator) -> Ranked | None:
    """Measures a kernel; None where it is on no register tile, or on several: convolutions by regions have one for each."""
    setup = Setup.of("cpu", Config(cache=False), 1)
    sites = Sites(model, setup, {})
    sites.runner.run(sites.feeds)
    site = max(sites.sites(2), key=lambda s: work_of(sites, s))
    default = sites.trial(site, NodeOptions())
    direct = default if default.choices.cost else sites.trial(site, NodeOptions(conv="direct"))
    if direct.choices.cost is None or _algorithm(direct, NodeOptions(conv="direct"), setup).regions:
        return None
    found: list[tuple[Tile, float, float]] = []
    for tile in _spread(direct, tiles, setup.target, random):
        trial = sites.trial(site, NodeOptions(conv="direct", tile=tile))
        if trial.identity != direct.identity:
            found.append((tile, direct.choices.cost(tile), compare(direct.run, trial.run, time.process_time, 0.3).ratio))
    cost = direct.choices.cost
    chosen = Tile(int(direct.choices.taken["tile.m"].value), int(direct.choices.taken["tile.n"].value))
    return Ranked(
        title,
        work_of(sites, site),
        _predicted(default, direct, setup),
        _seconds(default),
        ((chosen, cost(Tile()), 1.0), *found),
    )


def work_of(sites: Sites, site: Site) -> int:
    _, plan = sites.engine.planned[site.graph]
    return next(step.flops for step in plan.steps if step.group.anchor.outputs[0] == site.output)


def _predicted(default: Trial, direct: Trial, setup: Setup) -> float:
    """Cycles of the default schedule."""
    node, tensors = default.group.anchor, default.tensors
    lanes = 4 * setup.target.lanes(32)  # two multiply-adds a cycle
    if default is not direct:
        transforms = _algorithm(default, NodeOptions(), setup).transforms
        return winograd_cost(transforms, tensors[node.inputs[1]].shape, tensors[node.outputs[0]].shape) / lanes
    extent = default.choices.cost.args[0]  # type: ignore[union-attr]
    elements = math.prod(tensors[node.outputs[0]].shape)
    return default.choices.cost(Tile()) * extent.products * elements / (extent.rows * extent.columns)  # type: ignore[misc]


def _algorithm(trial: Trial, options: NodeOptions, setup: Setup) -> Algorithm:
    """How a kernel is computed: directly, where it is no convolution."""
    node = trial.group.anchor
    if node.op != "Conv":
        return Algorithm((), "")
    return algorithm_of(node, trial.tensors, {node.inputs[1]}, options, setup.target)


def _spread(trial: Trial, count: int, target: Target, random: np.random.Generator) -> Iterator[Tile]:
    """Tiles that fit into the registers, the good ones and some others."""
    cost = trial.choices.cost
    assert cost is not None
    every = sorted(fitting_tiles(target, 32), key=cost)
    chosen = {*range(min(count // 2, len(every))), *map(int, random.integers(0, len(every), count - count // 2))}
    yield from (every[i] for i in sorted(chosen))


def _seconds(trial: Trial) -> float:
    trial.run()
    best = math.inf
    for _ in range(5):
        start, times = time.process_time(), 0
        while (spent := time.process_time() - start) < 0.004:
            trial.run()
            times += 1
        best = min(best, spent / times)
    return best


@click.command()
@click.option("--kernels", default=12, show_default=True, help="Kernels of random shapes.")
@click.option("--tiles", default=6, show_default=True, help="Tiles that are measured for each.")
@click.option("--seed", default=1, show_default=True)
def main(kernels: int, tiles: int, seed: int) -> None:
    """Print how well predicted and measured time of kernels and of their tiles agree in rank."""
    random = np.random.default_rng(seed)
    found: list[Ranked] = []
    while len(found) < kernels:
        title, model = random_model(random)
        ranked = rank(title, model, tiles, random)
        if ranked is not None:
            found.append(ranked)
            print(f"[{len(found)}/{kernels}] {title}", file=sys.stderr, flush=True)
    rows = [
        (r.title, f"{r.predicted / 1e3:.0f}", f"{r.seconds * 1e6:.0f}", f"{r.correlation:.2f}", f"{r.best:.2f}") for r in found
    ]
    header = ("kernel", "predicted kcycles", "measured us", "correlation of tiles", "best tile / default")
    click.echo(format_table(header, rows, right=(1, 2, 3, 4)))
    times = spearman([r.predicted for r in found], [r.seconds for r in found])
    rates = spearman([r.work / r.predicted for r in found], [r.work / r.seconds for r in found])
    inside = [r.correlation for r in found if not math.isnan(r.correlation)]
    click.echo(
        f"rank correlation of kernels: time {times:.2f}, rate {rates:.2f}; of tiles, mean {mean(inside or [math.nan]):.2f}"
    )


if __name__ == "__main__":
    main()
