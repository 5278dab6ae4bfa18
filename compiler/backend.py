"""ONNX's backend interface: what `onnx.backend.test.runner` and tools written against it call.

    import loopnest.backend
    outputs = loopnest.backend.prepare(model).run([x, y])

Source of the interface: `onnx.backend.base`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx.backend.base import Backend, BackendRep, Device, DeviceType, namedtupledict

from ..ir.errors import InputError, ModelError, TargetError

# What a value may be: an array (ml_dtypes where NumPy has no dtype, object for strings), a list of values (a sequence),
# None (an empty optional).
Value = npt.NDArray[Any] | list[Any] | None


class LoopnestRep(BackendRep):
    """A compiled model; `run` takes values in graph-input order (or by name) and gives the outputs in graph order."""

    def __init__(self, model: onnx.ModelProto, options: Mapping[str, Any]) -> None:
        from .api import compile as compile_model

        self.compiled = compile_model(model, **options)
        self._input_names = [spec.name for spec in self.compiled.inputs]
        self._outputs = namedtupledict("Outputs", [spec.name for spec in self.compiled.outputs])

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Runs once. `inputs`: a sequence in graph-input order (initializers left out), a mapping by name, or one array.

        Each is anything `as_value` takes. Returns a named tuple of arrays, lists (sequences) and None (empty optionals).
        Raises InputError for too many inputs, and what a compiled model raises.
        """
        if kwargs:
            raise InputError(f"run() takes no options, given: {', '.join(sorted(kwargs))}")
        return self._outputs(*self.compiled.run(None, self._feeds(inputs)))

    def _feeds(self, inputs: Any) -> dict[str, Value]:
        if isinstance(inputs, Mapping):
            return {str(name): as_value(value) for name, value in inputs.items()}
        if not isinstance(inputs, Sequence) or isinstance(inputs, (str, bytes)):
            inputs = [inputs]
        if len(inputs) > len(self._input_names):
            raise InputError(f"{len(inputs)} inputs given, the model has {len(self._input_names)}: {self._input_names}")
        return {name: as_value(value) for name, value in zip(self._input_names, inputs, strict=False)}


class LoopnestBackend(Backend):
    """The backend; its methods are also functions of this module."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether loopnest has every operator of the model and supports the device."""
        from .check import check

        return cls.supports_device(device) and check(model).ok

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> LoopnestRep:
        """Compiles a model. `kwargs` are those of `loopnest.compile` (target, shapes, config, threads).

        Raises TargetError for a device other than the CPU, UnsupportedOperatorError, ModelError.
        """
        if not cls.supports_device(device):
            raise TargetError(f"device {device!r} is not supported; supported: 'CPU'")
        return LoopnestRep(model, kwargs)

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """`prepare` and one `run`."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[npt.DTypeLike, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Runs one node. `inputs`: the values of its inputs that are present, in order. `outputs_info`: (dtype, shape) of its
        outputs, inferred where not given. `opset_version` among `kwargs`: of the node's domain, default the newest.

        Raises ModelError if the values do not fit the node.
        """
        opset_version = kwargs.pop("opset_version", None)
        values = [as_value(value) for value in inputs]
        model = _model_of(node, values, outputs_info, opset_version)
        return cls.run_model(model, values, device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """True for "CPU" (or "CPU:0")."""
        try:
            return Device(device).type == DeviceType.CPU
        except (AttributeError, ValueError):
            return False


def as_value(value: Any) -> Value:
    """A value as compiled models take it: protos, NumPy scalars and lists become arrays, lists of values and None.

    Strings become object arrays; arrays of ml_dtypes pass as they are.
    """
    if value is None:
        return None
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, onnx.SequenceProto):
        return [as_value(element) for element in onnx.numpy_helper.to_list(value)]
    if isinstance(value, onnx.OptionalProto):
        return as_value(onnx.numpy_helper.to_optional(value))
    if isinstance(value, (list, tuple)):
        return [as_value(element) for element in value]
    array = np.asarray(value)
    return array.astype(object) if array.dtype.kind in "US" else array


def _type_of(value: Value) -> onnx.TypeProto:
    if value is None:
        raise ModelError("an empty optional has no type that a single node could be given")
    if isinstance(value, list):
        if not value:
            raise ModelError("an empty sequence has no element type that a single node could be given")
        return onnx.helper.make_sequence_type_proto(_type_of(value[0]))
    return onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


def _model_of(
    node: onnx.NodeProto,
    values: Sequence[Value],
    outputs_info: Sequence[tuple[npt.DTypeLike, tuple[int, ...]]] | None,
    opset_version: int | None,
) -> onnx.ModelProto:
    names = list(dict.fromkeys(name for name in node.input if name))
    if len(names) != len(values):
        raise ModelError(f"{node.op_type} has {len(names)} inputs, {len(values)} values were given")
    types = {name: _type_of(value) for name, value in zip(names, values, strict=True)}
    results = [name for name in node.output if name]
    if outputs_info is None:
        result_types = _inferred_types(node, types, values, opset_version)
    else:
        result_types = {
            name: onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
            for name, (dtype, shape) in zip(results, outputs_info, strict=True)
        }
    graph = onnx.helper.make_graph(
        [node],
        node.name or node.op_type,
        [onnx.helper.make_value_info(name, types[name]) for name in names],
        [onnx.helper.make_value_info(name, result_types[name]) for name in results],
    )
    return onnx.helper.make_model(graph, opset_imports=[_opset(node, opset_version)])


def _opset(node: onnx.NodeProto, version: int | None) -> onnx.OperatorSetIdProto:
    if version is None:
        version = onnx.defs.onnx_opset_version() if node.domain in ("", "ai.onnx") else _schema(node, None).since_version
    return onnx.helper.make_opsetid(node.domain, version)


def _schema(node: onnx.NodeProto, version: int | None) -> onnx.defs.OpSchema:
    try:
        if version is None:
            return onnx.defs.get_schema(node.op_type, domain=node.domain)
        return onnx.defs.get_schema(node.op_type, version, domain=node.domain)
    except onnx.defs.SchemaError as error:
        raise ModelError(f"no operator {node.op_type} in domain {node.domain or 'ai.onnx'!r}: {error}") from error


def _inferred_types(
    node: onnx.NodeProto, types: Mapping[str, onnx.TypeProto], values: Sequence[Value], opset_version: int | None
) -> dict[str, onnx.TypeProto]:
    known = {
        name: onnx.numpy_helper.from_array(value, name)
        for name, value in zip(types, values, strict=True)
        if isinstance(value, np.ndarray)
    }
    try:
        return onnx.shape_inference.infer_node_outputs(
            _schema(node, opset_version), node, dict(types), known, opset_imports=[_opset(node, opset_version)]
        )
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{node.op_type} does not take these inputs: {error}") from error


is_compatible = LoopnestBackend.is_compatible
prepare = LoopnestBackend.prepare
run_model = LoopnestBackend.run_model
run_node = LoopnestBackend.run_node
supports_device = LoopnestBackend.supports_device
