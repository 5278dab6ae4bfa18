"""Trim: cutting what a kernel made for the largest extents to the extent that only data gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.graph import Node
from ...ir.graph_control import Call
from .registry import host


@host("Trim", domain="loopnest")
def trim(node: Node, inputs: Sequence[Any], call: Call) -> list[Any]:
    """The first ``count`` elements of ``data`` along ``axis``; all of ``data`` without an axis."""
    data, count = inputs
    axis: Any = node.attrs.get("axis")
    if axis is None or data.shape[axis] == int(count):
        return [data]
    return [np.ascontiguousarray(data[(slice(None),) * axis + (slice(0, int(count)),)])]
