"""Host nodes: control flow that data decides, sequences, optionals, strings. They run in Python, and are reported as such."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import graph_interpreter
from ..ir.errors import KernelError, LoopnestError
from ..ir.graph import Graph, Node, TensorType, Type
from .ops.registry import lookup

if TYPE_CHECKING:
    from .staged import StagedGraph

Value = Any
"""An array; a list for a sequence; None for an empty optional."""


def runs(node: Node, types: Mapping[str, Type]) -> bool:
    """Whether the host runs ``node``: a host operator, or any operator on strings, sequences or optionals."""
    definition = lookup(node.domain, node.op)
    if definition is None or definition.kind == "host":
        return True
    kinds = [types.get(name) for name in (*node.inputs, *node.outputs) if name]
    return any(kind is not None and (not isinstance(kind, TensorType) or not kind.dtype.is_numeric) for kind in kinds)


@dataclass(frozen=True)
class HostStep:
    """A node that the host runs. ``bodies`` are its subgraphs, whose inputs are their own and then the values that they capture."""

    node: Node
    bodies: Mapping[Graph, StagedGraph]

    def run(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """The outputs by name. Raises ``KernelError`` for data that the operator cannot take."""

        captured = {
            body: [values[name] for name in staged.graph.inputs[len(body.inputs) :]] for body, staged in self.bodies.items()
        }

        def call(body: Graph, arguments: Sequence[Value]) -> list[Value]:
            return self.bodies[body].run([*arguments, *captured[body]])

        node = self.node
        definition = lookup(node.domain, node.op)
        inputs = [values[name] if name else None for name in node.inputs]
        try:
            if definition is not None and definition.kind == "host":
                results = definition.define(node, inputs, call)
            else:
                results = graph_interpreter.evaluate(node, inputs)
        except LoopnestError:
            raise
        except Exception as error:  # whatever NumPy or the reference implementation raise
            raise KernelError(f"{node}: {error}") from error
        return {name: _value(value) for name, value in zip(node.outputs, results, strict=False) if name}


def _value(value: Value) -> Value:
    return np.asarray(value) if isinstance(value, np.generic) else value
