"""A model that grows node by node. ONNX Runtime computes each node as it is added, so that its values, shapes and dtypes are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper as nh

from .chances import Chances

OPSET = 21
LARGEST, MAGNITUDE = 300_000, 1e3
"""Elements of a value, and how large a number in it may be: beyond, rounding errors grow past what can be told from a defect."""


class Refused(Exception):
    """A node that cannot be added here."""


class Growing(Chances):
    """``values`` are the inputs and what nodes computed of them, by name; ``constants`` the initializers."""

    def __init__(self, seed: int) -> None:
        super().__init__(np.random.default_rng(seed))
        self.float = self.one_of(np.float32, np.float32, np.float32, np.float32, np.float64)
        self.inputs: dict[str, np.ndarray] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.values: dict[str, np.ndarray] = {}
        self.nodes: list[onnx.NodeProto] = []

    # --- values -------------------------------------------------------------------------------------------------------------------

    def input(self, *shape: int) -> str:
        name = f"x{len(self.inputs)}"
        self.inputs[name] = self.values[name] = self.random.standard_normal(shape).astype(self.float)
        return name

    def constant(self, array: Any, dtype: type | np.dtype[Any] | None = None) -> str:
        """Of the model's floating-point dtype unless given."""
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array, dtype or self.float)
        return name

    def weight(self, *shape: int, summed: int = 1) -> str:
        """A constant; of ``summed`` products with it, the sum is about as large as what was multiplied."""
        return self.constant(self.random.standard_normal(shape) / np.sqrt(max(1, summed)))

    def value(self, *ranks: int, kinds: str = "f") -> str:
        """A value of the ranks and kinds of dtype given, any rank if none is; a late one rather than an early one."""
        found = [n for n, v in self.values.items() if v.dtype.kind in kinds and (v.ndim in ranks if ranks else True)]
        if not found:
            raise Refused
        return found[-1 - min(len(found) - 1, int(self.random.exponential(1.5)))]

    def anything(self, *ranks: int) -> str:
        """Numbers or truth values."""
        return self.value(*ranks, kinds="fib")

    def alike(self, name: str, where: Callable[[np.ndarray], bool]) -> str:
        """A value of the dtype of ``name``, maybe itself."""
        return self.one_of(*(n for n, v in self.values.items() if v.dtype == self.values[name].dtype and where(v)))

    def partner(self, name: str) -> str:
        """Any value that can be broadcast with ``name``."""
        return self.alike(name, lambda v: self._fits(v, self.values[name]))

    @staticmethod
    def _fits(a: np.ndarray, b: np.ndarray) -> bool:
        try:
            return np.prod(np.broadcast_shapes(a.shape, b.shape)) <= LARGEST
        except ValueError:
            return False

    def shape(self, name: str) -> tuple[int, ...]:
        return self.values[name].shape

    def axis(self, name: str) -> int:
        """An axis that ``name`` has."""
        rank = len(self.shape(name))
        if not rank:
            raise Refused
        return self.between(0, rank - 1)

    # --- nodes --------------------------------------------------------------------------------------------------------------------

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        """The first output of a new node; raises ``Refused`` where ONNX Runtime does, or the numbers get out of hand."""
        number = len(self.values)
        names = [f"v{number + i}" for i in range(outputs)]
        node = oh.make_node(op, list(inputs), names, name=f"{op}_{number}", **attributes)
        for name, value in zip(names, self._compute(node), strict=True):
            self.values[name] = value
        self.nodes.append(node)
        return names[0]

    def _compute(self, node: onnx.NodeProto) -> Sequence[np.ndarray]:
        feeds = {name: self.values[name] for name in node.input if name in self.values}
        results = onnxruntime(self._model([node], feeds, node.output), feeds)
        for value in results:
            numbers = value.dtype.kind == "f"
            if not 0 < value.size <= LARGEST or value.ndim > 6:
                raise Refused
            if numbers and not (np.isfinite(value).all() and np.abs(value).max() <= MAGNITUDE):
                raise Refused
        return results

    def model(self) -> onnx.ModelProto:
        """All nodes. Outputs are what no node reads, and some of what others read too."""
        read = {name for node in self.nodes for name in node.input}
        made = [name for node in self.nodes for name in node.output]
        return self._model(self.nodes, self.inputs, [name for name in made if name not in read or self.chance(0.08)])

    def _model(self, nodes: Sequence[onnx.NodeProto], inputs: dict[str, np.ndarray], outputs: Sequence[str]) -> onnx.ModelProto:
        read = {name for node in nodes for name in node.input}
        typed = [oh.make_tensor_value_info(n, oh.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in inputs.items()]
        constants = [nh.from_array(array, name) for name, array in self.constants.items() if name in read]
        results = [
            oh.make_tensor_value_info(n, oh.np_dtype_to_tensor_dtype(self.values[n].dtype), self.values[n].shape)
            if n in self.values
            else onnx.ValueInfoProto(name=n)
            for n in outputs
        ]
        graph = oh.make_graph(list(nodes), "random", typed, results, constants)
        return oh.make_model(graph, opset_imports=[oh.make_opsetid("", OPSET)], ir_version=10)


def onnxruntime(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> Sequence[np.ndarray]:
    """What ONNX Runtime computes without its optimizations; raises ``Refused`` where it does not."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feeds)
    except Exception as error:  # its exceptions have no common base
        raise Refused(str(error)) from error
