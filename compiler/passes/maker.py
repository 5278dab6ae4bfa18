"""The nodes that a rewrite puts in the place of one, made one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Attribute, Node, TensorType
from .view import View


@dataclass
class Maker:
    """Collects nodes on values of ``dtype``."""

    view: View
    dtype: DType
    nodes: list[Node] = field(default_factory=list)

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        shape: tuple[int, ...],
        stem: str,
        attrs: dict[str, Attribute] | None = None,
        domain: str = "",
    ) -> str:
        """The name of the value that a new node makes."""
        name = self.view.new_value(stem, TensorType(self.dtype, shape))
        self.nodes.append(Node(op, tuple(inputs), (name,), attrs or {}, domain=domain))
        return name

    def reshape(self, value: str, shape: tuple[int, ...], stem: str) -> str:
        target = self.view.new_constant(np.array(shape, np.int64), "shape")
        return self.node("Reshape", (value, target), shape, stem, {"allowzero": 1})
