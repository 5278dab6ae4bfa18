"""The cases of ONNX's backend suite: models with inputs and the outputs they must give.

The node cases exist only as code in the onnx wheel and are generated in memory, the other kinds lie there as files.
"""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "real")

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"

# Inputs in graph order, and the outputs they must give.
DataSet = tuple[list[Any], list[Any]]


@dataclass(frozen=True)
class Case:
    """One case. Values are arrays (ml_dtypes where NumPy has no dtype, object for strings), lists (sequences) or None."""

    kind: str
    name: str
    rtol: float
    atol: float
    load: Callable[[], tuple[onnx.ModelProto, list[DataSet]]] = field(repr=False, compare=False)

    @property
    def id(self) -> str:
        return f"{self.kind}/{self.name}"


@functools.cache
def all_cases() -> dict[str, Case]:
    """Every case by id ("node/test_abs"), kinds in the order of KINDS, names sorted. Takes seconds, once per process."""
    cases = [*_node_cases(), *_case_folders(), *_light_cases()]
    cases.sort(key=lambda case: (KINDS.index(case.kind), case.name))
    by_id = {case.id: case for case in cases}
    assert len(by_id) == len(cases), "two cases with one name"
    return by_id


def _node_cases() -> list[Case]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_node_model_tests

        generated = load_node_model_tests()
    return [
        Case("node", test.name, test.rtol, test.atol, functools.partial(_load_generated, test.model, test.data_sets))
        for test in generated
    ]


def _load_generated(
    model: onnx.ModelProto, data_sets: Sequence[tuple[Sequence[Any], Sequence[Any]]]
) -> tuple[onnx.ModelProto, list[DataSet]]:
    return model, [([as_value(v) for v in ins], [as_value(v) for v in outs]) for ins, outs in data_sets]


def as_value(value: Any) -> Any:
    """A generated value as an array, a list of arrays or None: generators also give TensorProtos and NumPy scalars."""
    if value is None:
        return None
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, (list, tuple)):
        return [as_value(v) for v in value]
    return np.asarray(value)


def _case_folders() -> list[Case]:
    cases: list[Case] = []
    for kind in ("simple", "pytorch-converted", "pytorch-operator"):
        for folder in sorted((DATA / kind).iterdir()):
            if not (folder / "model.onnx").exists():
                continue
            settings = folder / "data.json"
            tolerance = json.loads(settings.read_text()) if settings.exists() else {}
            rtol, atol = tolerance.get("rtol", 1e-3), tolerance.get("atol", 1e-7)
            cases.append(Case(kind, folder.name, rtol, atol, functools.partial(_load_folder, folder)))
    return cases


def _load_folder(folder: Path) -> tuple[onnx.ModelProto, list[DataSet]]:
    model = onnx.load(folder / "model.onnx")
    sets: list[DataSet] = []
    for data in sorted(folder.glob("test_data_set_*")):
        values = []
        for prefix, declared in (("input", model.graph.input), ("output", model.graph.output)):
            count = len(list(data.glob(f"{prefix}_*.pb")))
            values.append([_read_value(data / f"{prefix}_{i}.pb", declared[i].type) for i in range(count)])
        sets.append((values[0], values[1]))
    return model, sets


def _read_value(path: Path, declared: onnx.TypeProto) -> Any:
    content = path.read_bytes()
    if declared.HasField("sequence_type"):
        return as_value(numpy_helper.to_list(onnx.SequenceProto.FromString(content)))
    if declared.HasField("optional_type"):
        return as_value(numpy_helper.to_optional(onnx.OptionalProto.FromString(content)))
    return numpy_helper.to_array(onnx.TensorProto.FromString(content))


def _light_cases() -> list[Case]:
    cases: list[Case] = []
    for settings in sorted((DATA / "real").glob("*/data.json")):
        test = json.loads(settings.read_text())
        model = DATA / "light" / Path(test["url"]).name
        cases.append(Case("real", settings.parent.name, test["rtol"], test["atol"], functools.partial(load_light, model)))
    return cases


def load_light(path: Path) -> tuple[onnx.ModelProto, list[DataSet]]:
    """A light model, the ramp that the suite feeds it, and the output shipped beside it."""
    model = onnx.load(path)
    initialized = {tensor.name for tensor in model.graph.initializer}
    inputs: list[Any] = []
    for declared in model.graph.input:
        if declared.name not in initialized:
            shape = [dim.dim_value for dim in declared.type.tensor_type.shape.dim]
            size = int(np.prod(shape))
            inputs.append((np.arange(size).reshape(shape) / size).astype(np.float32))
    shipped = path.with_name(f"{path.stem}_output_0.pb").read_bytes()
    return model, [(inputs, [numpy_helper.to_array(onnx.TensorProto.FromString(shipped))])]
