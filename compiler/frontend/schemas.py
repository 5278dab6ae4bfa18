"""Nodes checked once against ONNX's operator schemas, so that no operator has to check attributes again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx
import onnx.defs

from ...ir import dtypes
from ...ir.errors import ModelError
from ...ir.graph_onnx import OTHER_DOMAINS, newest_opset

_DTYPES = frozenset({"to", "dtype", "output_dtype", "output_datatype", "stash_type"})
"""Attributes that are the number of a data type."""


@cache
def find_schema(domain: str, op: str, opset: int) -> onnx.defs.OpSchema | None:
    """The schema of ``op`` as of ``opset``, None for an operator that ONNX does not define there."""
    if not 0 < opset < 2**31:
        return None
    try:
        return onnx.defs.get_schema(op, opset, domain)
    except onnx.defs.SchemaError:
        return None


def newest_schema(domain: str, op: str) -> onnx.defs.OpSchema | None:
    """The schema of the semantics that the graph IR speaks."""
    return find_schema(domain, op, OTHER_DOMAINS.get(domain, 1) if domain else newest_opset())


def attribute_type(attribute: onnx.defs.OpSchema.Attribute) -> int:
    """The number of the attribute's type in ``AttributeProto``."""
    kind: Any = attribute.type
    return int(kind.value)


def check_node(proto: onnx.NodeProto, domain: str, opset: int) -> None:
    """``ModelError`` unless attributes and the numbers of inputs and outputs are what the schema says; unknown operators pass."""
    signature = _signature(domain, proto.op_type, opset)
    if signature is None:
        if newest_schema(domain, proto.op_type) is not None:
            raise ModelError(f"{describe(proto)} uses {proto.op_type}, which opset {opset} does not have")
        return
    _check_count(proto, "input", len(proto.input), signature.inputs)
    _check_count(proto, "output", len(proto.output), signature.outputs)
    for i, name in enumerate(proto.input):
        required = signature.required_inputs[i] if i < len(signature.required_inputs) else signature.repeated
        if required and not name:
            raise ModelError(f"{describe(proto)} lacks its input {required!r}, which {proto.op_type} requires")
    _check_attributes(proto, signature)


def describe(proto: onnx.NodeProto) -> str:
    """The node for an error message: by name, else by what it makes."""
    if proto.name:
        return f"{proto.op_type} node {proto.name!r}"
    return f"{proto.op_type} node that makes {proto.output[0] if proto.output else ''!r}"


@dataclass(frozen=True)
class _Signature:
    """What of a schema is checked; a copy, because reading an ``OpSchema`` builds its Python objects anew each time."""

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    required_inputs: tuple[str, ...]
    repeated: str
    """The last input, where there may be any number of it; none of them may be missing."""
    attributes: Mapping[str, int]
    required_attributes: tuple[str, ...]


@cache
def _signature(domain: str, op: str, opset: int) -> _Signature | None:
    schema = find_schema(domain, op, opset)
    if schema is None:
        return None
    options = onnx.defs.OpSchema.FormalParameterOption
    formals, attributes = [(formal.name, formal.option) for formal in schema.inputs], schema.attributes
    return _Signature(
        (schema.min_input, schema.max_input),
        (schema.min_output, schema.max_output),
        tuple(name if option != options.Optional else "" for name, option in formals),
        formals[-1][0] if formals and formals[-1][1] == options.Variadic else "",
        {name: attribute_type(attribute) for name, attribute in attributes.items()},
        tuple(name for name, attribute in attributes.items() if attribute.required),
    )


def _check_count(proto: onnx.NodeProto, what: str, actual: int, limits: tuple[int, int]) -> None:
    low, high = limits
    if low <= actual <= high:
        return
    expected = f"{low}" if low == high else f"at least {low}" if high > 1_000_000 else f"{low} to {high}"
    raise ModelError(f"{describe(proto)} has {actual} {what}s; {proto.op_type} takes {expected}")


def _check_attributes(proto: onnx.NodeProto, signature: _Signature) -> None:
    given: set[str] = set()
    for attribute in proto.attribute:
        name = attribute.name
        if name in given:
            raise ModelError(f"{describe(proto)} has attribute {name!r} twice")
        given.add(name)
        if name not in signature.attributes:
            raise ModelError(f"{describe(proto)} has attribute {name!r}, which {proto.op_type} does not know")
        untyped_reference = attribute.ref_attr_name and attribute.type == onnx.AttributeProto.UNDEFINED
        if attribute.type != signature.attributes[name] and not untyped_reference:
            expected, actual = (_type_name(number) for number in (signature.attributes[name], attribute.type))
            raise ModelError(f"{describe(proto)} has attribute {name!r} of type {actual}; {expected} is expected")
        if name in _DTYPES and attribute.type == onnx.AttributeProto.INT and not attribute.ref_attr_name:
            _check_dtype(proto, name, attribute.i)
    for name in signature.required_attributes:
        if name not in given:
            raise ModelError(f"{describe(proto)} lacks its attribute {name!r}, which {proto.op_type} requires")


def _check_dtype(proto: onnx.NodeProto, name: str, number: int) -> None:
    """0 means that there is none, for which all but ``to`` have a default."""
    if number or name == "to":
        try:
            dtypes.from_onnx(number)
        except KeyError:
            raise ModelError(f"{describe(proto)} has {name} = {number}, a data type that ONNX does not define") from None


def _type_name(number: int) -> str:
    return (
        onnx.AttributeProto.AttributeType.Name(number) if number in onnx.AttributeProto.AttributeType.values() else str(number)
    )
