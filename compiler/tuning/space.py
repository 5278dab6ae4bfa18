"""What may be tried for a kernel: each choice that its schedule made, made otherwise; tiles in the order of the cost model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from math import prod
from typing import Any

from ...codegen.target import Target
from ..algorithms import MAX_GROWTH, algorithm_of, legal_algorithms
from ..choices import Choices
from ..config import NodeOptions, Tile
from ..schedule.register_blocks import fitting_tiles
from .sites import Trial

TILES = 10
"""Tiles that are tried, the best by the cost model."""
SLOWER = 1.35
"""Tiles that should take so much longer than the best one are not tried."""
ORDERS = ("columns", "rows", "groups")
PARTS = (128, 192, 256, 384, 512)
AHEAD = (0, 100, 400)
UNROLLED = (1, 2, 4, 8)


def candidates(trial: Trial, options: NodeOptions, constants: Mapping[str, Any], target: Target) -> list[NodeOptions]:
    """What to try instead of ``options``, with which ``trial`` was made, the most promising first. Algorithms whose errors are larger than
    the default may make are not among them."""
    choices = trial.choices
    found = [*_algorithms(trial, options, constants, target), *_tiles(choices, options, target)]
    parts = (*PARTS, *_near(choices, "tile.k"))
    for name, values in (("order", ORDERS), ("tile.k", parts), ("unroll", UNROLLED), ("prefetch", AHEAD)):
        found += _others(choices, options, name, values)
    if "tasks" in choices.taken:
        default = int(choices.taken["tasks"].default)
        found += _others(choices, options, "tasks", (default * 2, default // 2, default * 4, 1))
    return list(dict.fromkeys(found))


def _algorithms(trial: Trial, options: NodeOptions, constants: Mapping[str, Any], target: Target) -> Iterator[NodeOptions]:
    node = trial.group.anchor
    if node.op != "Conv":
        return
    now = algorithm_of(node, trial.tensors, constants, options, target)
    for name in legal_algorithms(node, trial.tensors, constants, options, target):
        other = replace(options, conv=name, tile=Tile())
        algorithm = algorithm_of(node, trial.tensors, constants, other, target)
        same = (algorithm.transforms, algorithm.regions) == (now.transforms, now.regions)
        if not same and prod(t.growth for t in algorithm.transforms) <= MAX_GROWTH:
            yield other


def _tiles(choices: Choices, options: NodeOptions, target: Target) -> list[NodeOptions]:
    """Other tiles that fit into the registers."""
    if "tile.m" not in choices.taken:
        return []
    fitting = fitting_tiles(target, 32)
    if choices.cost is None:
        near = [other for name in ("tile.m", "tile.n") for other in _others(choices, options, name, _near(choices, name))]
        if "tile.n" not in choices.taken:
            return near
        rows, columns = choices.taken["tile.m"].legal, choices.taken["tile.n"].legal
        fitting = [t for t in fitting if t.m in rows and t.n in columns and (t.m or 0) * (t.n or 0) >= 8 * target.lanes(32)]
        fitting.sort(key=lambda tile: -(tile.m or 0) * (tile.n or 0))
    else:
        near = []
        costs = {tile: choices.cost(tile) for tile in fitting}
        least = min(costs.values())
        fitting = sorted((tile for tile in fitting if costs[tile] <= SLOWER * least), key=costs.__getitem__)
    return [*(replace(options, tile=options.tile.merged(tile)) for tile in fitting[:TILES]), *near]


def _near(choices: Choices, name: str) -> tuple[int, ...]:
    """Values around that of a choice."""
    choice = choices.taken.get(name)
    if choice is None:
        return ()
    now, step = int(choice.value), choice.legal.step if isinstance(choice.legal, range) else 1
    return now * 2, -(-now // 2), now + step, now - step, now + 2 * step, now - 2 * step


def _others(choices: Choices, options: NodeOptions, name: str, values: tuple[Any, ...]) -> Iterator[NodeOptions]:
    choice = choices.taken.get(name)
    for value in values if choice is not None else ():
        if choice is not None and value in choice.legal and value != choice.value:
            yield with_option(options, name, value)


def with_option(options: NodeOptions, name: str, value: Any) -> NodeOptions:
    """``options`` with the one called ``name`` (dotted) set."""
    first, _, rest = name.partition(".")
    return replace(options, **{first: replace(options.tile, **{rest: value}) if rest else value})


def as_table(options: NodeOptions) -> dict[str, Any]:
    """What of ``options`` is set, as it stands in a file."""
    default = NodeOptions()
    table = {key: value for key, value in asdict(options).items() if value != getattr(default, key)}
    if "tile" in table:
        table["tile"] = {extent: value for extent, value in asdict(options.tile).items() if value is not None}
    if not table.get("tile", True):
        del table["tile"]
    return table
