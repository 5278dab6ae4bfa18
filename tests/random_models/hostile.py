"""One operator on hostile arrays: any dtype, NaN and infinities, extents 0 and 1, attributes at their limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper as nh

from .chances import Chances

OPSET = 21
HALF, BRAIN, SINGLE, DOUBLE = (np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64))
FLOATS = (SINGLE, SINGLE, SINGLE, SINGLE, DOUBLE, HALF, BRAIN)
SIGNED = tuple(np.dtype(t) for t in (np.int32, np.int64, np.int8, np.int16))
INTEGERS = (*SIGNED, *(np.dtype(t) for t in (np.uint8, np.uint16, np.uint32, np.uint64)))
NUMBERS = (*FLOATS, *INTEGERS)
ALL = (*NUMBERS, np.dtype(np.bool_))
SPECIAL = (np.nan, np.inf, -np.inf, -0.0, 0.0, 1.0, -1.0, 1e-40, 3e38, -3e38, 65504.0, 0.5, -0.5, 1.5, 2.5, 1e-7)
I64 = np.dtype(np.int64)
EXTENTS = (0, 1, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33)


@dataclass
class Case:
    """A node with arrays for its inputs, None for absent ones, and how far from others results may be."""

    op: str
    inputs: list[np.ndarray | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    tolerance: float = 2e-5
    opset: int = OPSET


class Hostile(Chances):
    """Shapes and arrays that few expect."""

    def __init__(self, seed: int) -> None:
        super().__init__(np.random.default_rng([seed, 77]))

    def shape(self, low: int = 0, high: int = 4, extents: tuple[int, ...] = EXTENTS) -> tuple[int, ...]:
        return tuple(self.one_of(*extents) for _ in range(self.between(low, high)))

    def array(self, dtype: np.dtype[Any], shape: tuple[int, ...], *, special: float | None = None) -> np.ndarray:
        """Random numbers, among them (a share ``special``) those that are not quite numbers."""
        special = self.one_of(0.0, 0.1, 0.5) if special is None else special
        size = int(np.prod(shape))
        if dtype.kind == "b":
            return self.random.integers(0, 2, shape).astype(bool)
        if dtype.kind in "iu":
            info = np.iinfo(dtype)
            few = self.random.integers(max(info.min, -9), 10, shape).astype(dtype)
            limits = np.array([info.min, info.max, 0, 1, info.max - 1, info.min + 1], dtype)
            return np.where(self.random.random(shape) < special, self.random.choice(limits, shape), few)
        values = self.random.standard_normal(shape) * self.one_of(1, 1, 3, 30)
        with np.errstate(all="ignore"):
            return np.where(
                self.random.random(shape) < special, self.random.choice(SPECIAL, max(size, 1))[:size].reshape(shape), values
            ).astype(dtype)

    def finite(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
        return self.array(dtype, shape, special=0.0)

    def broadcast(self, count: int, high: int = 4) -> list[tuple[int, ...]]:
        shape = self.shape(0, high)
        return [
            tuple(e if self.chance(0.7) else 1 for e in shape)[self.between(0, len(shape)) if self.chance(0.3) else 0 :]
            for _ in range(count)
        ]

    def axis(self, rank: int) -> int:
        return self.between(-rank, rank - 1)


Make = Callable[[Hostile], Case]
CASES: list[Make] = []


def case(function: Make) -> Make:
    CASES.append(function)
    return function


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def model_of(h: Hostile, made: Case) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Inputs are the caller's or the model's; of the caller's, some extents are symbolic."""
    names, typed, known, feeds, seen = [], [], [], {}, {}
    for i, array in enumerate(made.inputs):
        if array is None:
            names.append("")
            continue
        if id(array) in seen:
            names.append(seen[id(array)])
            continue
        seen[id(array)] = name = f"x{i}"
        names.append(name)
        if h.chance(0.25):
            known.append(nh.from_array(array, name))
        else:
            shape = [f"n{i}_{axis}" if h.chance(0.1) else extent for axis, extent in enumerate(array.shape)]
            typed.append(oh.make_tensor_value_info(name, oh.np_dtype_to_tensor_dtype(array.dtype), shape))
            feeds[name] = array
    outputs = [f"y{i}" for i in range(made.outputs)]
    node = oh.make_node(made.op, names, outputs, name="it", **made.attributes)
    graph = oh.make_graph([node], "hostile", typed, [onnx.ValueInfoProto(name=n) for n in outputs], known)
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", made.opset)], ir_version=10), feeds
