"""Operators that rename axes and move nothing: Reshape, Flatten, Squeeze, Unsqueeze."""

from __future__ import annotations

from math import prod

from ...ir.graph import TensorType
from .context import Op
from .infer import InferContext
from .registry import view


def infer_reshape(context: InferContext) -> TensorType:
    """0 copies the input's extent (unless ``allowzero``), one -1 takes what is left."""
    shape, wanted = context.shape(0), list(context.ints(1) or ())
    if not context.attr("allowzero", 0):
        for i, extent in enumerate(wanted):
            if extent == 0:
                if i >= len(shape):
                    raise context.fail(f"extent 0 at position {i} copies an extent that {shape} does not have")
                wanted[i] = shape[i]
    known = prod(e for e in wanted if e != -1)
    if wanted.count(-1) > 1 or any(e < -1 for e in wanted):
        raise context.fail(f"cannot reshape to {tuple(wanted)}: at most one extent may be -1, none less")
    if -1 in wanted:
        if known == 0 or prod(shape) % known:
            raise context.fail(f"cannot reshape {shape} to {tuple(wanted)}: {prod(shape)} elements are no multiple of {known}")
        wanted[wanted.index(-1)] = prod(shape) // known
    if prod(wanted) != prod(shape):
        raise context.fail(f"cannot reshape {shape} to {tuple(wanted)}: {prod(shape)} elements against {prod(wanted)}")
    return TensorType(context.dtype(0), tuple(wanted))


def infer_flatten(context: InferContext) -> TensorType:
    shape = context.shape(0)
    axis = context.attr("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise context.fail(f"axis {axis} is outside [{-len(shape)}, {len(shape)}]")
    axis = axis % len(shape) if axis < 0 else axis
    return TensorType(context.dtype(0), (prod(shape[:axis]), prod(shape[axis:])))


def infer_squeeze(context: InferContext) -> TensorType:
    shape, given = context.shape(0), context.ints(1)
    if given is None:
        axes = {i for i, extent in enumerate(shape) if extent == 1}
    else:
        axes = {context.axis(axis, len(shape)) for axis in given}
    for axis in axes:
        if shape[axis] != 1:
            raise context.fail(f"cannot squeeze axis {axis} of {shape}: its extent is {shape[axis]}")
    return TensorType(context.dtype(0), tuple(e for i, e in enumerate(shape) if i not in axes))


def infer_unsqueeze(context: InferContext) -> TensorType:
    shape, given = context.shape(0), context.ints(1) or ()
    rank = len(shape) + len(given)
    axes = {context.axis(axis, rank) for axis in given}
    if len(axes) != len(given):
        raise context.fail(f"axes {given} name an axis twice")
    rest = iter(shape)
    return TensorType(context.dtype(0), tuple(1 if i in axes else next(rest) for i in range(rank)))


@view("Reshape", infer=infer_reshape, values=(1,))
def reshape(op: Op) -> None: ...


@view("Flatten", infer=infer_flatten)
def flatten(op: Op) -> None: ...


@view("Squeeze", infer=infer_squeeze, values=(1,))
def squeeze(op: Op) -> None: ...


@view("Unsqueeze", infer=infer_unsqueeze, values=(1,))
def unsqueeze(op: Op) -> None: ...
