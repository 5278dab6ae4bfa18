"""Groups that are alike get the same nest: a network repeats its blocks, and lowering one of them is enough."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from .fusion import definition_of
from .group import Group
from .packing import Packer
from .tensor import Tensor

if TYPE_CHECKING:
    from .config import NodeOptions
    from .lowering import Lowered
    from .plan import PlannedStep

SHORT = 16
"""Constants of at most so many elements are compared by value: definitions may put them into the code."""

_PLAIN = (int, float, str, bytes, type(None))


@dataclass(frozen=True)
class Likeness:
    """What lowering a group depends on, apart from the names of its values, which are ``names``, numbered by first appearance."""

    key: Hashable
    names: tuple[str, ...]


def likeness(
    group: Group,
    tensors: Mapping[str, Tensor],
    constants: Mapping[str, np.ndarray],
    options: NodeOptions,
    inplace: tuple[str, str] | None,
) -> Likeness | None:
    """That of ``group``; None where an attribute is more than numbers and text."""
    numbers: dict[str, int] = {}

    def number(name: str) -> int:
        return numbers.setdefault(name, len(numbers)) if name else -1

    nodes: list[Hashable] = []
    decisive: set[str] = set()
    for node in group.nodes:
        attributes = tuple(sorted(node.attrs.items()))
        if not all(
            isinstance(v, _PLAIN) or (isinstance(v, tuple) and all(isinstance(e, _PLAIN) for e in v)) for _, v in attributes
        ):
            return None
        decisive.update(node.input(i) for i in definition_of(node).values)
        nodes.append((node.op, node.domain, attributes, tuple(map(number, node.inputs)), tuple(map(number, node.outputs))))
    border = tuple(tuple(map(number, names)) for names in (group.inputs, group.outputs, inplace or ()))

    def described(name: str) -> Hashable:
        tensor, array = tensors.get(name), constants.get(name)
        known = tensor and (tensor.dtype.name, tensor.shape, tensor.layout)
        if array is None:
            return known, None
        by_value = array.size <= SHORT or array.dtype.kind != "f" or name in decisive
        return known, (array.tobytes() if by_value else b"")

    values = tuple(described(name) for name in numbers)
    return Likeness((tuple(nodes), group.nodes.index(group.anchor), border, values, options), tuple(numbers))


@dataclass
class Lookalikes:
    """The steps planned so far, by likeness."""

    _steps: dict[Hashable, tuple[Likeness, PlannedStep]] = field(default_factory=dict[Hashable, "tuple[Likeness, PlannedStep]"])

    def add(self, like: Likeness, step: PlannedStep) -> None:
        """Keeps a step whose arguments can be told for groups like it, and whose messages name no node."""
        lowered = step.lowered
        known = set(like.names)
        for copy in (*lowered.extensions, *lowered.packings):
            known |= {copy.title} if copy.name in known else set()
        if not lowered.nest.errors and all(isinstance(argument, int) or argument in known for argument in lowered.arguments):
            self._steps[like.key] = like, step

    def find(self, like: Likeness) -> tuple[PlannedStep, dict[str, str]] | None:
        """A step of a like group, and what its values are called here."""
        found = self._steps.get(like.key)
        if found is None:
            return None
        twin, step = found
        return step, dict(zip(twin.names, like.names, strict=True))


def renamed(
    lowered: Lowered, names: Mapping[str, str], constants: MutableMapping[str, np.ndarray], packer: Packer
) -> tuple[str | int, ...]:
    """The arguments of ``lowered`` for values of other ``names``; constants are packed and extended alike."""
    titles = dict(names)
    for extension in lowered.extensions:
        here = replace(extension, name=names[extension.name])
        titles[extension.title] = here.title
        constants[here.title] = here.of(constants[here.name])
    for packing in lowered.packings:
        name = titles[packing.name]
        titles[packing.title], _ = packer.add(name, constants[name], packing.index, packing.order, packing.derive)
    return tuple(argument if isinstance(argument, int) else titles[argument] for argument in lowered.arguments)
