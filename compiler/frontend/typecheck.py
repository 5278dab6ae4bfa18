"""Element types checked once against ONNX's operator schemas, so that no operator has to check them again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import onnx.defs

from ...ir.errors import ModelError
from ...ir.graph import Graph, Node, TensorType, Type
from .schemas import newest_schema


def check_types(graph: Graph, outer: Mapping[str, Type] | None = None) -> None:
    """``ModelError`` for the first node whose inputs have element types that its operator does not take, or not together."""
    types = {**(outer or {}), **graph.types}
    for node in graph.nodes:
        _check_node(node, types)
        for body in node.subgraphs():
            check_types(body, types)


@dataclass(frozen=True)
class _Formal:
    """An input's name, the variable that stands for its type ("" when it may differ from call to call), and the types it may have."""

    name: str
    variable: str
    allowed: frozenset[str]


@cache
def _formals(domain: str, op: str) -> tuple[tuple[_Formal, ...], bool]:
    """The inputs of an operator, and whether the last of them repeats."""
    schema = newest_schema(domain, op)
    if schema is None:
        return (), False
    variadic = onnx.defs.OpSchema.FormalParameterOption.Variadic
    formals = tuple(
        _Formal(
            formal.name, formal.type_str if formal.is_homogeneous or formal.option != variadic else "", frozenset(formal.types)
        )
        for formal in schema.inputs
    )
    return formals, bool(schema.inputs) and schema.inputs[-1].option == variadic


def _inputs(node: Node) -> Iterator[tuple[str, _Formal]]:
    formals, repeats = _formals(node.domain, node.op)
    for position, name in enumerate(node.inputs):
        if position < len(formals) or repeats:
            yield name, formals[min(position, len(formals) - 1)]


def _check_node(node: Node, types: Mapping[str, Type]) -> None:
    bound: dict[str, tuple[str, TensorType]] = {}
    for name, formal in _inputs(node):
        found = types.get(name)
        if not isinstance(found, TensorType):
            continue
        if f"tensor({_onnx_name(found)})" not in formal.allowed:
            expected = ", ".join(sorted(formal.allowed))
            raise ModelError(f"{node} has input {formal.name!r} = {name!r} of type {found.dtype}; {expected} is expected")
        other, first = bound.setdefault(formal.variable, (name, found)) if formal.variable else (name, found)
        if first.dtype is not found.dtype:
            raise ModelError(
                f"{node} has inputs of different types: {other!r} is {first.dtype} and {name!r} is {found.dtype}; "
                f"{node.op} wants them alike"
            )


_ONNX_NAME = {"float32": "float", "float64": "double"}


def _onnx_name(found: TensorType) -> str:
    return _ONNX_NAME.get(found.dtype.name, found.dtype.name)
