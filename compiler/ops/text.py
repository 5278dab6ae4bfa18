"""Strings and image files: ONNX's reference implementation on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...ir.graph import Node
from ...ir.graph_control import Call
from ...ir.graph_interpreter import evaluate
from .registry import host


@host("ImageDecoder", "RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer")
def by_reference(node: Node, inputs: Sequence[Any], call: Call) -> list[Any]:
    return evaluate(node, inputs)


host("LabelEncoder", domain="ai.onnx.ml")(by_reference)
