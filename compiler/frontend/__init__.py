"""The ONNX frontend: any model that the ``onnx`` package reads becomes a ``Graph`` in the semantics of the newest opset."""

from __future__ import annotations

import os
from collections.abc import Callable

import onnx

from ...ir.errors import UnsupportedOperatorError
from ...ir.graph import Graph
from ...ir.graph_verify import verify
from .expand import expand_functions, unsupported_nodes
from .importer import Importer
from .inference import infer_types
from .reading import opset_imports, read_model
from .report import OperatorCount, count_operators
from .typecheck import check_types

__all__ = ["OperatorCount", "import_model", "load"]


def load(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto, *, supported: Callable[[str, str], bool], check: bool = True
) -> Graph:
    """The graph of ``model`` (path, serialized bytes, or ``ModelProto``).

    Model-local functions are inlined, operators of older opsets upgraded, and operators that ``supported(domain, op)`` denies are
    replaced by the function bodies that ONNX defines for them.

    Raises ``ModelError`` for a malformed model and ``UnsupportedOperatorError``, listing every operator that is left over.
    """
    graph, opsets = import_model(model, supported=supported)
    missing = count_operators(unsupported_nodes(graph, supported), opsets)
    if missing:
        listed = "; ".join(str(item) for item in missing)
        raise UnsupportedOperatorError(f"the model uses {len(missing)} operators that loopnest does not have: {listed}")
    if check:
        verify(graph)
    return graph


def import_model(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto, *, supported: Callable[[str, str], bool]
) -> tuple[Graph, dict[str, int]]:
    """The graph of ``model``, unsupported operators kept, and the opset of each domain that it imports."""
    source = read_model(model)
    proto = source.proto
    graph = Importer(proto.functions, source.folder).model(proto, source.weights)
    infer_types(graph)
    check_types(graph)
    expand_functions(graph, supported)
    return graph, opset_imports(proto.opset_import)
