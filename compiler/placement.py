"""Where values lie inside of others: views, parts of what is split, and parts of what is joined, which their producers write in place.

    a = Conv(x); b = Conv(y); c = Concat(a, b)      =>      a and b are written to the two halves of c, and nothing is copied
    a, b = Split(c)                                 =>      a and b are halves of c

That is so where the parts are whole ranges of memory: along the outermost axis that has more than one element. A part that cannot be
written in place (an input of the model, a part of something else already) is copied to its place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, MutableMapping
from dataclasses import dataclass, field, replace
from math import prod

from ..ir.graph import Node
from .group import Group
from .tensor import Tensor


@dataclass
class Places:
    """For values that lie inside of others: in which, and how many bytes behind its start."""

    inside: dict[str, tuple[str, int]] = field(default_factory=dict)

    def put(self, name: str, inside: str, offset: int = 0) -> None:
        self.inside[name] = inside, offset

    def find(self, name: str) -> tuple[str, int]:
        """The value whose memory holds ``name``, and the offset there."""
        total = 0
        while name in self.inside:
            name, offset = self.inside[name]
            total += offset
        return name, total

    def root(self, name: str) -> str:
        """The value whose memory holds ``name``."""
        return self.find(name)[0]


def place_parts(
    groups: Iterable[Group],
    places: Places,
    tensors: MutableMapping[str, Tensor],
    fixed: Collection[str],
    outputs: Collection[str],
) -> list[Group]:
    """Gives what Concat and Split groups join and cut its place in ``places``; what is left of these groups are copies.

    ``fixed`` are the values whose memory is not the plan's to choose: inputs and constants; ``outputs`` are the outputs of the graph.
    """
    return _Placement(list(groups), places, tensors, fixed, outputs).run()


@dataclass
class _Placement:
    groups: list[Group]
    places: Places
    tensors: MutableMapping[str, Tensor]
    fixed: Collection[str]
    outputs: Collection[str]
    offsets: dict[str, int] = field(default_factory=dict)

    def run(self) -> list[Group]:
        self.fresh = {self.places.root(name) for name in self.outputs}  # each is the whole of an output's memory
        kept = [group for group in self.groups if not self.is_cut(group)]
        result: list[Group] = []
        for group in reversed(kept):  # the last one first: what it joins may be joined already, to less, before
            result += reversed(self.joined(group)) if self.is_join(group) else [group]
        return result[::-1]

    def is_cut(self, group: Group) -> bool:
        """Whether a group is a Split whose parts are ranges of its input; then they are placed there."""
        node = group.anchor
        if node.op != "Split" or len(group.nodes) > 1:
            return False
        whole, parts = node.inputs[0], [name for name in node.outputs if name]
        root = self.places.root(whole)
        if root in self.fixed or root in self.outputs or any(name in self.fresh for name in parts):
            return False
        if len(parts) < len(node.outputs) or not self.ranges(whole, parts, node):
            return False
        at = 0
        for name in parts:
            self.places.put(name, whole, at)
            at += self.tensors[name].nbytes
        return True

    def is_join(self, group: Group) -> bool:
        node = group.anchor
        return node.op == "Concat" and len(group.nodes) == 1 and self.ranges(node.outputs[0], node.inputs, node)

    def ranges(self, whole: str, parts: Iterable[str], node: Node) -> bool:
        """Whether ``parts`` follow each other in the memory of ``whole``: all axes before the one of the node have one element."""
        tensor = self.tensors[whole]
        pieces = [self.tensors[name] for name in parts]
        axis = int(node.attrs.get("axis", 0)) % len(tensor.shape)  # type: ignore[arg-type]
        return (
            tensor.dtype.bits >= 8
            and prod(tensor.shape[:axis]) == 1
            and (axis == 1 or not tensor.layout.block)
            and (axis <= 1 or not tensor.layout.halo)
            and not any(tensor.layout.block and piece.shape[1] % tensor.layout.block for piece in pieces[:-1])
            and all(piece.layout == tensor.layout for piece in pieces)
            and sum(piece.nbytes for piece in pieces) == tensor.nbytes
        )

    def joined(self, group: Group) -> list[Group]:
        """Places the inputs of a Concat in its output, and gives the copies that remain."""
        whole, parts = group.outputs[0], list(group.anchor.inputs)
        run = self.run_of(parts)
        if run is not None and whole not in self.fresh and self.places.root(whole) == whole:
            self.places.put(whole, *run)
            return []
        copies: list[Group] = []
        moved: list[tuple[str, int]] = []
        at, first = 0, 0
        while first < len(parts):
            root, last = self.movable(parts, first, {self.places.root(whole), *(name for name, _ in moved)})
            if root is not None:
                moved.append((root, at))
            else:
                copies += self.copy(whole, first, parts[first], at)
            at += sum(self.tensors[name].nbytes for name in parts[first:last])
            first = last
        if not moved:
            return [group]
        for (name,) in (copy.outputs for copy in copies):
            self.places.put(name, whole, self.offsets[name])
        for root, at in moved:
            self.places.put(root, whole, at)
        return copies

    def run_of(self, parts: list[str]) -> tuple[str, int] | None:
        """The memory in which ``parts`` follow each other already."""
        root, start = self.places.find(parts[0])
        at = start
        for name in parts:
            if self.places.find(name) != (root, at) or not self.tensors[name].nbytes:
                return None
            at += self.tensors[name].nbytes
        return root, start

    def movable(self, parts: list[str], first: int, taken: Collection[str]) -> tuple[str | None, int]:
        """The value that ``parts`` from ``first`` up to the number given are the whole of, if its memory may be chosen."""
        root, offset = self.places.find(parts[first])
        if offset or root in self.fixed or root in self.fresh or root in taken:
            return None, first + 1
        nbytes, at, last = self.tensors[root].nbytes, 0, first
        while last < len(parts) and at < nbytes and self.places.find(parts[last]) == (root, at):
            at += self.tensors[parts[last]].nbytes
            last += 1
        return (root, last) if at == nbytes else (None, first + 1)

    def copy(self, whole: str, number: int, part: str, at: int) -> list[Group]:
        tensor = self.tensors[part]
        if not tensor.nbytes:
            return []
        name = f"{whole} part {number}"
        self.tensors[name] = replace(tensor, name=name)
        self.offsets[name] = at
        node = Node("Identity", (part,), (name,), name=name)
        return [Group((node,), node, (part,), (name,))]
