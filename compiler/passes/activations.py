"""Activations that models spell out in elementary operators are recognized, so that each is one operation of the fused loop.

A product is matched as the bag of its factors, so that the order in which an exporter multiplies does not matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...ir.graph import Node
from .rewrite import Outcome, Refusal, replace_with, rule
from .view import View


@dataclass(frozen=True)
class _Product:
    """``factor`` times all of ``values``."""

    factor: float
    values: tuple[str, ...]
    shared: bool
    """True when a value inside is also read elsewhere."""


@rule("Mul")
def gelu(view: View, node: Node) -> Outcome:
    """x * 0.5 * (1 + erf(x / sqrt(2))) => Gelu(x); x * 0.5 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x**3))) => Gelu(x, "tanh")"""
    product = _product(view, node)
    if len(product.values) != 2 or not _close(product.factor, 0.5):
        return None
    for data, gate in (product.values, product.values[::-1]):
        inner = _plus_constant(view, gate, 1.0)
        if inner is None:
            continue
        form = _gelu_form(view, inner, data)
        if form is None:
            continue
        if product.shared or not view.read_once(gate) or not view.read_once(inner):
            return Refusal("a value inside is used elsewhere")
        return replace_with(node, "Gelu", (data,), {"approximate": form})
    return None


@rule("Mul")
def swish(view: View, node: Node) -> Outcome:
    """x * sigmoid(a * x) => Swish(x, a)"""
    for data, gate in (node.inputs, node.inputs[::-1]):
        sigmoid = view.maker(gate, "Sigmoid")
        if sigmoid is None:
            continue
        alpha = 1.0 if sigmoid.inputs[0] == data else _multiple(view, sigmoid.inputs[0], data)
        if alpha is None:
            continue
        if not view.read_once(gate):
            return Refusal("a value inside is used elsewhere")
        return replace_with(node, "Swish", (data,), {"alpha": alpha})
    return None


@rule("Mul", "Div")
def hard_sigmoid(view: View, node: Node) -> Outcome:
    """clip(x + 3, 0, 6) / 6 => HardSigmoid(x, 1/6, 1/2)"""
    constant = view.scalar(node.inputs[1])
    clip = view.maker(node.inputs[0], "Clip")
    if clip is None or constant is None or not _close(constant if node.op == "Div" else 1 / (constant or 1), 6.0):
        return None
    limits = [view.scalar(name) for name in clip.inputs[1:3]]
    data = _plus_constant(view, clip.inputs[0], 3.0)
    if limits != [0.0, 6.0] or data is None:
        return None
    if not view.read_once(node.inputs[0]) or not view.read_once(clip.inputs[0]):
        return Refusal("a value inside is used elsewhere")
    return replace_with(node, "HardSigmoid", (data,), {"alpha": 1 / 6, "beta": 0.5})


@rule("Mul", "Div")
def hard_swish(view: View, node: Node) -> Outcome:
    """x * HardSigmoid(x, 1/6, 1/2) => HardSwish(x); x * clip(x + 3, 0, 6) / 6 => HardSwish(x)"""
    if node.op == "Mul":
        for data, gate in (node.inputs, node.inputs[::-1]):
            sigmoid = view.maker(gate, "HardSigmoid")
            if sigmoid is None or sigmoid.inputs[0] != data or not _is_hard(sigmoid):
                continue
            return (
                replace_with(node, "HardSwish", (data,))
                if view.read_once(gate)
                else Refusal("a value inside is used elsewhere")
            )
    product = _product(view, node)
    if len(product.values) != 2 or not _close(product.factor, 1 / 6):
        return None
    for data, gate in (product.values, product.values[::-1]):
        clip = view.maker(gate, "Clip")
        if clip is None or [view.scalar(name) for name in clip.inputs[1:3]] != [0.0, 6.0]:
            continue
        if _plus_constant(view, clip.inputs[0], 3.0) != data:
            continue
        if product.shared or not view.read_once(gate) or not view.read_once(clip.inputs[0]):
            return Refusal("a value inside is used elsewhere")
        return replace_with(node, "HardSwish", (data,))
    return None


@rule("Div")
def divide_by_constant(view: View, node: Node) -> Outcome:
    """x / c => x * (1 / c), where 1 / c is exact, or where x is a sum of products, which is rounded anyway"""
    constant = view.constant(node.inputs[1])
    if constant is None or constant.dtype.name not in ("float32", "float64") or constant.size > 65536:
        return None
    with np.errstate(all="ignore"):
        reciprocal = (1 / constant).astype(constant.dtype)
    if not np.isfinite(reciprocal).all() or (np.abs(reciprocal) < np.finfo(constant.dtype).tiny).any():
        return Refusal("the reciprocal is not a normal number")
    exact = bool((np.abs(np.frexp(constant)[0]) == 0.5).all())
    if not exact and view.maker(node.inputs[0], "MatMul", "Gemm", "Conv", "ConvTranspose") is None:
        return Refusal("the reciprocal is not exact")
    return replace_with(node, "Mul", (node.inputs[0], view.new_constant(reciprocal, f"{node.inputs[1]}_reciprocal")))


@rule("Pow")
def small_power(view: View, node: Node) -> Outcome:
    """x ** 2 => x * x, x ** 0.5 => Sqrt(x), x ** -1 => Reciprocal(x)"""
    power, constant = view.scalar(node.inputs[1]), view.constant(node.inputs[1])
    dtype, rank = view.dtype(node.inputs[0]), view.rank(node.inputs[0])
    if power is None or constant is None or dtype is None or not dtype.is_float:
        return None
    if constant.ndim > (rank or 0):
        return Refusal("the constant may add an axis")
    match power:
        case 2.0:
            return replace_with(node, "Mul", (node.inputs[0],) * 2)
        case 0.5:
            return replace_with(node, "Sqrt", node.inputs[:1])
        case -1.0:
            return replace_with(node, "Reciprocal", node.inputs[:1])
        case _:
            return None


def _gelu_form(view: View, inner: str, data: str) -> str | None:
    """The ``approximate`` attribute of the Gelu of ``data`` whose gate is 1 + ``inner``, None when it is not one."""
    erf, tanh = view.maker(inner, "Erf"), view.maker(inner, "Tanh")
    if erf is not None:
        factor = _multiple(view, erf.inputs[0], data)
        return "none" if factor is not None and _close(factor, math.sqrt(0.5)) else None
    return "tanh" if tanh is not None and _is_cubic(view, tanh.inputs[0], data) else None


def _is_cubic(view: View, name: str, data: str) -> bool:
    """True for sqrt(2/pi) * (x + 0.044715 * x**3), also with x factored out."""
    product = _factors(view, name)
    if not _close(product.factor, math.sqrt(2 / math.pi)):
        return False
    if len(product.values) == 2 and data in product.values:
        polynomial = product.values[1 - product.values.index(data)]
        cubic, power = _plus_constant(view, polynomial, 1.0), 2
    elif len(product.values) == 1:
        cubic, power = _plus_value(view, product.values[0], data), 3
    else:
        return False
    if cubic is None:
        return False
    term = _factors(view, cubic)
    return term.values == (data,) * power and _close(term.factor, 0.044715)


def _is_hard(sigmoid: Node) -> bool:
    alpha, beta = sigmoid.attrs.get("alpha", 0.2), sigmoid.attrs.get("beta", 0.5)
    return _close(float(str(alpha)), 1 / 6) and _close(float(str(beta)), 0.5)


def _plus_constant(view: View, name: str, constant: float) -> str | None:
    """The x of x + ``constant``."""
    node = view.maker(name, "Add")
    for data, other in (node.inputs, node.inputs[::-1]) if node else ():
        value = view.scalar(other)
        if value is not None and _close(value, constant):
            return data
    return None


def _plus_value(view: View, name: str, value: str) -> str | None:
    """The y of ``value`` + y."""
    node = view.maker(name, "Add")
    if node is None or value not in node.inputs:
        return None
    return node.inputs[1 - node.inputs.index(value)]


def _multiple(view: View, name: str, data: str) -> float | None:
    """The a of a * ``data``."""
    product = _factors(view, name)
    return product.factor if product.values == (data,) else None


def _factors(view: View, name: str) -> _Product:
    node = view.maker(name, "Mul", "Div", "Pow")
    return _product(view, node) if node else _Product(1.0, (name,), False)


def _product(view: View, node: Node, depth: int = 4) -> _Product:
    """The factors of ``node``, a Mul, a Div by a constant, or a small Pow, through products inside it."""
    factor, values, shared = 1.0, [], False
    if node.op == "Pow":
        power = view.scalar(node.inputs[1])
        if power in (2.0, 3.0):
            return _Product(1.0, (node.inputs[0],) * int(power), False)
        return _Product(1.0, node.outputs[:1], False)
    for position, name in enumerate(node.inputs):
        scalar = view.scalar(name)
        if node.op == "Div" and position == 1:
            if not scalar:
                return _Product(1.0, node.outputs[:1], False)
            factor /= scalar
        elif scalar is not None:
            factor *= scalar
        else:
            inner = view.maker(name, "Mul", "Div", "Pow") if depth else None
            part = _product(view, inner, depth - 1) if inner else _Product(1.0, (name,), False)
            shared |= part.shared or (inner is not None and part.values != (name,) and not view.read_once(name))
            factor *= part.factor
            values += part.values
    return _Product(factor, tuple(values), shared)


def _close(value: float, expected: float) -> bool:
    return math.isclose(value, expected, rel_tol=1e-3 if abs(expected) < 0.1 else 1e-4)
