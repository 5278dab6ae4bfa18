"""Entries of a configuration that tuning made: by processor, threads and signature, options and what was measured.

    [tuned."AMD EPYC, znver3, avx2/256, 1 thread"."MatMul: 24x40, const 40x48 -> 24x48"]
    tile = { m = 4, n = 24 }
    gain = 1.08
    space = 1

A layout is an entry for a whole graph (``"All of 53 Conv, ..."``): values pass from kernel to kernel. The signatures of kernels have the
layouts in force, so entries for the kernels of one layout say nothing of those of another.

The place of an entry is that of a processor and a number of threads: what is fast for one thread may leave another one without work.
In files of older versions, ``threads`` is a remark in the entry, which is for as many threads, or for any number where it does not say.

An entry that does not fit (any more) is ignored with a ``TuningWarning``: it makes nothing wrong that it is not there.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from ...codegen.target import Target
from ...ir.errors import ConfigError
from ...ir.graph import Graph, Node
from ..algorithms import legal_algorithms
from ..config import Config, Layout, NodeOptions, Tile
from ..group import Group
from ..layout import WHOLE_VECTORS, assign_layouts, legal_layouts
from ..notices import Notices, TuningWarning
from ..tensor import Tensor
from .signature import graph_signature, processor_key, signature

SPACE = 1
"""The version of the space of schedules; entries for another one are not used."""
REMARKS = frozenset({"gain", "milliseconds", "threads", "space"})
"""What an entry says besides its options."""
CHOSEN = frozenset({"tile", "conv", "order", "tasks", "unroll", "prefetch"})
"""The options that tuning sets for a kernel."""
CHOSEN_FOR_ALL = frozenset({"layout"})
"""The options that tuning sets for a graph."""


def tuned_options(
    graph: Graph,
    groups: Sequence[Group],
    tensors: Mapping[str, Tensor],
    constants: Mapping[str, np.ndarray],
    target: Target,
    config: Config,
    threads: int,
    notices: Notices,
) -> dict[str, NodeOptions]:
    """The options that ``config`` has for the kernels of ``graph`` on this processor with as many threads, by the first output of a group's
    anchor. What does not fit is among the ``notices``."""
    table = entries_for(target, threads, config.tuned, notices)
    found: dict[str, NodeOptions] = {}
    for name, anchor, laid_out in signatures(graph, groups, tensors, constants, target, config):
        if name in table:
            try:
                options = parse_entry(table[name])
                _check_algorithm(anchor, laid_out, constants, options, target)
            except ConfigError as error:
                notices.add(_ignored(name, str(error)))
            else:
                found[anchor.outputs[0]] = options
    return found


def tuned_config(
    graph: Graph,
    groups: Sequence[Group],
    tensors: Mapping[str, Tensor],
    constants: Container[str],
    target: Target,
    config: Config,
    threads: int,
    notices: Notices,
) -> Config:
    """``config`` with the layout that it has for all of ``graph``, where it sets none otherwise."""
    if not searches_layouts(config):
        return config
    name = graph_signature(graph.inputs, groups, graph.outputs, tensors, constants)
    entry = entries_for(target, threads, config.tuned, notices).get(name)
    if entry is None:
        return config
    try:
        layout = parse_layout(entry, target)
    except ConfigError as error:
        notices.add(_ignored(name, str(error)))
        return config
    return replace(config, layout=layout)


def parse_layout(entry: Any, target: Target) -> Layout:
    """The layout of an entry for a graph. Raises ``ConfigError`` for one that the target does not have."""
    layout = parse_entry(entry, CHOSEN_FOR_ALL).layout
    if layout not in ("auto", *legal_layouts(target)):
        raise ConfigError(f"layout = {layout!r}: {WHOLE_VECTORS}; legal: {', '.join(map(repr, legal_layouts(target)))}")
    return layout


def searches_layouts(config: Config) -> bool:
    """Whether the layout of all values is left open."""
    return config.layout == "auto" and config.opt_level == 3


def entries_for(target: Target, threads: int, tuned: Mapping[str, Any], notices: Notices | None = None) -> dict[str, Any]:
    """The entries by signature, those of older files first."""
    found: dict[str, Any] = {}
    for place in (processor_key(target), processor_key(target, threads)):
        table = tuned.get(place, {})
        if isinstance(table, Mapping):
            entries = cast("Mapping[str, Any]", table).items()
            found.update((name, entry) for name, entry in entries if not _is_for_others(entry, threads))
        elif notices is not None:
            notices.add(_ignored(place, f"expected a table of entries, not {table!r}"))
    return found


def _is_for_others(entry: Any, threads: int) -> bool:
    return isinstance(entry, Mapping) and cast("Mapping[str, Any]", entry).get("threads", threads) != threads


def signatures(
    graph: Graph,
    groups: Sequence[Group],
    tensors: Mapping[str, Tensor],
    constants: Mapping[str, np.ndarray],
    target: Target,
    config: Config,
) -> Iterator[tuple[str, Node, Mapping[str, Tensor]]]:
    """The signature and the anchor of each group, and the tensors as they lie where nothing is tuned."""
    known, arrays = dict(tensors), dict(constants)

    def untuned(node: Node) -> NodeOptions:
        return config.for_node(node.op, node.name)

    for group in assign_layouts(graph.copy(), groups, known, arrays, target, untuned).groups:
        yield signature(group, known, arrays), group.anchor, known


def parse_entry(entry: Any, chosen: frozenset[str] = CHOSEN) -> NodeOptions:
    """The options of an entry, of those that are ``chosen``. Raises ``ConfigError`` for what this loopnest does not know."""
    if not isinstance(entry, Mapping):
        raise ConfigError(f"expected a table of options, not {entry!r}")
    entry = cast("Mapping[str, Any]", entry)
    if entry.get("space", SPACE) != SPACE:
        raise ConfigError(f"it is for version {entry['space']} of the space of schedules, this loopnest has version {SPACE}")
    unknown = entry.keys() - REMARKS - chosen
    if unknown:
        raise ConfigError(f"unknown option {', '.join(sorted(unknown))}; known: {', '.join(sorted(chosen))}")
    options = {key: value for key, value in entry.items() if key in chosen}
    if isinstance(options.get("tile"), Mapping):
        options["tile"] = Tile(**options["tile"])
    return NodeOptions(**options)


def _check_algorithm(
    node: Node, tensors: Mapping[str, Tensor], constants: Mapping[str, np.ndarray], options: NodeOptions, target: Target
) -> None:
    if options.conv == "auto":
        return
    legal = legal_algorithms(node, tensors, constants, options, target) if node.op == "Conv" else ()
    if options.conv not in legal:
        raise ConfigError(f"conv = {options.conv!r} is not for this kernel; legal: {', '.join(map(repr, legal)) or 'none'}")


def _ignored(where: str, reason: str) -> TuningWarning:
    return TuningWarning(f"the tuned entry {where!r} is ignored: {reason}")
