"""Attention that a model spells out is recognized, whatever its scores go through on the way to the softmax.

Exporters scale queries and keys or scores, add masks or select by them, cap scores by tanh, repeat keys and values for groups of heads,
transpose keys in three dimensions, and clear what a row without any key gives. All of that is found from the second product backwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from ...ir import dtypes
from ...ir.errors import ModelError
from ...ir.graph import Attribute, Node, TensorType
from ..ops.attention import ARITY, batch_shape
from ..ops.infer import Attributes
from .rewrite import Outcome, Refusal, Rewrite, rule
from .view import View

_FLOATS = (dtypes.float16, dtypes.bfloat16, dtypes.float32, dtypes.float64)
_MASKED = -1e30
"""What is at most this is as good as -inf among scores: exp of it is 0 beside that of any other score."""
_MASKED_HALF = -65504.0
"""The same of float16, its lowest number."""
_MOST_STEPS = 12
_ELEMENTWISE = ("Where", "And", "Or", "Not", "Cast", "Add", "Sub", "Mul", "Div", "Min", "Max", "Equal", "Less", "Greater")
"""What exporters make masks of."""


@rule("MatMul")
def attention(view: View, node: Node) -> Outcome:
    """softmax(score(q @ k)) @ v => loopnest.Attention(q, k, v, ...)"""
    found = _Softmax.find(view, node.inputs[0])
    if found is None:
        return None
    scores = _Scores.find(view, found.input)
    if scores is None:
        return None
    shapes = [view.shape(name) for name in (*scores.product.inputs, *node.inputs, node.outputs[0])]
    if None in shapes:
        return Refusal("a shape is not known yet")
    if not found.private or not scores.private:
        return Refusal("scores or probabilities are used elsewhere")
    if any(view.dtype(name) not in _FLOATS for name in (*scores.product.inputs, node.inputs[1])):
        return Refusal("scores are not floats")
    return _rewrite(view, node, found, scores)


@rule("Transpose")
def transpose_of_attention(view: View, node: Node) -> Outcome:
    """Transpose(loopnest.Attention(...), p) => loopnest.Attention(..., perm=p)"""
    inner = view.maker(node.inputs[0], "Attention", domain="loopnest")
    perm = node.attrs.get("perm")
    if inner is None or not isinstance(perm, tuple) or "perm" in inner.attrs:
        return None
    if not view.read_once(node.inputs[0]):
        return Refusal("what is transposed is used elsewhere")
    return Rewrite([inner.replace(outputs=node.outputs, attrs={**inner.attrs, "perm": perm})])


def _rewrite(view: View, node: Node, found: _Softmax, scores: _Scores) -> Outcome:
    make = _Maker(view)
    shape, output = view.shape(scores.product.outputs[0]), view.shape(node.outputs[0])
    if shape is None or output is None or not all((*shape, *output)):
        return Refusal("it is empty")
    q, factor = _unscaled(view, scores.product.inputs[0])
    k, other = _keys(view, scores.product.inputs[1], make)
    v = _repeated(view, node.inputs[1]) or node.inputs[1]
    dtype = view.dtype(q)
    if dtype is None or any(view.dtype(name) is not dtype for name in (k, v)):
        return Refusal("the operands differ in type")
    steps = list(scores.steps)
    if factor * other != 1.0:
        scale = view.new_constant(np.array(factor * other, dtype.numpy), "scale")
        steps.insert(0, _Step("Mul", 0, (scale,)))
    steps, causal = _without_masks(view, steps, shape)
    shapes: list[tuple[int, ...]] = [view.shape(name) or () for name in (q, k, v)]
    if len(shape) < 2 or any(len(s) < 2 for s in shapes):
        return Refusal("an operand is a vector")
    try:
        batch = batch_shape(Attributes(node), *shapes)
    except ModelError:
        return Refusal("heads do not fit together")
    if (*batch, *shape[-2:]) != shape or output != (*shape[:-1], shapes[2][-1]):
        return Refusal("batch axes are broadcast after the scores")
    if any(not _broadcasts(view.shape(name), shape) for step in steps for name in step.operands):
        return Refusal("what is done to the scores makes them larger")
    rows = found.zero_rows
    if rows and not _broadcasts(view.shape(rows), (*shape[:-1], 1)):
        return Refusal("probabilities are cleared one by one")
    steps = [replace(step, operands=tuple(make.one_row(name) for name in step.operands)) for step in steps]
    attrs: dict[str, Attribute] = {"steps": tuple(f"{s.op}:{s.position}" for s in steps)}
    attrs |= {"causal": causal} if causal is not None else {}
    attrs |= {"zero_nan": 1} if found.zero_nan else {}
    inputs = (q, k, v, rows, *(name for step in steps for name in step.operands))
    while not inputs[-1]:
        inputs = inputs[:-1]
    return Rewrite([*make.nodes, Node("Attention", inputs, node.outputs, attrs, node.name, "loopnest")])


@dataclass(frozen=True)
class _Step:
    """An operator that a score goes through: ``position`` is that of the score among its inputs, ``operands`` the others."""

    op: str
    position: int
    operands: tuple[str, ...]


@dataclass(frozen=True)
class _Softmax:
    """A softmax over the last axis, and what is done to its result. ``private``: nobody else reads a value in between."""

    input: str
    private: bool
    zero_nan: bool = False
    zero_rows: str = ""

    @staticmethod
    def find(view: View, name: str) -> _Softmax | None:
        name, private = _uncast(view, name)
        where = view.maker(name, "Where")
        if where is not None:
            inner = _Softmax.find(view, where.inputs[2]) if view.scalar(where.inputs[1]) == 0.0 else None
            if inner is None or inner.zero_nan or inner.zero_rows:
                return None
            test = view.maker(where.inputs[0], "IsNaN")
            if test is not None and test.inputs[0] == where.inputs[2]:
                alone = view.reads(test.inputs[0]) == 2 and view.read_once(test.outputs[0])
                return replace(inner, private=private and alone and view.read_once(name), zero_nan=True)
            mask = view.constant(where.inputs[0])
            rows = "" if mask is not None and not mask.any() else where.inputs[0]
            return replace(inner, private=inner.private and private and view.read_once(name), zero_rows=rows)
        node = view.maker(name, "Softmax")
        rank = view.rank(name)
        if node is None or rank is None or node.attrs.get("axis", -1) not in (-1, rank - 1):
            return None
        return _Softmax(node.inputs[0], private and view.read_once(name))


@dataclass(frozen=True)
class _Scores:
    """The product of queries and keys, and the steps from there to the softmax, in order."""

    product: Node
    steps: tuple[_Step, ...]
    private: bool

    @staticmethod
    def find(view: View, name: str) -> _Scores | None:
        steps: list[_Step] = []
        private = True
        for _ in range(_MOST_STEPS):
            name, alone = _uncast(view, name)
            private = private and alone and view.read_once(name)
            product = view.maker(name, "MatMul")
            if product is not None:
                return _Scores(product, tuple(reversed(steps)), private)
            node = view.maker(name, *ARITY)
            at = None if node is None else _score_input(view, node)
            if node is None or at is None:
                return None
            steps.append(_Step(node.op, at, tuple(n for i, n in enumerate(node.inputs) if i != at)))
            name = node.inputs[at]
        return None


def _score_input(view: View, node: Node) -> int | None:
    """Which input of a step is the score: that which leads to a product; of two, none is."""
    leading = [i for i, name in enumerate(node.inputs) if _leads_to_product(view, name, _MOST_STEPS)]
    return leading[0] if len(leading) == 1 and (node.op != "Where" or leading[0] > 0) else None


def _leads_to_product(view: View, name: str, depth: int) -> bool:
    node = view.maker(name, "MatMul", "Cast", *ARITY)
    if node is None or not depth:
        return False
    return node.op == "MatMul" or any(_leads_to_product(view, n, depth - 1) for n in node.inputs)


def _uncast(view: View, name: str) -> tuple[str, bool]:
    """What ``name`` is a conversion of, from float to float, and whether nobody else reads the converted values."""
    private = True
    while (cast := view.maker(name, "Cast")) is not None and view.dtype(cast.inputs[0]) in _FLOATS:
        private = private and view.read_once(name)
        name = cast.inputs[0]
    return name, private


# --- operands ------------------------------------------------------------------------------------------------------------------


@dataclass
class _Maker:
    """Collects nodes that stand before the attention."""

    view: View
    nodes: list[Node] = field(default_factory=list)

    def transposed(self, name: str) -> str:
        """The last two axes exchanged."""
        shape, dtype = self.view.shape(name), self.view.dtype(name)
        assert shape is not None and dtype is not None
        result = self.view.new_value("keys", TensorType(dtype, (*shape[:-2], shape[-1], shape[-2])))
        perm = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
        self.nodes.append(Node("Transpose", (name,), (result,), {"perm": perm}))
        return result

    def one_row(self, name: str) -> str:
        """What masks all queries alike, for one query: ``name`` where it does not."""
        before = len(self.nodes)
        found = self._one_row(name, _MOST_STEPS)
        if found is None:
            del self.nodes[before:]
        return found or name

    def _one_row(self, name: str, depth: int) -> str | None:
        """A value that, broadcast along the last axis but one, is ``name``; None where none is found."""
        shape, dtype, array = self.view.shape(name), self.view.dtype(name), self.view.constant(name)
        if shape is None or dtype is None:
            return None
        if len(shape) < 2 or shape[-2] == 1:
            return name
        if array is not None:
            row = np.ascontiguousarray(array[..., :1, :])
            return self.view.new_constant(row, "row") if (array == row).all() else None
        node = self.view.maker(name, "Expand", *_ELEMENTWISE)
        if node is None or not depth:
            return None
        inputs = [self._one_row(value, depth - 1) for value in (node.inputs[:1] if node.op == "Expand" else node.inputs)]
        rows = [value for value in inputs if value is not None]
        if len(rows) < len(inputs):
            return None
        if node.op == "Expand":
            return rows[0]
        extents = np.broadcast_shapes(*(self.view.shape(row) or () for row in rows))
        result = self.view.new_value("row", TensorType(dtype, extents))
        self.nodes.append(node.replace(inputs=tuple(rows), outputs=(result,)))
        return result


def _unscaled(view: View, name: str) -> tuple[str, float]:
    """A value that is multiplied by, or divided by, one number, and the factor."""
    factor = 1.0
    while (node := view.maker(name, "Mul", "Div")) is not None:
        for data, scale in (node.inputs, node.inputs[::-1])[: 1 if node.op == "Div" else 2]:
            number = view.scalar(scale)
            if number and view.shape(data) == view.shape(name) and view.dtype(data) is view.dtype(name):
                factor, name = factor * (number if node.op == "Mul" else 1.0 / number), data
                break
        else:
            break
    return name, factor


def _keys(view: View, name: str, make: _Maker) -> tuple[str, float]:
    """Keys [..., D, N] without factor, and without what repeats or reshapes them before they are transposed."""
    name, factor = _unscaled(view, name)
    source, shape = _transposed_source(view, name), view.shape(name)
    if source is None or shape is None:
        return name, factor
    inner, second = _unscaled(view, source)
    wanted = (*shape[:-2], shape[-1], shape[-2])
    single = _repeated(view, inner, wanted)
    if single is not None:
        return make.transposed(single), factor * second
    plain = _reshaped_from(view, inner, wanted)
    if plain is not None:
        return make.transposed(plain), factor * second
    return name, factor


def _transposed_source(view: View, name: str) -> str | None:
    """What is transposed, in its last two axes, to ``name``; reshaped to three axes meanwhile, perhaps."""
    outer = view.maker(name, "Reshape")
    node = view.maker(outer.inputs[0] if outer else name, "Transpose")
    perm = node.attrs.get("perm") if node else None
    if node is None or not isinstance(perm, tuple):
        return None
    rank = len(perm)
    if perm != (*range(rank - 2), rank - 1, rank - 2):
        return None
    inner, result = view.shape(node.outputs[0]), view.shape(name)
    return node.inputs[0] if inner is not None and result is not None and inner[-2:] == result[-2:] else None


def _reshaped_from(view: View, name: str, shape: tuple[int, ...]) -> str | None:
    """The value of that shape that ``name`` is, or is reshaped from."""
    if view.shape(name) == shape:
        return name
    node = view.maker(name, "Reshape", "Unsqueeze", "Squeeze", "Flatten")
    return node.inputs[0] if node is not None and view.shape(node.inputs[0]) == shape else None


def _repeated(view: View, name: str, shape: tuple[int, ...] | None = None) -> str | None:
    """x [..., H, N, D] where ``name`` is x with each head repeated, in shape [..., H * times, N, D]."""
    shape = shape or view.shape(name)
    reshape = view.maker(name, "Reshape")
    expand = view.maker(reshape.inputs[0] if reshape else name, "Expand")
    if expand is None or shape is None or len(shape) < 3:
        return None
    wide, narrow = view.shape(expand.outputs[0]), view.shape(expand.inputs[0])
    if wide is None or narrow is None or len(wide) != len(shape) + 1 or len(narrow) != len(wide):
        return None
    heads, times = wide[-4], wide[-3]
    if wide != (*shape[:-3], heads, times, *shape[-2:]) or narrow != (*wide[:-3], 1, *wide[-2:]) or heads * times != shape[-3]:
        return None
    return _reshaped_from(view, expand.inputs[0], (*shape[:-3], heads, *shape[-2:]))


# --- masks ---------------------------------------------------------------------------------------------------------------------


def _broadcasts(shape: tuple[int, ...] | None, whole: tuple[int, ...]) -> bool:
    if shape is None or len(shape) > len(whole):
        return False
    return all(a in (1, b) for a, b in zip(shape[::-1], whole[::-1], strict=False))


def _without_masks(view: View, steps: list[_Step], shape: tuple[int, ...]) -> tuple[list[_Step], int | None]:
    """The steps without constant masks that mask nothing, or all keys after query i + offset; that offset."""
    kept: list[_Step] = []
    causal: int | None = None
    for step in reversed(steps):
        hidden = _hidden(view, step)
        if hidden is not None and _broadcasts(hidden.shape, shape):
            if not hidden.any():
                continue
            offset = _offset(hidden, shape)
            if offset is not None and causal is None and all(_keeps_masked(view, later) for later in kept):
                causal = offset
                continue
        kept.insert(0, step)
    return kept, causal


def _keeps_masked(view: View, step: _Step) -> bool:
    """Whether a step leaves a score of -inf what it is, or nearly so."""
    if step.op == "Where":
        value = view.scalar(step.operands[1])
        return value is not None and value <= _MASKED
    return step.op == "Add"


def _hidden(view: View, step: _Step) -> np.ndarray | None:
    """Which scores a step masks, where it does nothing else and that is constant."""
    mask = view.constant(step.operands[0]) if step.operands else None
    if mask is None:
        return None
    if step.op == "Add" and mask.dtype.kind == "f":
        hidden = mask <= (_MASKED if mask.dtype.itemsize > 2 else _MASKED_HALF)
        return hidden if not np.any(mask[~hidden]) else None
    if step.op == "Where":
        value = view.scalar(step.operands[1])
        half = view.dtype(step.operands[1]) is dtypes.float16
        if value is None or value > (_MASKED_HALF if half else _MASKED):
            return None
        return mask if step.position == 2 else ~mask
    return None


def _offset(hidden: np.ndarray, shape: tuple[int, ...]) -> int | None:
    """The offset with which ``hidden`` is a causal mask under which every query sees a key."""
    rows, columns = shape[-2:]
    if hidden.shape[-2:] != (rows, columns) or prod(hidden.shape[:-2]) != 1:
        return None
    mask = hidden.reshape(rows, columns)
    offset = int(np.count_nonzero(~mask[0])) - 1
    if offset < 0 or not np.array_equal(mask, ~np.tri(rows, columns, offset, dtype=bool)):
        return None
    return offset
