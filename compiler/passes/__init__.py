"""Graph passes. ``PASSES`` is the whole list, in order; adding a rule family is a file and a line here."""

from __future__ import annotations

from . import (
    activations,
    affine,
    attention,
    constants,
    control_flow,
    deformable,
    identities,
    integer_products,
    layer_norm,
    quantization,
    ranges,
    recurrent,
    reshapes,
    subsampling,
    taps,
    widening,
)
from .common_subexpressions import merge_equal
from .dead_code import remove_dead_code
from .pipeline import Pass, rules_pass, run_passes
from .rewrite import Refusal, Rewrite, Rule, rule

__all__ = ["PASSES", "Pass", "Refusal", "Rewrite", "Rule", "passes_of", "rule", "rules_pass", "run_passes"]

PASSES: tuple[Pass, ...] = (
    Pass("remove_dead_code", remove_dead_code, level=1),
    rules_pass(
        "remove_identities",
        identities.identity,
        identities.dropout,
        identities.cast_like,
        identities.cast_to_same,
        identities.cast_of_cast,
        identities.only_one,
        identities.sum_of_two,
        identities.same_shape,
        identities.transpose_in_order,
        identities.neutral_operand,
        identities.reduction_over_one,
        identities.get_element,
        identities.double_negation,
        level=1,
    ),
    rules_pass(
        "multiply_quantized",
        quantization.convolve_quantized,
        quantization.multiply_quantized,
        quantization.multiply_quantized_matrices,
        level=2,
    ),
    rules_pass(
        "fold_constants",
        constants.fold_shape,
        constants.fold_size,
        constants.fold_extent,
        constants.fold_constants,
        level=1,
    ),
    rules_pass("inline_decided_ifs", control_flow.decided_if, level=1),
    Pass("merge_equal", merge_equal, level=1),
    rules_pass(
        "merge_reshapes",
        reshapes.transpose_of_transpose,
        reshapes.reshape_of_reshape,
        reshapes.softmax_over_flat,
        level=1,
    ),
    rules_pass("recognize_layer_norm", layer_norm.layer_norm, layer_norm.layer_norm_bias, layer_norm.rms_norm, level=2),
    rules_pass(
        "recognize_activations",
        activations.gelu,
        activations.swish,
        activations.hard_swish,
        activations.hard_sigmoid,
        level=2,
    ),
    rules_pass("recognize_attention", attention.attention, attention.transpose_of_attention, level=2),
    rules_pass("recognize_stacks", reshapes.transpose_of_stack, level=2),
    rules_pass("take_ranges", ranges.range_of_memory, level=2),
    rules_pass("fold_into_batch_norm", affine.affine_into_batch_norm, level=2),
    rules_pass("fold_batch_norm", affine.batch_norm_into_linear, level=2),
    rules_pass("fold_scale_and_shift", affine.scale_into_linear, affine.shift_into_linear, level=2),
    rules_pass("lower_batch_norm", affine.batch_norm_alone, level=2),
    rules_pass("drop_dead_taps", taps.conv_without_dead_taps, level=2),
    rules_pass("subsample_first", subsampling.subsample_first, level=2),
    rules_pass("widen_products", widening.widen_products, level=2),
    rules_pass("lower_recurrent", recurrent.project_inputs),
    rules_pass("lower_deformable", deformable.sample_and_convolve),
    rules_pass("quantize_to_levels", quantization.quantize_to_levels, quantization.dequantize_levels, level=2),
    rules_pass("lower_integer_products", integer_products.multiply_pairs, integer_products.convolve_pairs),
    rules_pass("simplify_arithmetic", activations.divide_by_constant, activations.small_power, level=2),
)
"""What every model goes through: once on symbolic shapes, and again for each plan, when all shapes are numbers.

Level 0: what operators need to have a kernel; 1: clean-up; 2: folding and recognized patterns.
"""


def passes_of(level: int) -> tuple[Pass, ...]:
    """The passes that run at optimization level ``level``."""
    return tuple(item for item in PASSES if item.level <= level)
