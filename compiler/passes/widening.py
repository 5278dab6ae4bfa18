"""Products of 16-bit floats in float32: every operand is converted once instead of each time it is read.

Sums are of float32 in any case (`ops/convolution.py`, `ops/matmul.py`), and are rounded once, at the end. What is wide in memory takes the
schedules of float32, Winograd's among them; weights that are read once a call stay narrow, because reading them is what takes time.
"""

from __future__ import annotations

from math import prod

from ...ir import dtypes
from ...ir.graph import Node, TensorType
from .rewrite import Outcome, Refusal, Rewrite, rule
from .view import View

MIN_USES = 2
"""Products that each element of the weights takes part in, from which on they are worth converting."""
NARROW = (dtypes.float16, dtypes.bfloat16)


@rule("Conv", "ConvTranspose", "MatMul", "Gemm")
def widen_products(view: View, node: Node) -> Outcome:
    """op(x, w, b) => cast(op(cast(x), cast(w), cast(b))), in float32, of float16 and bfloat16"""
    dtype, weights, out = view.dtype(node.inputs[0]), view.shape(node.inputs[1]), view.shape(node.outputs[0])
    if dtype is None or dtype not in NARROW or weights is None or out is None:
        return None
    if _uses(node.op, weights, out) < MIN_USES:
        return Refusal("its weights are read too seldom")
    nodes: list[Node] = []
    wide: list[str] = []
    for name in node.inputs:
        if name:
            cast = view.new_value(f"{name}_wide", TensorType(dtypes.float32, view.dims(name)))
            nodes.append(Node("Cast", (name,), (cast,), {"to": dtypes.float32.onnx}, node.name))
            wide.append(cast)
        else:
            wide.append("")
    result = view.new_value(f"{node.outputs[0]}_wide", TensorType(dtypes.float32, out))
    nodes.append(node.replace(inputs=tuple(wide), outputs=(result,)))
    return Rewrite([*nodes, Node("Cast", (result,), node.outputs[:1], {"to": dtype.onnx}, node.name)])


def _uses(op: str, weights: tuple[int, ...], out: tuple[int, ...]) -> int:
    """How many results each element of the weights has a part in."""
    if op == "Gemm":
        return out[0]
    if op != "MatMul":
        return out[0] * prod(out[2:])
    columns = (*weights[:-2], *weights[-1:]) if len(weights) > 1 else ()
    return prod(out) // max(1, prod(columns))
