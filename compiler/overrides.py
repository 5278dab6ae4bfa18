"""Options of nodes and operator types against the kernels that there are: what schedules cannot do is refused with the reason and what is
legal; of a node that has no kernel of its own, the user is told."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

from ..codegen.target import Target
from ..ir.errors import ConfigError
from ..ir.graph import Node
from .algorithms import algorithm_of, legal_algorithms
from .choices import Choices, IllegalChoice
from .config import Config, NodeOptions
from .group import Group
from .layout import WHOLE_VECTORS, legal_layouts
from .notices import ConfigWarning, Notices, TuningWarning
from .schedule.phases import count_phases
from .tensor import Tensor

SCHEDULED = ("tile.m", "tile.n", "tile.k", "order", "tasks", "unroll", "prefetch")
"""The options that schedules ask for."""


def without_illegal(error: IllegalChoice, anchor: Node, options: NodeOptions, config: Config, notices: Notices) -> NodeOptions:
    """``options`` without the one that a schedule cannot do: a global one acts where it can, a tuned one is warned of.

    Raises ``ConfigError`` for one that a table for the node or its operator type sets.
    """
    name = error.choice.name
    scope = config.scope_of(anchor.op, anchor.name, name)
    if scope:
        raise ConfigError(f"{scope}.{error} (node {anchor.name or anchor.outputs[0]!r})") from None
    if config.given(name) is None:
        notices.add(TuningWarning(f"the tuned {error} is ignored (node {anchor.name or anchor.outputs[0]!r})"))
    return options.without(name)


def check_layouts(
    refused: Iterable[tuple[Node, IllegalChoice]],
    options: Callable[[Node], NodeOptions],
    config: Config,
    target: Target,
    notices: Notices,
) -> None:
    """``ConfigError`` for a layout that a table for a node or its operator type sets and that it cannot have, or that is none on
    ``target``."""
    if config.layout not in ("auto", *legal_layouts(target)):
        legal = ", ".join(map(repr, ("auto", *legal_layouts(target))))
        raise ConfigError(f"layout = {config.layout!r}: {WHOLE_VECTORS}; legal: {legal}")
    for anchor, error in refused:
        without_illegal(error, anchor, options(anchor), config, notices)


def check_overrides(
    group: Group,
    tensors: Mapping[str, Tensor],
    constants: Container[str],
    options: NodeOptions,
    config: Config,
    target: Target,
    choices: Choices,
) -> None:
    """``ConfigError`` for an option that a node's own table sets, and that its kernel does not have."""
    node = group.anchor
    if node.name not in config.node:
        return
    own = f'node."{node.name}"'
    if options.conv.startswith("winograd") and config.scope_of(node.op, node.name, "conv") == own:
        if node.op != "Conv":
            raise ConfigError(f"{own}.conv = {options.conv!r}: {node.op} is no convolution")
        algorithm = algorithm_of(node, tensors, constants, options, target)
        if not algorithm.transforms:
            legal = ", ".join(map(repr, ("auto", *legal_algorithms(node, tensors, constants, options, target))))
            raise ConfigError(f"{own}.conv = {options.conv!r}: {algorithm.reason}; legal: {legal}")
    wanted = options.filters != "auto" and config.scope_of(node.op, node.name, "filters") == own
    forms = algorithm_of(node, tensors, constants, options, target).transforms if wanted and node.op == "Conv" else ()
    if wanted and not forms:
        raise ConfigError(f"{own}.filters = {options.filters!r}: it is not computed by Winograd's algorithm; legal: 'auto'")
    if options.filters == "kernel" and wanted and count_phases(forms) > 1:
        raise ConfigError(f"{own}.filters = {options.filters!r}: it has strides; legal: 'auto', 'plan'")
    for name in SCHEDULED:
        if config.scope_of(node.op, node.name, name) == own and options.given(name) is not None and name not in choices.taken:
            there = ", ".join(f"{choice.name} ({choice.legal_text})" for choice in choices.taken.values()) or "nothing"
            raise ConfigError(
                f"{own}.{name} = {options.given(name)!r}: the kernel of {group.title} has no such choice; it chooses {there}"
            )


def ineffective(groups: Sequence[Group], kernels: Sequence[Group], config: Config) -> Iterator[ConfigWarning]:
    """Says of each node of ``groups`` with a table of its own why that changes no kernel; ``kernels`` are the groups that have one."""
    own = {group.anchor.name for group in kernels}
    for group in groups:
        for node in group.nodes:
            if node.name not in config.node or node.name in own:
                continue
            anchor = group.anchor
            if node is anchor:
                yield no_effect(node.name, f"its {node.op} needs no kernel: what it makes is seen or written where it lies")
            else:
                named = f'node."{anchor.name}"' if anchor.name else f"the {anchor.op} that makes {anchor.outputs[0]!r}"
                yield no_effect(
                    node.name, f"its {node.op} is part of the kernel of {named} ({group.title}), whose options decide"
                )


def no_effect(name: str, reason: str) -> ConfigWarning:
    """What is said of a node whose table changes nothing."""
    return ConfigWarning(f'the options of node."{name}" have no effect: {reason}')
