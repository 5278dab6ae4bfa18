"""Where a compiled model goes wrong: its intermediate values against those of ONNX Runtime or of the NumPy interpreter."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import onnx

from ..ir import graph_interpreter
from ..ir.errors import LoopnestError
from ..ir.graph import Graph, TensorType
from ..runtime.tables import format_table
from .accuracy import difference
from .build import compile_graph, load
from .config import Config, load_config
from .engine import Engine, make_engine
from .frontend.reading import Model
from .plan import Plan
from .setup import Setup

Reference = Literal["onnxruntime", "interpreter"]
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One value: the node that makes it, and by how much it is off, as a share of the largest magnitude that it should have (inf where
    shapes, NaN or inf differ)."""

    value: str
    node: str
    op: str
    shape: tuple[int, ...]
    error: float


@dataclass(frozen=True)
class Comparison:
    """The values that were compared, in topological order."""

    rows: tuple[Row, ...]
    bound: float
    reference: str

    @property
    def exceeding(self) -> tuple[Row, ...]:
        """The rows beyond the bound; the culprit is the first one, or was fused into it."""
        return tuple(row for row in self.rows if not row.error <= self.bound)

    def as_text(self, most: int = 10) -> str:
        """The first ``most`` rows beyond the bound, or a sentence that there are none."""
        worst = max(self.rows, key=lambda row: row.error, default=None)
        if not self.exceeding:
            where = f"; the largest error is {worst.error:.1e}, at {worst.node or worst.value}" if worst else ""
            return f"all {len(self.rows)} values agree with {self.reference} within {self.bound:.0e}{where}"
        header = ("error", "op", "node", "value", "shape")
        rows = [(f"{r.error:.1e}", r.op, r.node, r.value, "x".join(map(str, r.shape)) or "scalar") for r in self.exceeding]
        more = f"\n... and {len(rows) - most} more" if len(rows) > most else ""
        title = f"{len(rows)} of {len(self.rows)} values differ from {self.reference} by more than {self.bound:.0e}:"
        return f"{title}\n{format_table(header, rows[:most], right=(0,))}{more}"

    def __str__(self) -> str:
        return self.as_text()


def compare(
    model: Model,
    feeds: Values,
    *,
    target: str = "cpu",
    config: Config | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    threads: int | None = None,
    bound: float = 1e-4,
    fused: bool = False,
    reference: Reference | None = None,
) -> Comparison:
    """Runs ``model`` on ``feeds`` with every intermediate tensor as an output, and compares each with what it should be.

    An output cannot be fused away, so this looks at operators one by one. ``fused`` keeps the groups that the model is compiled to, and
    compares what passes between them. ``reference`` None: ONNX Runtime where it is installed. Raises what ``loopnest.compile`` and a call
    raise, and ``LoopnestError`` when the reference cannot run the model.
    """
    engine = make_engine(Setup.of(target, load_config(config), threads))
    graph = load(model, engine.config)
    wanted = _between_groups(graph, engine, feeds) if fused else _made(graph)
    outputs = tuple(dict.fromkeys([*(name for name in wanted if _is_numeric(graph, name)), *graph.outputs]))
    traced = Graph(graph.name, graph.inputs, outputs, graph.nodes, graph.constants, graph.types)
    used: Reference = reference or ("onnxruntime" if find_spec("onnxruntime") else "interpreter")
    expected = _onnxruntime(model, outputs, feeds) if used == "onnxruntime" else graph_interpreter.run(traced, feeds)
    actual = dict(zip(outputs, compile_graph(traced, engine).run(None, feeds), strict=True))
    producers = graph.producers()
    rows: list[Row] = []
    for name in outputs:
        if name in expected and name in producers and isinstance(expected[name], np.ndarray | np.generic):
            node, value = producers[name], np.asarray(actual[name])
            rows.append(Row(name, node.name, node.op, value.shape, difference([value], [expected[name]])))
    return Comparison(tuple(rows), bound, {"onnxruntime": "ONNX Runtime", "interpreter": "the NumPy interpreter"}[used])


@dataclass
class _Recorder(Engine):
    """An engine that keeps the plans it makes."""

    plans: list[Plan] = field(default_factory=list)

    def plan(self, graph: Graph) -> Plan:
        made = super().plan(graph)
        self.plans.append(made)
        return made


def _made(graph: Graph) -> list[str]:
    """What the nodes make and somebody reads (nobody says what is in the mask of a Dropout that does nothing)."""
    used = {*graph.users(), *graph.outputs}
    return [output for node in graph.nodes for output in node.outputs if output in used]


def _between_groups(graph: Graph, engine: Engine, feeds: Values) -> list[str]:
    """The values that cross the borders of groups when the model is compiled as it is, and that it has itself."""
    recorder = _Recorder(engine.setup, engine.kernels, engine.dump)
    compile_graph(graph, recorder).run(None, feeds)
    crossing = {name for plan in recorder.plans for group in plan.groups for name in group.outputs}
    return [name for name in _made(graph) if name in crossing]


def _is_numeric(graph: Graph, name: str) -> bool:
    kind = graph.types.get(name)
    return isinstance(kind, TensorType) and kind.dtype.is_numeric


def _onnxruntime(model: Model, outputs: Sequence[str], feeds: Values) -> dict[str, Any]:
    """The values called ``outputs``, of those that ONNX Runtime has under that name."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise LoopnestError(f"ONNX Runtime is not installed ({error}); compare with the interpreter instead") from None
    proto = onnx.ModelProto()
    proto.CopyFrom(model if isinstance(model, onnx.ModelProto) else _whole(model))
    made = {output for node in proto.graph.node for output in node.output}
    declared = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name in made - declared)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as error:  # ONNX Runtime has exception classes of its own, made when it is imported
        raise LoopnestError(f"ONNX Runtime cannot run this model; compare with the interpreter instead: {error}") from error


def _whole(model: str | os.PathLike[str] | bytes) -> onnx.ModelProto:
    return onnx.load_model_from_string(model) if isinstance(model, bytes) else onnx.load_model(os.fspath(model))
