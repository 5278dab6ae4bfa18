"""What names a kernel and a processor across models, readable by people.

Conv+Relu, pads 1 1 1 1: 1x64x56x56 NCHW8c, const 64x64x3x3, const 64 -> 1x64x56x56 NCHW8c
"""

from __future__ import annotations

from collections.abc import Container, Mapping

from ...codegen.target import Target
from ...ir import dtypes
from ...runtime.cpus import processor_name
from ..group import Group
from ..tensor import Tensor

_USUAL = {
    "auto_pad": ("NOTSET",),
    "group": (1,),
    "strides": (1,),
    "dilations": (1,),
    "pads": (0,),
    "transA": (0,),
    "transB": (0,),
    "alpha": (1.0,),
    "beta": (1.0,),
}
"""Attributes that say nothing where they have no other values than these."""
_SHOWN_BY_SHAPES = frozenset({"kernel_shape"})


def processor_key(target: Target, threads: int | None = None) -> str:
    """This machine's processor, with what code is generated for, and how many threads run it; None: as in entries of older files."""
    crew = "" if threads is None else f", {threads} thread{'s' * (threads != 1)}"
    return f"{processor_name()}, {target.cpu}, {target.isa}/{target.vector_bits}{crew}"


def signature(group: Group, tensors: Mapping[str, Tensor], constants: Container[str]) -> str:
    """What a group computes on which shapes, dtypes and layouts; ``tensors`` are laid out as without any tuning.

    Kernels with the same signature need not be the same (a constant may be in the code), but what they choose from is.
    """
    words = [group.title]
    for name, value in sorted(group.anchor.attrs.items()):
        values = value if isinstance(value, tuple) else (value,)
        told_already = name in _SHOWN_BY_SHAPES or all(v in _USUAL.get(name, ()) for v in values)
        if not told_already and all(isinstance(v, int | float | str) for v in values):
            words.append(f"{name} {' '.join(map(str, values))}")

    def shown(name: str) -> str:
        tensor = tensors[name]
        dtype = "" if tensor.dtype is dtypes.float32 else f"{tensor.dtype} "
        block = f" NCHW{tensor.layout.block}c" if tensor.layout.block else ""
        return f"{'const ' if name in constants else ''}{dtype}{'x'.join(map(str, tensor.shape)) or 'scalar'}{block}"

    inputs = ", ".join(shown(name) for name in group.inputs if name in tensors)
    return f"{', '.join(words)}: {inputs} -> {', '.join(shown(name) for name in group.outputs)}"
