"""Batches computed image by image, with the plan for one image, where what a whole batch moves through memory takes longer.

    [8, 96, 112, 112] float32 are 38 MB, of which each step would read and write all; of one image they are 4.8 MB, which stay in a cache.
    In exchange the weights are read eight times: only where they are few.

Several threads compute an image each, and meet once a call instead of after each step (``runtime/shares.py``).

That needs a proof that nothing passes between images: the graph bound to the shapes of the batch and the graph bound to those of one image
have the same nodes, every value that depends on data differs in its first extent alone, and every operator is one that keeps rows apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from ..codegen.target import Target
from ..ir.errors import LoopnestError
from ..ir.graph import Graph, Node, TensorType
from ..runtime.shares import images_apart
from .ops.registry import lookup
from .seeds import is_random
from .specialize import specialize

GAIN = 0.9
"""As many images at once as there are threads have to take at most so much of a batch's time for memory, by estimate."""
LOST = 0.1
"""What may be lost, of the images, to those that do not share out: one for each worker without, a third of one whose steps are shared."""
L3_NS, MEMORY_NS = 1 / 65, 1 / 20
"""What a byte takes that comes from the third cache or from memory."""

VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
"""Rows stay where they are as long as the first extent is theirs."""
WINDOWS = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "BatchNormalization", "LRN"})
POOLS = frozenset({"GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"})
SUMS = frozenset({"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare"})
"""The first extent stays that of rows only where they are not reduced over."""
ALONG = {"Concat": 0, "Split": 0, "Softmax": -1, "LogSoftmax": -1, "LayerNormalization": -1}
"""Operators along an axis, or from one on, with its default."""


@dataclass(frozen=True)
class Images:
    """``count`` images, and the graph of ``one`` of them."""

    count: int
    one: Graph


def images_of(
    graph: Graph, batch: Graph, inputs: Mapping[str, object], known: frozenset[str], target: Target, threads: int
) -> Images | None:
    """``batch``, which is ``graph`` for ``inputs``, as images; None where they are not apart, or a batch is no slower."""
    given = {name: inputs[name] for name in batch.inputs if name not in batch.constants}
    arrays = [value for value in given.values() if isinstance(value, np.ndarray) and value.ndim > 1]
    count = arrays[0].shape[0] if arrays else 1
    if count < 2 or len(arrays) < len(given) or any(array.shape[0] != count for array in arrays):
        return None
    first = {name: value[:1] if name in given and isinstance(value, np.ndarray) else value for name, value in inputs.items()}
    try:
        special = specialize(graph, first, known)
    except LoopnestError:
        return None
    one = special.graph
    if special.later or not _Apart(batch, one, count).holds(tuple(given)) or not pays(batch, one, count, target, threads):
        return None
    return Images(count, Graph(one.name, tuple(given), batch.outputs, one.nodes, one.constants, one.types))


