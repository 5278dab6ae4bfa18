"""Layouts: NCHWc through a whole network, converted only where an operator cannot have it.

    x (NCHW) -> Conv -> Relu -> Conv -> Softmax        =>        x -> Conv -> [NCHW8c] Relu -> Conv -> [to NCHW] -> Softmax

A convolution makes its output in blocks of the target's lanes, so that a vector holds channels of one pixel, or in larger ones that an
option asks for; whatever reads elements by their logical index (pointwise groups, pooling) keeps the layout it is given. A value that
padding convolutions read gets a halo of zeros, which its producer writes, so that their loops have no borders.
Everything else gets a converted copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from ..codegen.target import Target
from ..ir import dtypes
from ..ir.graph import Graph, Node
from .algorithms import Algorithm, algorithm_of, groups_of
from .choices import Choice, IllegalChoice
from .config import NodeOptions
from .group import Group
from .ops.concat import split_sizes
from .ops.conv_transpose import axes_of
from .ops.convolution import kernel_extents, padding
from .ops.infer import InferContext
from .ops.pairs import is_of_pairs, is_view
from .ops.reduce import reduced_axes
from .ops.registry import lookup
from .schedule.prefetching import LINE
from .tensor import PLAIN, Layout, Tensor

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
POOLING = frozenset({"MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"})
"""Reductions that read and write by logical index, channel by channel."""
CHANNEL_MOVES = frozenset({"Concat", "Split"})
"""Operators that move whole channels: with whole blocks, they work on blocks as on anything else; Concat can move parts of blocks too."""
BLOCKED = frozenset({dtypes.float32, dtypes.int32, dtypes.int16, dtypes.int8, dtypes.uint8})
"""Dtypes of what is made in blocks of channels."""
MIN_USES = 128
"""Products that each element of an image takes part in, from which on blocks of channels made for one convolution pay."""
VECTORS = (1, 2, 4)
"""Of a block of channels."""
WHOLE_VECTORS = "a block is one, two or four vectors of the target"


def legal_layouts(target: Target) -> dict[str, int]:
    """What the option ``layout`` may be on a target, apart from ``auto``, with the channels of a block."""
    return {str(Layout(block)): block for block in (0, *(n * target.block for n in VECTORS))}


@dataclass(frozen=True)
class LaidOut:
    """Groups with conversions among them, and the tensors of each group as its kernel sees them."""

    groups: tuple[Group, ...]
    views: dict[Group, dict[str, Tensor]]
    refused: tuple[tuple[Node, IllegalChoice], ...] = ()
    """Anchors whose option ``layout`` asks for what they cannot have; they have what they would have without."""


def assign_layouts(
    graph: Graph,
    groups: Iterable[Group],
    tensors: dict[str, Tensor],
    constants: dict[str, np.ndarray],
    target: Target,
    options: Callable[[Node], NodeOptions],
) -> LaidOut:
    """Chooses the layout of every value in ``tensors`` (changed in place) and inserts conversions. ``options`` are those of an anchor."""
    return _Layouts(graph, list(groups), tensors, constants, target, options).run()


@dataclass
class _Layouts:
    graph: Graph
    groups: list[Group]
    tensors: dict[str, Tensor]
    constants: dict[str, np.ndarray]
    target: Target
    options: Callable[[Node], NodeOptions]
    result: list[Group] = field(default_factory=list)
    views: dict[Group, dict[str, Tensor]] = field(default_factory=dict)
    converted: dict[tuple[str, Layout], str] = field(default_factory=dict)
    refused: list[tuple[Node, IllegalChoice]] = field(default_factory=list)

    def run(self) -> LaidOut:
        self.block = self.target.block
        for group in self.groups:
            block = self.output_block(group)
            for name in (o for node in group.nodes for o in node.outputs if o in self.tensors):
                if block and (is_view(group.anchor) or self.blockable(self.tensors[name])):
                    self.tensors[name] = replace(self.tensors[name], layout=Layout(block))
        self.add_halos()
        for group in self.groups:
            self.place(group)
        self.graph.outputs = tuple(
            name if self.tensors[name].layout.plain else self.convert(name, PLAIN) for name in self.graph.outputs
        )
        return LaidOut(tuple(self.result), self.views, tuple(self.refused))

    # --- choice ----------------------------------------------------------------------------------------------------------------

    def output_block(self, group: Group) -> int:
        """The channel block in which a group makes its outputs; 0 for row-major."""
        asked, usual = self.options(group.anchor).layout, self.usual_block(group)
        if asked == "auto":
            return usual
        every = legal_layouts(self.target)
        legal = {
            name: block for name, block in every.items() if block in (0, usual) or (usual and self.in_blocks(group, block))
        }
        if asked not in legal:
            channels = self.tensors[group.anchor.outputs[0]].shape[1:2]
            reason = f"{channels[0]} channels are no such blocks" if usual else "what it makes is not in blocks of channels"
            choice = Choice("layout", asked, str(Layout(usual)), ("auto", *legal))
            self.refused.append((group.anchor, IllegalChoice(choice, reason if asked in every else WHOLE_VECTORS)))
        return legal.get(asked, usual)

    def in_blocks(self, group: Group, block: int) -> bool:
        """Whether what a group makes, which is in blocks of channels, is in whole ones of ``block``."""
        node, made = group.anchor, (self.tensors[name] for name in group.outputs)
        if any(self.blockable(tensor) and tensor.shape[1] % block for tensor in made):
            return False
        if node.op in CHANNEL_MOVES:
            return self.whole_blocks(group, block)
        return node.op not in CONVOLUTIONS or self.conv_blocks(node, block)

    def usual_block(self, group: Group) -> int:
        """The block of the target where a convolution can have it, or that of what is read by logical index."""
        anchor = group.anchor
        out = self.tensors[anchor.outputs[0]]
        if is_view(anchor):
            return self.tensors[anchor.inputs[0]].layout.block // 2 if anchor.attrs.get("axis") == 1 else 0
        if not self.blockable(out) or not self.fits(group, out):
            return 0
        if anchor.op in CONVOLUTIONS:
            return self.block if self.conv_blocks(anchor, self.block) else 0
        if not self.keeps_layout(group):
            return 0
        sizes: dict[int, int] = {}
        alike = [t for t in (self.tensors[n] for n in group.inputs) if len(t.shape) == len(out.shape)]
        for tensor in (tensor for tensor in alike if tensor.layout.block):
            sizes[tensor.layout.block] = sizes.get(tensor.layout.block, 0) + tensor.nbytes
        common = sorted(sizes, key=lambda block: (-sizes[block], block))
        blocked = {n for n in group.inputs if self.tensors[n].layout.block}
        if anchor.op in CHANNEL_MOVES:
            if not blocked or blocked != set(self.moved(anchor)) - self.constants.keys():
                return 0
            whole = next((block for block in (*common, self.block) if self.whole_blocks(group, block)), 0)
            return whole or (self.block if self.joined_for_blocks(group) else 0)
        other = [
            self.tensors[n].nbytes
            for n in group.inputs
            if n not in blocked and n not in self.constants and len(self.tensors[n].shape) == len(out.shape)
        ]
        return common[0] if common and sum(sizes.values()) >= sum(other) else 0

    def blockable(self, tensor: Tensor) -> bool:
        return len(tensor.shape) >= 3 and tensor.dtype in BLOCKED and tensor.shape[1] >= self.block

    def fits(self, group: Group, out: Tensor) -> bool:
        """Whether every operand of a blocked group can be read: of the same shape, or broadcast in whole blocks."""
        whole = out.shape[1] % self.block == 0
        for name in group.outputs:
            if self.tensors[name].dtype not in BLOCKED and group.anchor.op not in CHANNEL_MOVES:
                return False
        if whole:
            return True
        if any(_is_operand(group, name) for name in self.weights(group)):
            return False
        for tensor in (self.tensors[n] for n in group.inputs if n not in self.constants and n not in group.anchor.inputs):
            if len(tensor.shape) == len(out.shape) - 1 and tensor.shape[0] > 1:
                return False
        for node in group.nodes:
            definition = lookup(node.domain, node.op)
            if node.op in CONVOLUTIONS:
                if len(node.inputs) > 2 and node.inputs[2] and node.inputs[2] not in self.constants:
                    return False
            elif node.op != "Concat" and not self.pools(node) and (definition is None or definition.kind != "pointwise"):
                return False
        return True

    def pools(self, node: Node) -> bool:
        """Whether a node reduces each channel by itself, to an image or to one element."""
        if node.op in POOLING:
            return True
        if not node.op.startswith("Reduce") or node.op == "ReduceLogSumExp" or node.attrs.get("keepdims", 1) != 1:
            return False
        values = tuple(self.constants.get(name) for name in node.inputs)
        rank = len(self.tensors[node.inputs[0]].shape)
        return rank >= 3 and reduced_axes(self.shapes(node, values)) == tuple(range(2, rank))

    def shapes(self, node: Node, values: tuple[np.ndarray | None, ...] = ()) -> _Shapes:
        """What shape inference of a node would see."""
        return _Shapes(node, tuple(None for _ in node.inputs), values, self.tensors)

    def conv_blocks(self, node: Node, block: int) -> bool:
        """Whether no block of a convolution's results has channels of two groups."""
        w = self.tensors[node.inputs[1]]
        groups = groups_of(node)
        if node.inputs[1] not in self.constants or (groups > 1 and is_of_pairs(node)):
            return False
        per_in, per_out = (w.shape[1], w.shape[0] // groups) if node.op == "Conv" else (w.shape[0] // groups, w.shape[1])
        return groups == 1 or (per_in == 1 and per_out == 1) or (per_in % block == 0 and per_out % block == 0)

    def keeps_layout(self, group: Group) -> bool:
        """Whether every node of a group reads and writes by logical index only, without mixing channels across blocks."""
        for node in group.nodes:
            definition = lookup(node.domain, node.op)
            if self.pools(node) or (node.op in CHANNEL_MOVES and node is group.anchor):
                if node.op == "MaxPool" and len(node.outputs) > 1 and node.outputs[1]:
                    return False
                continue
            if node.op in ("Pairs", "Paired"):
                continue
            if definition is None or definition.kind != "pointwise" or len(node.outputs) > 1:
                return False
            if node.op in ("BatchNormalization", "PRelu"):
                return False
        return True

    def whole_blocks(self, group: Group, block: int) -> bool:
        """Concat or Split along the channels, in whole blocks of so many."""
        node = group.anchor
        moved = self.moved(node)
        shapes = [self.tensors[name].shape for name in moved]
        axis = int(node.attrs.get("axis", 0))  # type: ignore[arg-type]
        if len(group.nodes) > 1 or axis % len(shapes[0]) != 1:
            return False
        channels = [shape[1] for shape in shapes]
        if node.op == "Split":
            values = tuple(self.constants.get(name) for name in node.inputs)
            channels += split_sizes(self.shapes(node, values))
        return all(count % block == 0 for count in channels)

    def joined_for_blocks(self, group: Group) -> bool:
        """Whether a Concat along the channels is only read by what reads blocks: those are made at once then, of parts of blocks."""
        node = group.anchor
        if node.op != "Concat" or int(node.attrs.get("axis", 0)) % len(self.tensors[node.inputs[0]].shape) != 1:  # type: ignore[arg-type]
            return False
        made = set(group.outputs)
        readers = [reader for reader in self.groups if made & set(reader.inputs)]
        return not made & set(self.graph.outputs) and all(
            self.by_index(reader) and reader.anchor.op not in CHANNEL_MOVES for reader in readers
        )

    def joins_parts(self, group: Group) -> bool:
        """Whether a group joins channels in blocks, not all of which are whole: it reads and writes by logical index."""
        block = self.tensors[group.anchor.outputs[0]].layout.block
        return group.anchor.op == "Concat" and block > 0 and not self.whole_blocks(group, block)

    def moved(self, node: Node) -> tuple[str, ...]:
        """The inputs whose channels a Concat or Split moves."""
        return node.inputs if node.op == "Concat" else node.inputs[:1]

    def add_halos(self) -> None:
        """A value gets the largest padding of the convolutions that read it, when its producer can write around it."""
        makers = {name: group for group in self.groups for name in group.outputs}
        wanted: dict[str, list[tuple[int, int]]] = {}
        others: set[str] = set(self.graph.outputs)
        for group in self.groups:
            for name in group.inputs:
                pads = self.pads(group, name)
                if pads is None:
                    moves = group.anchor.op in CHANNEL_MOVES
                    if not self.by_index(group) or (moves and not self.joins_images(group) and not self.joins_parts(group)):
                        others.add(name)
                elif any(p or q for p, q in pads):
                    have = wanted.setdefault(name, [(0, 0)] * len(pads))
                    wanted[name] = [(max(a, p), max(b, q)) for (a, b), (p, q) in zip(have, pads, strict=True)]
        ties = self.ties()
        tied = {name for tie in ties for name in tie}
        for names in [*ties, *([name] for name in wanted if name not in tied)]:
            halos = [wanted[name] for name in names if name in wanted]
            if not halos or not all(name in makers and name not in others and self.surrounds(makers[name]) for name in names):
                continue
            halo = tuple((max(p for p, _ in sides), max(q for _, q in sides)) for sides in zip(*halos, strict=True))
            for name in names:
                self.tensors[name] = replace(self.tensors[name], layout=Layout(self.tensors[name].layout.block, halo))

    def ties(self) -> list[list[str]]:
        """Values that are parts of each other in memory, and so have one halo: what a Concat joins or a Split cuts along the channels of
        one image."""
        tie: dict[str, list[str]] = {}
        for group in (group for group in self.groups if is_view(group.anchor) or self.joins_images(group)):
            parts = group.inputs if is_view(group.anchor) else self.moved(group.anchor)
            names = dict.fromkeys(n for name in (*parts, *group.outputs) for n in tie.get(name, [name]))
            if not any(name in self.constants for name in names):
                tie.update((name, list(names)) for name in names)
        return list({id(names): names for names in tie.values()}.values())

    def joins_images(self, group: Group) -> bool:
        """Whether a group only joins or cuts the channels of one image, all in one layout."""
        node = group.anchor
        if node.op not in CHANNEL_MOVES or len(group.nodes) > 1 or self.joins_parts(group):
            return False
        names = [n for n in (*group.inputs, *group.outputs) if n in group.outputs or n in self.moved(node)]
        shapes = [self.tensors[n].shape for n in names]
        axis = int(node.attrs.get("axis", 0)) % len(shapes[0])  # type: ignore[arg-type]
        one = len(shapes[0]) >= 3 and shapes[0][0] == 1 and axis == 1
        return one and len({self.tensors[n].layout for n in names}) == 1

    def surrounds(self, group: Group) -> bool:
        """Whether a group can write a halo around its outputs: by itself, or because the parts that it joins or cuts have it."""
        moves = group.anchor.op in CHANNEL_MOVES and not self.joins_parts(group)
        return self.joins_images(group) if moves else self.by_index(group)

    def pads(self, group: Group, name: str) -> list[tuple[int, int]] | None:
        """How far a convolution reads a value before its first and behind its last element; None for any other reader."""
        node = group.anchor
        if node.op not in CONVOLUTIONS or name != node.inputs[0] or name in node.inputs[1:]:
            return None
        context = self.shapes(node)
        if node.op == "ConvTranspose":
            return [axis.reach() for axis in axes_of(context)]
        _, dilated = kernel_extents(context)
        before, after = padding(context, self.tensors[name].shape[2:], dilated)
        algorithm = self.algorithm(group)
        if algorithm.regions:
            return [(0, 0)] * len(before)
        beyond = algorithm.overhang(self.tensors[node.outputs[0]].shape[2:])
        return [(p, q + more) for p, q, more in zip(before, after, beyond, strict=True)]

    def algorithm(self, group: Group) -> Algorithm:
        """How a convolution is computed."""
        node = group.anchor
        return algorithm_of(node, self.tensors, self.constants, self.options(node), self.target)

    def by_index(self, group: Group) -> bool:
        return group.anchor.op in CONVOLUTIONS or self.keeps_layout(group)

    # --- conversions -----------------------------------------------------------------------------------------------------------

    def place(self, group: Group) -> None:
        """Adds a group to the result, its inputs converted to layouts that it can read."""
        out = self.tensors[group.outputs[0]]
        if is_view(group.anchor):
            self.result.append(self.paired(group, out))
            return
        renames: dict[str, str] = {}
        for name in group.inputs:
            wanted = self.wanted(group, name, out)
            if wanted != self.tensors[name].layout:
                renames[name] = self.convert(name, wanted)
        placed = _renamed(group, renames)
        self.result.append(placed)
        view = self.view(placed)
        if view:
            self.views[placed] = view

    def paired(self, group: Group, out: Tensor) -> Group:
        """A group that makes pairs, as a view of its input where they lie side by side there."""
        node, source = group.anchor, self.tensors[group.inputs[0]]
        axis = int(node.attrs.get("axis", 0))  # type: ignore[arg-type]
        along = axis == 1 if source.layout.block else axis == len(source.shape) - 1 and source.layout.plain
        if not along or out.layout.halo != source.layout.halo or out.nbytes != source.nbytes:
            return group
        view = Node("Reshape", group.inputs, group.outputs, name=node.name)
        return Group((view,), view, group.inputs, group.outputs)

    def wanted(self, group: Group, name: str, out: Tensor) -> Layout:
        """The layout in which a group reads one of its inputs."""
        tensor, anchor = self.tensors[name], group.anchor
        pads = self.pads(group, name)
        made = out.layout.block
        if pads is not None:
            block = tensor.layout.block if made else 0
            ragged = made and out.shape[1] % made > 0 and _is_operand(group, name)
            if ragged or (made and (groups_of(anchor) > 1 or self.algorithm(group).reads_blocks(tensor.shape[1], made))):
                block = made
            elif made and not block and self.pays_in_blocks(group, name):
                block = self.block if tensor.shape[1] % made else made
            have = tensor.layout.halo or ((0, 0),) * len(pads)
            if block == tensor.layout.block and all(a >= p and b >= q for (a, b), (p, q) in zip(have, pads, strict=True)):
                return tensor.layout
            return Layout(block, tuple(pads) if any(p or q for p, q in pads) else ())
        if anchor.op == "Stack":
            return tensor.layout
        if anchor.op in CHANNEL_MOVES and name in self.moved(anchor):
            return tensor.layout if self.joins_parts(group) and tensor.layout.block == made else out.layout
        if not made:
            return PLAIN if not self.by_index(group) or tensor.layout.block else tensor.layout
        if tensor.shape == () or name in self.weights(group):
            return tensor.layout
        if tensor.layout.block:
            if len(tensor.shape) < len(out.shape):
                return PLAIN  # its second axis is not the one of the output's channels
            return tensor.layout if tensor.layout.block == made else Layout(made)
        shape = (1,) * (len(out.shape) - len(tensor.shape)) + tensor.shape
        if shape[1] == 1 or (out.shape[1] % made == 0 and name in self.constants):
            return tensor.layout
        if tensor.shape == out.shape or (len(tensor.shape) == len(out.shape) and out.shape[1] % made):
            return Layout(made)
        return tensor.layout

    def pays_in_blocks(self, group: Group, name: str) -> bool:
        """Whether a convolution gains more by reading whole blocks of channels than it costs to make them. Each channel of a plain image is
        a line of its own; those of many channels, and the weights, exceed the first cache."""
        node = group.anchor
        image, weights, result = (self.tensors[n] for n in (name, node.inputs[1], node.outputs[0]))
        if node.op != "Conv" or image.shape[1] % self.block or 3 * LINE * image.shape[1] < self.target.l1:
            return False
        uses = weights.shape[0] * prod(weights.shape[2:]) * prod(result.shape[2:])
        return uses >= MIN_USES * prod(image.shape[2:])

    def weights(self, group: Group) -> set[str]:
        return set(group.anchor.inputs[1:]) if group.anchor.op in CONVOLUTIONS else set()

    def convert(self, name: str, layout: Layout) -> str:
        """The value in another layout: a constant is converted now, anything else by a group of its own."""
        found = self.converted.get((name, layout))
        if found is not None:
            return found
        tensor = self.tensors[name]
        title = self.converted[name, layout] = f"{name} as {layout}"
        self.tensors[title] = Tensor(title, tensor.dtype, tensor.shape, layout)
        if name in self.constants:
            self.constants[title] = to_layout(self.constants[name], self.tensors[title])
            return title
        blocks = [have.block for have in (layout, tensor.layout) if have.block]
        points = all(e == 1 for e in tensor.shape[2:]) and not any(tensor.shape[1] % block for block in blocks)
        same_memory = points and not layout.halo and not tensor.layout.halo
        node = Node("Reshape" if same_memory else "Identity", (name,), (title,), name=f"{name} to {layout}")
        self.result.append(Group((node,), node, (name,), (title,)))
        return title

    # --- what a kernel sees ------------------------------------------------------------------------------------------------------

    def view(self, group: Group) -> dict[str, Tensor]:
        """Tensors seen in another shape of the same memory, where that makes the loops longer or the layout plain."""
        names = (*group.inputs, *group.outputs)
        if self.joins_parts(group):
            return {}
        if group.anchor.op in CHANNEL_MOVES:
            return {
                n: Tensor(n, self.tensors[n].dtype, self.tensors[n].physical) for n in names if not self.tensors[n].layout.plain
            }
        if group.anchor.op == "Conv" and self.flattens(group):
            spatial = self.tensors[group.anchor.outputs[0]].shape[2:]
            inside = [o for node in group.nodes for o in node.outputs if o]
            every = dict.fromkeys([*names, *inside])
            return {n: _flat(self.tensors[n]) for n in every if self.tensors[n].shape[2:] == spatial}
        return {}

    def flattens(self, group: Group) -> bool:
        """Whether a convolution is a matrix product over all pixels: 1x1, stride 1, no halo anywhere. An image that is a constant is packed
        by its own index."""
        node = group.anchor
        x, w, y = (self.tensors[n] for n in (*node.inputs[:2], node.outputs[0]))
        if (
            any(k != 1 for k in w.shape[2:])
            or node.inputs[0] in self.constants
            or x.shape[2:] != y.shape[2:]
            or len(y.shape) < 4
            or (x.layout.block and not y.layout.block)
        ):
            return False
        names = [n for n in (*group.inputs, *group.outputs) if n not in node.inputs[1:]]
        for tensor in (self.tensors[n] for n in names):
            same = tensor.shape[2:] == y.shape[2:] and len(tensor.shape) == len(y.shape)
            if tensor.layout.halo or not (same or all(e == 1 for e in tensor.shape[-len(y.shape) + 2 :])):
                return False
        return True


@dataclass(frozen=True)
class _Shapes(InferContext):
    """Shapes by value name, for the helpers that read them from a context."""

    tensors: dict[str, Tensor]

    def shape(self, i: int) -> tuple[int, ...]:
        return self.tensors[self.node.inputs[i]].shape


def _is_operand(group: Group, name: str) -> bool:
    """Whether nodes besides the anchor read a value: whole blocks of it, where the output is in blocks."""
    return any(name in node.inputs for node in group.nodes if node is not group.anchor)


def _flat(tensor: Tensor) -> Tensor:
    n, c, *spatial = tensor.shape
    return replace(tensor, shape=(n, c, *(1,) * (len(spatial) - 1), int(np.prod(spatial))))


def _renamed(group: Group, names: dict[str, str]) -> Group:
    if not names:
        return group
    nodes = {id(n): n.replace(inputs=tuple(names.get(i, i) for i in n.inputs)) for n in group.nodes}
    return Group(
        tuple(nodes[id(n)] for n in group.nodes),
        nodes[id(group.anchor)],
        tuple(dict.fromkeys(names.get(n, n) for n in group.inputs)),
        group.outputs,
    )


def to_layout(array: np.ndarray, tensor: Tensor) -> np.ndarray:
    """A constant in the memory order of ``tensor``; padding channels and halo are zero."""
    block = tensor.layout.block
    array = np.pad(array, tensor.margins)
    if not block:
        return np.ascontiguousarray(array)
    n, c, *rest = array.shape
    blocks = -(-c // block)
    array = np.pad(array, [(0, 0), (0, blocks * block - c), *[(0, 0)] * len(rest)])
    split = array.reshape(n, blocks, block, *rest)
    return np.ascontiguousarray(np.moveaxis(split, 2, -1))
