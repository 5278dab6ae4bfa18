"""Older forms of operators brought to the semantics of the newest opset, node by node.

``UPGRADES`` is the whole table: for each operator its steps in order; a step applies to nodes of an opset below ``before``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...ir.graph import Node
from . import upgrade_forms as forms
from . import upgrade_legacy as legacy
from .body import Body

Change = Callable[[Node, Body], Node]


@dataclass(frozen=True)
class Step:
    """``change(node, body)`` returns the node that makes the old outputs; nodes that it needs it adds to ``body`` first."""

    before: int
    change: Change


def upgrade(node: Node, opset: int, body: Body) -> Node:
    """``node`` of ``opset`` as a node of the newest opset."""
    if node.domain:
        return node
    if "consumed_inputs" in node.attrs:
        node = forms.without(node, "consumed_inputs")
    for step in UPGRADES.get(node.op, ()):
        if opset < step.before:
            node = step.change(node, body)
    return node


def _each(names: str, *steps: Step) -> Mapping[str, tuple[Step, ...]]:
    return dict.fromkeys(names.split(), steps)


UPGRADES: Mapping[str, tuple[Step, ...]] = {
    **_each("Add Sub Mul Div Pow And Or Xor Equal Greater Less", Step(7, legacy.broadcast_along_axis)),
    **_each("PRelu", Step(7, legacy.slope_per_channel)),
    **_each("RNN GRU LSTM", Step(7, forms.dropping("output_sequence"))),
    **_each("Softmax LogSoftmax Hardmax", Step(13, forms.flattened_axis)),
    **_each(
        "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSumSquare",
        Step(18, forms.axes_to_input),
    ),
    **_each("ReduceSum Squeeze Unsqueeze", Step(13, forms.axes_to_input)),
    **_each("Dropout", Step(12, forms.dropping("is_test", "ratio"))),
    "BatchNormalization": (Step(14, legacy.inference_batch_norm),),
    "Cast": (Step(6, legacy.cast_by_name),),
    "Clip": (Step(11, forms.clip_limits_to_inputs),),
    "Concat": (Step(4, forms.default("axis", 1)),),
    "DFT": (Step(20, forms.dft_axis_to_input),),
    "Gemm": (Step(7, forms.dropping("broadcast")),),
    "GridSample": (Step(20, forms.grid_sample_mode),),
    "GroupNormalization": (Step(21, forms.group_norm_per_channel),),
    "Pad": (Step(2, legacy.paddings_renamed), Step(11, forms.pads_to_inputs)),
    "Reshape": (Step(5, forms.shape_to_input),),
    "Resize": (Step(11, forms.resize_asymmetric),),
    "RoiAlign": (Step(16, forms.default("coordinate_transformation_mode", "output_half_pixel")),),
    "Scan": (Step(9, legacy.scan_per_batch),),
    "Scatter": (Step(99, forms.scatter_elements),),
    "Selu": (Step(6, forms.default("alpha", 1.6732)), Step(6, forms.default("gamma", 1.0507))),
    "Slice": (Step(10, forms.slice_to_inputs),),
    "Split": (Step(13, forms.split_to_input), Step(18, forms.split_evenly)),
    "Tile": (Step(6, legacy.no_single_axis_tile),),
    "TopK": (Step(10, forms.k_to_input),),
    "Upsample": (Step(7, legacy.upsample_scales), Step(9, forms.scales_to_input), Step(99, forms.resize_asymmetric)),
}
