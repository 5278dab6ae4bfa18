"""Convolutions that would multiply much padding, in regions of their result with the taps that read the image there.

    3x3 taps 12 pixels apart over 28x28 pixels:      rows 0 to 11 read taps 1 and 2, rows 12 to 15 all, rows 16 to 27 taps 0 and 1,
                                                     columns likewise: nine regions, and half of the products

Nothing outside of the image is read, so it needs no halo. Each region is a reduction of its own, with a schedule of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..algorithms import algorithm_of
from ..ops.context import Op, Reduce
from ..ops.convolution import conv_by_regions

if TYPE_CHECKING:
    from ..lowering import Lowering


def lower_regions(lowering: Lowering, op: Op, define: Callable[..., Reduce]) -> bool:
    """Lowers a convolution by regions; False where that is not how it is to be computed."""
    if op.node.op != "Conv":
        return False
    algorithm = algorithm_of(op.node, lowering.tensors, lowering.constants, lowering.options, lowering.target)
    if not algorithm.regions:
        return False
    lowering.notes.append(algorithm.title)
    lowering.reduce_parts(op, conv_by_regions(op))
    return True
