"""What names a kernel and a processor across models, readable by people.

Conv+Relu, pads 1 1 1 1: 1x64x56x56 NCHW8c, const 64x64x3x3, const 64 -> 1x64x56x56 NCHW8c
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256

from ...codegen.target import Target
from ...ir import dtypes
from ...runtime.cpus import processor_name
from ..group import Group
from ..tensor import PLAIN, Tensor

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
SHOWN = 2
"""Operators that the signature of a graph names."""
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


def graph_signature(
    inputs: Sequence[str],
    groups: Sequence[Group],
    outputs: Sequence[str],
    tensors: Mapping[str, Tensor],
    constants: Container[str],
) -> str:
    """What a whole graph computes, however its values are laid out: what it has most of, its shapes, and a digest of the signatures of its
    ``groups``.

    All of 20 Conv, 5 MatMul, 3 other: 1x3x224x224 -> 1x1000 (b5bb9d8014a0)
    """
    plain = {name: replace(tensor, layout=PLAIN) for name, tensor in tensors.items()}
    every = Counter(group.anchor.op for group in groups).most_common()
    shown = [f"{count} {op}" for op, count in every[:SHOWN]]
    if others := sum(count for _, count in every[SHOWN:]):
        shown.append(f"{others} other")
    before, after = (
        ", ".join("x".join(map(str, plain[name].shape)) or "scalar" for name in names if name in plain)
        for names in (inputs, outputs)
    )
    digest = sha256("\n".join(signature(group, plain, constants) for group in groups).encode()).hexdigest()
    return f"All of {', '.join(shown)}: {before} -> {after} ({digest[:12]})"
