"""Cutting a graph into groups: an anchor, the pointwise nodes that follow it, and the element-by-element nodes that feed it.

Conv -> Add(residual) -> Relu             =>   one group, anchor Conv, epilogue Add, Relu
Mul -> Tanh -> Cast                       =>   one group, anchor Cast, prologue Mul, Tanh
Transpose -> Add -> Softmax               =>   one group where Softmax reads each element about once, else two
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

from ..ir.graph import Graph, Node, TensorType
from .group import Group
from .ops.registry import OpDef, lookup

MAX_NODES = 24
"""Nodes in a group: compile time and register pressure grow with it."""
MAX_RESIDUALS = 2
"""Values of the size of the result, at most, that an epilogue reads: a register tile waits for a few lines of each, which processors
foresee in few places at a time. What is left is added by the next group, or one of its own, which reads them in order."""
PIXELS = 4
"""From so many pixels for each output channel on, scaling the weights of a 1x1 convolution costs less than scaling its image."""


def fuse(graph: Graph, *, allowed: Callable[[Node], bool] = lambda node: True) -> list[Group]:
    """The groups of ``graph`` in an order in which they can run. A node that is not ``allowed`` is a group of its own."""
    return _Fusion(graph, allowed).run()


@dataclass
class _Fusion:
    graph: Graph
    allowed: Callable[[Node], bool]
    taken: set[str] = field(default_factory=set)

    def run(self) -> list[Group]:
        graph = self.graph
        self.users = graph.users()
        self.outputs = set(graph.outputs)
        self.producers = graph.producers()
        self.position = {node.outputs[0]: i for i, node in enumerate(graph.nodes)}
        members: list[tuple[list[Node], Node]] = []
        for node in graph.nodes:
            if self._has(node) or definition_of(node).kind not in ("reduction", "nest"):
                continue
            group = [node]
            self._take(node)
            if definition_of(node).epilogue and not self._joined_in_place(node):
                self._epilogue(group)
            takes = definition_of(node).prologue or definition_of(node).moves
            if takes and not (len(group) == 1 and self._only_places(node)):
                group = self._prologue(group, node) + group
            members.append((self._scale(node) + group, node))
        for node in reversed(graph.nodes):
            if self._has(node):
                continue
            self._take(node)
            prologue = self._prologue([node], node) if definition_of(node).prologue else []
            members.append(([*prologue, node], node))
        groups = [self._group(nodes, anchor) for nodes, anchor in members]
        return self._ordered(groups)

    def _has(self, node: Node) -> bool:
        return node.outputs[0] in self.taken

    def _take(self, node: Node) -> None:
        self.taken.add(node.outputs[0])

    def _single_use(self, name: str) -> Node | None:
        users = self.users.get(name, [])
        if name in self.outputs or len(users) != 1 or (users[0].inputs.count(name) != 1 and users[0].op != "Mul"):
            return None
        return users[0]

    def _epilogue(self, group: list[Node]) -> None:
        """Appends the pointwise nodes that follow one after the other, as long as each makes the anchor's shape."""
        shape = self._shape(group[0].outputs[0])
        if any(o for o in group[0].outputs[1:]):
            return
        residuals = 0
        while len(group) < MAX_NODES:
            user = self._single_use(group[-1].outputs[0])
            if user is None or self._has(user) or not self.allowed(user) or not self.allowed(group[0]):
                return
            if definition_of(user).kind != "pointwise" or self._shape(user.outputs[0]) != shape or len(user.outputs) != 1:
                return
            read = [name for name in user.inputs if name and name not in (group[-1].outputs[0], *self.graph.constants)]
            residuals += sum(self._shape(name) == shape for name in read)
            if residuals > MAX_RESIDUALS:
                return
            group.append(user)
            self._take(user)

    def _prologue(self, group: list[Node], anchor: Node) -> list[Node]:
        """The pointwise and injective nodes that only feed this group, in topological order."""
        found: list[Node] = []
        pending = [name for node in group for name in node.inputs if name] if definition_of(anchor).kind in (
            "pointwise", "injective"
        ) else [name for name in anchor.inputs if name]  # fmt: skip
        inside = {id(node) for node in group}
        while pending and len(found) + len(group) < MAX_NODES:
            name = pending.pop()
            producer = self.producers.get(name)
            if producer is None or self._has(producer) or not self.allowed(producer) or not self.allowed(anchor):
                continue
            if definition_of(producer).kind not in ("pointwise", "injective") or name in self.outputs:
                continue
            if not definition_of(anchor).prologue and producer.op != "Transpose":
                continue
            if len(producer.outputs) != 1 or any(id(user) not in inside for user in self.users.get(name, [])):
                continue
            once = len(self.users[name]) == 1 and self.users[name][0].inputs.count(name) == 1
            if not once and (len(self.users[name]) > 1 or definition_of(anchor).kind != "pointwise"):
                continue
            found.append(producer)
            inside.add(id(producer))
            self._take(producer)
            if definition_of(producer).prologue:
                pending.extend(n for n in producer.inputs if n)
        return sorted(found, key=lambda node: self.position[node.outputs[0]])

    def _scale(self, node: Node) -> list[Node]:
        """The product by one number a channel that makes the image of a 1x1 convolution (squeeze and excite), where scaling the weights
        instead is less work."""
        weights = self.graph.constants.get(node.inputs[1]) if node.op == "Conv" else None
        product = self.producers.get(node.inputs[0])
        if (
            weights is None
            or product is None
            or product.op != "Mul"
            or self._has(product)
            or len(weights) != weights.size // weights.shape[1]
        ):
            return []
        if not (self.allowed(node) and self.allowed(product)) or self._single_use(node.inputs[0]) is not node:
            return []
        image, out = self._shape(node.inputs[0]), self._shape(node.outputs[0])
        channels = (*image[:2], *(1 for _ in image[2:]))
        pixels = prod(out[2:])
        if image[0] > 1 or weights.shape[1] != image[1] or {self._shape(n) for n in product.inputs} != {image, channels}:
            return []
        if image[2:] != out[2:] or pixels < PIXELS * len(weights):
            return []
        self._take(product)
        return [product]

    def _only_places(self, node: Node) -> bool:
        """Whether what a Concat joins, or a Split cuts, are ranges of memory: then it is best made there, and nothing is moved."""
        if node.op not in ("Concat", "Split"):
            return False
        shape = self._shape(node.outputs[0])
        return prod(shape[: int(node.attrs.get("axis", 0)) % len(shape)]) == 1  # type: ignore[arg-type]

    def _joined_in_place(self, node: Node) -> bool:
        """Whether a Concat is of results of other groups, which write them where they are joined: reading them there costs nothing."""
        made = [self.producers.get(name) for name in node.inputs]
        return node.op == "Concat" and self._only_places(node) and all(maker is not None and self._has(maker) for maker in made)

    def _shape(self, name: str) -> tuple[int, ...]:
        kind = self.graph.types[name]
        assert isinstance(kind, TensorType) and kind.static_shape is not None
        return kind.static_shape

    def _group(self, nodes: list[Node], anchor: Node) -> Group:
        made = {o for node in nodes for o in node.outputs if o}
        inputs = dict.fromkeys(n for node in nodes for n in node.inputs if n and n not in made)
        inside = {id(node) for node in nodes}
        outputs = [
            o
            for node in nodes
            for o in node.outputs
            if o and (o in self.outputs or any(id(u) not in inside for u in self.users.get(o, [])))
        ]
        if not outputs:
            outputs = [nodes[-1].outputs[0]]
        return Group(tuple(nodes), anchor, tuple(inputs), tuple(outputs))

    def _ordered(self, groups: list[Group]) -> list[Group]:
        """Topological order of the groups (a group runs when its last input is there)."""
        maker = {o: i for i, group in enumerate(groups) for node in group.nodes for o in node.outputs if o}
        ordered: list[Group] = []
        state = [0] * len(groups)
        roots = sorted(range(len(groups)), key=lambda i: max(self.position[n.outputs[0]] for n in groups[i].nodes))
        for root in roots:
            stack = [(root, False)]
            while stack:
                i, done = stack.pop()
                if done:
                    state[i] = 2
                    ordered.append(groups[i])
                elif state[i] == 0:
                    state[i] = 1
                    stack.append((i, True))
                    stack.extend((maker[n], False) for n in groups[i].inputs if n in maker and state[maker[n]] == 0)
        return ordered


def definition_of(node: Node) -> OpDef:
    definition = lookup(node.domain, node.op)
    assert definition is not None, node
    return definition