class _Apart:
    """Whether ``count`` images pass through ``batch`` apart, each as the one that passes through ``one``."""

    def __init__(self, batch: Graph, one: Graph, count: int) -> None:
        self.batch, self.one, self.count = batch, one, count
        self.rows = set[str]()
        """Values whose first extent is the number of images, and of which each row depends on one image."""

    def holds(self, inputs: tuple[str, ...]) -> bool:
        if len(self.batch.nodes) != len(self.one.nodes) or self.batch.outputs != self.one.outputs:
            return False
        self.rows.update(inputs)
        steps = zip(self.batch.nodes, self.one.nodes, strict=True)
        return all(_same(a, b) and self.passes(a) for a, b in steps) and self.rows.issuperset(self.batch.outputs)

    def passes(self, node: Node) -> bool:
        """Whether a node keeps images apart; its results are rows then, if it reads some."""
        made = [name for name in node.outputs if name]
        if not self.rows.intersection(node.inputs):
            return all(self.shapes(name)[0] == self.shapes(name)[1] for name in made) and self.constant(node.inputs)
        if not all(self.is_row(name) for name in made) or not self.keeps_apart(node):
            return False
        self.rows.update(made)
        return node.op in VIEWS or self.constant(name for name in node.inputs if name not in self.rows)

    def keeps_apart(self, node: Node) -> bool:
        first, others = node.inputs[0], self.rows.intersection(node.inputs[1:])
        rank = len(self.shapes(first)[0])
        definition = lookup(node.domain, node.op)
        if definition is not None and definition.kind == "pointwise" and not is_random(node):
            out = len(self.shapes(node.outputs[0])[0])
            return all(len(self.shapes(name)[0]) == out for name in self.rows.intersection(node.inputs))
        if node.op == "Stack":
            return self.rows.issuperset(node.inputs)
        if node.domain not in ("", "ai.onnx") or (any(node.outputs[1:]) and node.op != "Split"):
            return False
        if node.attrs.get("training_mode"):
            return False  # a batch is normalized by its own mean
        if node.op == "Concat":
            return self.rows.issuperset(node.inputs) and self.axis(node) % rank != 0
        if node.op == "MatMul":
            right = len(self.shapes(node.inputs[1])[0])
            return first in self.rows and rank >= 2 and (rank == right >= 3 if others else right <= 2)
        if node.op == "Gemm":
            return first in self.rows and not node.attrs.get("transA", 0) and node.inputs[1] not in self.rows
        if first not in self.rows or others:
            return False
        if node.op == "Transpose":
            permutation = node.attrs.get("perm")
            return isinstance(permutation, tuple | list) and permutation[0] == 0
        return node.op in VIEWS | WINDOWS | POOLS | SUMS or (node.op in ALONG and self.axis(node) % rank != 0)

    def axis(self, node: Node) -> int:
        return int(node.attrs.get("axis", ALONG[node.op]))  # type: ignore[arg-type]

    def is_row(self, name: str) -> bool:
        many, one = self.shapes(name)
        return bool(many) and many[0] == self.count and one == (1, *many[1:])

    def shapes(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        found: list[tuple[int, ...]] = []
        for graph in (self.batch, self.one):
            kind = graph.types.get(name)
            found.append(kind.static_shape or () if isinstance(kind, TensorType) else ())
        return found[0], found[1]

    def constant(self, names: Iterable[str]) -> bool:
        """Whether values that are known are the same for a batch as for one image."""
        pairs = [(self.batch.constants[name], self.one.constants.get(name)) for name in names if name in self.batch.constants]
        return all(a is b or (b is not None and a.dtype == b.dtype and np.array_equal(a, b)) for a, b in pairs)


def _same(a: Node, b: Node) -> bool:
    return (a.op, a.domain, a.inputs, a.outputs) == (b.op, b.domain, b.inputs, b.outputs) and (
        a.attrs is b.attrs or not (a.attrs or b.attrs)
    )


def pays(batch: Graph, one: Graph, count: int, target: Target, threads: int) -> bool:
    """Whether a batch takes longer for memory than as many images at once as there are threads, as far as that can be said before they are
    planned. Threads share the memory, but each reads all weights; those that share steps wait for it at the same time."""
    apart = images_apart(count, threads)
    if (count - apart) / 3 + -apart % threads > LOST * count:
        return False
    weights = sum(array.nbytes for array in one.constants.values())
    moved = [size for node in one.nodes if (size := _moved(one, node))]
    if len(moved) < 2 or max(moved) < target.l2 // 2:
        return False  # nothing stays in a cache for another step, or images are small, and take longer one by one

    def each(nbytes: int) -> float:
        return 0.0 if nbytes <= threads * target.l2 else L3_NS if nbytes <= target.l3 // 2 else MEMORY_NS

    def nanoseconds(images: int) -> float:
        """With so many images at once."""
        again = weights * each(weights + images * max(moved)) * count / images
        return again + sum(count * size * each(images * size) for size in moved)

    return nanoseconds(threads) < GAIN * nanoseconds(count)


def _moved(graph: Graph, node: Node) -> int:
    """The bytes of data that a node reads and writes, if it is none that others take along."""
    definition = lookup(node.domain, node.op)
    if definition is None or definition.kind in ("pointwise", "view"):
        return 0
    kinds = [graph.types.get(name) for name in (*node.inputs, *node.outputs) if name and name not in graph.constants]
    return sum(prod(k.static_shape or ()) * k.dtype.itemsize for k in kinds if isinstance(k, TensorType))
