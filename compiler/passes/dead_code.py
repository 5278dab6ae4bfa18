"""What no output depends on is removed: nodes, constants, and types of values that are gone."""

from __future__ import annotations

from ...ir.graph import Graph, node_reads


def remove_dead_code(graph: Graph, root: Graph) -> bool:
    """Keep only what the outputs need."""
    needed = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if not needed.isdisjoint(node.outputs):
            kept.append(node)
            needed.update(node_reads(node))
    constants = {name: array for name, array in graph.constants.items() if name in needed}
    changed = len(kept) != len(graph.nodes) or len(constants) != len(graph.constants)
    if changed:
        graph.nodes = kept[::-1]
        graph.constants = constants
        values = {*needed, *graph.inputs, *(output for node in kept for output in node.outputs)}
        graph.types = {name: found for name, found in graph.types.items() if name in values}
    return changed
