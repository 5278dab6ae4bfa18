"""Layer normalization that a model spells out is recognized."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ...ir.graph import Node
from .rewrite import Outcome, Refusal, replace_with, rule
from .view import View


@rule("Mul")
def layer_norm(view: View, node: Node) -> Outcome:
    """(x - mean(x)) / sqrt(mean((x - mean(x)) ** 2) + eps) * g => LayerNormalization(x, g)"""
    return _recognized(view, node, "LayerNormalization", lambda name: _normalized(view, view.maker(name, "Div")))


@rule("Mul")
def rms_norm(view: View, node: Node) -> Outcome:
    """x / sqrt(mean(x ** 2) + eps) * g => RMSNormalization(x, g)"""
    return _recognized(view, node, "RMSNormalization", lambda name: _by_root_mean_square(view, name))


Found = tuple[str, tuple[int, ...], float]
"""What is normalized, over which axes, and the epsilon."""


def _recognized(view: View, node: Node, op: str, find: Callable[[str], Found | None]) -> Outcome:
    """``node`` multiplies by a constant gain what ``find`` finds normalized."""
    for normal, gain in (node.inputs, node.inputs[::-1]):
        scale = view.constant(gain)
        found = find(normal) if scale is not None else None
        if found is None or scale is None:
            continue
        data, axes, epsilon = found
        rank, dims = view.rank(data), view.dims(data)
        if rank is None or dims is None:
            return Refusal("the rank is not known")
        axis = rank - len(axes)
        if sorted(a % rank for a in axes) != list(range(axis, rank)):
            return Refusal("it does not go over the last axes")
        shape = dims[axis:]
        wanted = math.prod(extent for extent in shape if isinstance(extent, int))
        if not all(isinstance(extent, int) for extent in shape) or scale.size != wanted or scale.shape[-len(axes) :] != shape:
            return Refusal("the gain does not have the shape of what is normalized")
        if not view.read_once(normal):
            return Refusal("the normalized value is used elsewhere")
        weights = gain if scale.shape == shape else view.new_constant(np.ascontiguousarray(scale.reshape(shape)), gain)  # type: ignore[arg-type]
        return replace_with(node, op, (data, weights), {"axis": axis - rank, "epsilon": epsilon})
    return None


@rule("Add")
def layer_norm_bias(view: View, node: Node) -> Outcome:
    """LayerNormalization(x, g) + b => LayerNormalization(x, g, b)"""
    for normal, bias in (node.inputs, node.inputs[::-1]):
        norm = view.maker(normal, "LayerNormalization")
        shift = view.constant(bias)
        if norm is None or shift is None or norm.input(2) or len(norm.outputs) > 1:
            continue
        gain = view.type(norm.inputs[1])
        shape = view.shape(norm.inputs[1])
        if gain is None or shape is None or shift.size != math.prod(shape) or shift.shape[-len(shape) :] != shape:
            return Refusal("the bias does not have the shape of what is normalized")
        if not view.read_once(normal):
            return Refusal("the normalized value is used elsewhere")
        weights = bias if shift.shape == shape else view.new_constant(np.ascontiguousarray(shift.reshape(shape)), bias)
        return replace_with(node, "LayerNormalization", (*norm.inputs[:2], weights), norm.attrs)
    return None


def _by_root_mean_square(view: View, name: str) -> Found | None:
    """The x, axes and eps where ``name`` is x / sqrt(mean(x ** 2) + eps), as a quotient or a product."""
    node = view.maker(name, "Mul", "Div")
    if node is None:
        return None
    for data, factor in (node.inputs, node.inputs[::-1])[: 1 if node.op == "Div" else 2]:
        inverse = view.maker(factor, "Reciprocal")
        if node.op == "Mul" and inverse is None:
            continue
        root = view.maker(inverse.inputs[0] if inverse is not None and node.op == "Mul" else factor, "Sqrt")
        total = view.maker(root.inputs[0], "Add") if root else None
        for mean, offset in (total.inputs, total.inputs[::-1]) if total else ():
            epsilon, squares = view.scalar(offset), view.maker(mean, "ReduceMean")
            if epsilon is None or squares is None or not _is_square(view, squares.inputs[0], data):
                continue
            axes = _mean_axes(view, squares, squares.inputs[0])
            if axes is not None:
                return data, axes, epsilon
    return None


def _normalized(view: View, division: Node | None) -> Found | None:
    """The x, axes and eps of a division that normalizes x."""
    if division is None:
        return None
    centered, root = view.maker(division.inputs[0], "Sub"), view.maker(division.inputs[1], "Sqrt")
    total = view.maker(root.inputs[0], "Add") if root else None
    if centered is None or total is None:
        return None
    data, mean = centered.inputs
    for square_mean, offset in (total.inputs, total.inputs[::-1]):
        epsilon = view.scalar(offset)
        variance = view.maker(square_mean, "ReduceMean")
        if epsilon is None or variance is None or not _is_square(view, variance.inputs[0], division.inputs[0]):
            continue
        axes = _mean_axes(view, view.maker(mean, "ReduceMean"), data)
        if axes is not None and axes == _mean_axes(view, variance, variance.inputs[0]):
            return data, axes, epsilon
    return None


def _is_square(view: View, name: str, base: str) -> bool:
    node = view.maker(name, "Mul", "Pow")
    if node is None:
        return False
    same = {base, *(n.outputs[0] for n in [_twin(view, node.inputs[0], base)] if n)}
    if node.inputs[0] not in same:
        return False
    return node.inputs[1] == node.inputs[0] if node.op == "Mul" else view.scalar(node.inputs[1]) == 2.0


def _twin(view: View, name: str, base: str) -> Node | None:
    """The subtraction that makes ``name``, when it subtracts what ``base``'s does: some exporters do it twice."""
    first, second = view.maker(name, "Sub"), view.maker(base, "Sub")
    return first if first is not None and second is not None and first.inputs == second.inputs else None


def _mean_axes(view: View, mean: Node | None, data: str) -> tuple[int, ...] | None:
    if mean is None or mean.inputs[0] != data or not mean.attrs.get("keepdims", 1):
        return None
    return view.ints(mean.input(1)) or None
