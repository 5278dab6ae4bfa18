"""How many bytes a step reads and writes, as profiles count them: all of its operands, but of what is selected from only that part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .group import Group
from .tensor import Tensor

SELECTING = frozenset({"Compress", "Gather", "GatherElements", "GatherND", "Slice"})
"""Operators that read at most one element of their first input for each of the output."""


def traffic(group: Group, tensors: Mapping[str, Tensor], operands: Iterable[str]) -> int:
    """Bytes of ``operands``, the inputs and outputs of the group's kernel, that a call touches."""
    return sum(_touched(group, tensors, name) for name in operands)


def _touched(group: Group, tensors: Mapping[str, Tensor], name: str) -> int:
    whole, part = tensors[name].nbytes, 0
    readers = [node for node in group.nodes if name in node.inputs]
    for node in readers:
        if node.op not in SELECTING or name in node.inputs[1:]:
            return whole
        part += tensors[node.outputs[0]].nbytes
    return min(whole, part) if readers and name not in group.outputs else whole
