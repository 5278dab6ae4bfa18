"""Random operators without a seed of their own read one that is drawn anew for every call.

RandomNormal() -> y     becomes     RandomNormal("", seed) -> y, where seed: int64[1] is an input that only the runtime knows
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from ..ir import dtypes
from ..ir.graph import Graph, Node, TensorType

_SEED_INPUT = {
    "RandomNormal": 1,
    "RandomNormalLike": 1,
    "RandomUniform": 1,
    "RandomUniformLike": 1,
    "Bernoulli": 1,
    "Multinomial": 1,
    "Dropout": 3,
}


def seed_input(op: str) -> int:
    """Which input of a random operator is its seed, where the attribute ``seed`` is absent."""
    return _SEED_INPUT[op]


def is_random(node: Node) -> bool:
    """Whether two nodes like this one, or two calls, may give different results. Dropout is when it may train."""
    return not node.domain and node.op in _SEED_INPUT and (node.op != "Dropout" or bool(node.input(2)))


def with_seeds(graph: Graph) -> tuple[Graph, int]:
    """``graph`` with one more input, int64[1], for each random node that has no seed, and how many these are; they come last."""
    nodes = list(graph.nodes)
    types = dict(graph.types)
    seeds: list[str] = []
    for at, node in enumerate(nodes):
        if is_random(node) and node.attrs.get("seed") is None:
            seed = f"{next(filter(None, node.outputs))} (seed)"
            absent = ("",) * (seed_input(node.op) - len(node.inputs))
            nodes[at] = node.replace(inputs=(*node.inputs, *absent, seed))
            types[seed] = TensorType(dtypes.int64, (1,))
            seeds.append(seed)
    return (replace(graph, inputs=(*graph.inputs, *seeds), nodes=nodes, types=types) if seeds else graph), len(seeds)


def draw_seeds(count: int) -> list[np.ndarray]:
    """Seeds for one call."""
    return list(np.frombuffer(os.urandom(8 * count), np.int64).reshape(count, 1))
