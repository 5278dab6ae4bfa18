"""Shape and dtype inference shared by operators. All extents are numbers here: a plan belongs to concrete shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ...ir.dtypes import DType
from ...ir.errors import ModelError
from ...ir.graph import Node, TensorType, Type

T = TypeVar("T")


@dataclass(frozen=True)
class Attributes:
    """A node and typed access to its attributes."""

    node: Node

    def attr(self, name: str, default: T = None) -> T | Any:  # type: ignore[assignment]
        """The attribute ``name``, or ``default`` where the node has none."""
        return self.node.attrs.get(name, default)

    def fail(self, message: str) -> ModelError:
        """The error to raise: names the node."""
        return ModelError(f"{self.node}: {message}")


@dataclass(frozen=True)
class InferContext(Attributes):
    """What is known of a node before it is lowered: input types, and values where they are constant."""

    types: tuple[Type | None, ...]
    values: tuple[np.ndarray | None, ...]

    @property
    def n_inputs(self) -> int:
        """Inputs up to the last one given."""
        return len(self.types)

    def has(self, i: int) -> bool:
        """Whether optional input ``i`` is there."""
        return i < len(self.types) and self.types[i] is not None

    def tensor(self, i: int) -> TensorType:
        kind = self.types[i] if i < len(self.types) else None
        if not isinstance(kind, TensorType):
            raise self.fail(f"input {i} must be a tensor, it is {'absent' if kind is None else kind}")
        return kind

    def shape(self, i: int) -> tuple[int, ...]:
        shape = self.tensor(i).static_shape
        assert shape is not None, f"{self.node}: the shape of input {i} is not known"
        return shape

    def rank(self, i: int) -> int:
        return len(self.shape(i))

    def dtype(self, i: int) -> DType:
        return self.tensor(i).dtype

    def value(self, i: int) -> np.ndarray | None:
        """The array of input ``i`` when it is known (always for those in ``OpDef.values``), None when absent."""
        return self.values[i] if i < len(self.values) else None

    def ints(self, i: int) -> tuple[int, ...] | None:
        """The value of an integer input as a flat tuple; None when absent."""
        array = self.value(i)
        return None if array is None else tuple(int(v) for v in array.reshape(-1))

    def axis(self, axis: int, rank: int) -> int:
        """``axis`` counted from the front; raises ``ModelError`` when out of range."""
        if not -rank <= axis < rank:
            raise self.fail(f"axis {axis} is outside [{-rank}, {rank - 1}]")
        return axis % rank if rank else 0


def broadcast_shapes(context: Attributes, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """NumPy's multidirectional broadcasting (ONNX Broadcasting.md); raises ``ModelError`` where shapes do not fit."""
    rank = max((len(s) for s in shapes), default=0)
    result = [1] * rank
    for shape in shapes:
        for i, extent in enumerate(shape, rank - len(shape)):
            if extent != 1 and result[i] not in (1, extent):
                raise context.fail(f"shapes {' and '.join(map(str, shapes))} do not broadcast: {result[i]} against {extent}")
            if extent != 1:
                result[i] = extent
    return tuple(result)


def broadcast(context: InferContext) -> TensorType:
    """The broadcast shape of all inputs that are there, with the dtype of the first."""
    present = [i for i in range(context.n_inputs) if context.has(i)]
    return TensorType(context.dtype(present[0]), broadcast_shapes(context, *(context.shape(i) for i in present)))


def same_as(i: int = 0) -> Any:
    """The type of input ``i``."""
    return lambda context: context.tensor(i)
