"""Recurrent operators: the product of all time steps with the input weights is one matrix product, outside of the recurrence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ir.graph import Node, TensorType
from ..ops.infer import InferContext
from ..ops.rnn import GATES, infer
from .maker import Maker
from .rewrite import Outcome, Refusal, Rewrite, rule
from .view import View


@rule("LSTM", "GRU", "RNN")
def project_inputs(view: View, node: Node) -> Outcome:
    """LSTM(x, W, R, b) => loopnest.LSTM(x @ W^T + b, R)"""
    shapes = [view.shape(name) for name in node.inputs if name]
    x, w, *_ = shapes
    dtype = view.dtype(node.inputs[0])
    if x is None or w is None or None in shapes or dtype is None:
        return Refusal("a shape is not known")
    infer(InferContext(node, tuple(view.type(name) for name in node.inputs), ()))
    make = Maker(view, dtype)
    directions, columns, features = w
    gates = GATES[node.op]
    flat = make.reshape(node.inputs[0], (x[0] * x[1], features), "x_flat")
    weights = make.reshape(node.inputs[1], (directions * columns, features), "w_flat")
    bias, late = _bias(make, node, directions, gates, columns // gates)
    operands = (flat, weights, bias) if bias else (flat, weights)
    product = make.node("Gemm", operands, (x[0] * x[1], directions * columns), "projected", {"transB": 1})
    projected = make.reshape(product, (*x[:2], directions, columns), "projected")
    _, _, r, _, lengths, h, c, p = (*node.inputs, *[""] * (8 - len(node.inputs)))
    recurrence = node.replace(inputs=_trimmed((projected, r, lengths, h, c, p, late)), domain="loopnest")
    return Rewrite([*make.nodes, recurrence])


def _bias(make: Maker, node: Node, directions: int, gates: int, hidden: int) -> tuple[str, str]:
    """The bias of the product, and that of GRU's hidden gate where it is added within the recurrence; "" where there is none."""
    given = node.input(3)
    if not given:
        return "", ""
    early = gates - 1 if node.op == "GRU" and node.attrs.get("linear_before_reset") else gates
    sizes = (early * hidden, (gates - early) * hidden) * 2
    w, w_late, r, r_late = _split(make, given, directions, sizes)
    total = make.node("Add", (w, r), (directions, sizes[0]), "bias")
    if early < gates:
        total = make.node("Concat", (total, w_late), (directions, gates * hidden), "bias", {"axis": 1})
    return make.reshape(total, (directions * gates * hidden,), "bias"), r_late


def _split(make: Maker, value: str, rows: int, sizes: tuple[int, ...]) -> list[str]:
    """The parts of axis 1; "" for empty ones."""
    names = [make.view.new_value("bias", TensorType(make.dtype, (rows, size))) if size else "" for size in sizes]
    wanted = make.view.new_constant(np.array([size for size in sizes if size], np.int64), "sizes")
    make.nodes.append(Node("Split", (value, wanted), tuple(filter(None, names)), {"axis": 1}))
    return names


def _trimmed(names: Sequence[str]) -> tuple[str, ...]:
    """``names`` without absent ones at the end."""
    count = max((i + 1 for i, name in enumerate(names) if name), default=0)
    return tuple(names[:count])
