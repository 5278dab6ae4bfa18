"""NonMaxSuppression (ONNX operator specification, opset 11)."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir import dtypes
from ...ir import loops as ir
from ...ir.graph import TensorType
from .builder import Builder
from .context import Op
from .heap import Heap
from .infer import InferContext
from .registry import nest

FLOAT = dtypes.float32


def infer_nms(context: InferContext) -> list[TensorType]:
    """As many rows as can be selected at most, and their number."""
    boxes, scores = context.shape(0), context.shape(1)
    if len(boxes) != 3 or len(scores) != 3 or boxes[2] != 4 or boxes[0] != scores[0] or boxes[1] != scores[2]:
        raise context.fail(f"boxes {boxes} and scores {scores} are not [batch, n, 4] and [batch, classes, n]")
    batch, classes, count = scores
    limit = context.ints(2)
    each = max(0, min(limit[0], count)) if limit else 0
    return [TensorType(dtypes.int64, (batch * classes * each, 3)), TensorType(dtypes.int64, ())]


@nest("NonMaxSuppression", infer=infer_nms, values=(2,), trims=lambda context: (0,))
def non_max_suppression(op: Op, b: Builder) -> None:
    """For each class the boxes with the highest score, one after the other, but for those that overlap one before too much.

    candidates = heap of boxes with score > score_threshold, the best at its root, of equals the first
    while there are any: take the best; select it unless intersection / union > iou_threshold with one that is selected
    """
    boxes, scores = op.input(0), op.input(1)
    batch, classes, count = scores.shape
    limit = op.out_sizes()[0] // (scores.sizes[0] * scores.sizes[1])
    threshold = op.input(3)(*[ir.ZERO] * op.input(3).rank) if op.has(3) else ir.Const(0.0, FLOAT)
    lowest = op.input(4)(*[ir.ZERO] * op.input(4).rank) if op.has(4) else ir.Const(float("-inf"), FLOAT)
    edges = b.scratch("edges", FLOAT, (5, max(1, limit)))
    left, number = b.scratch("left", FLOAT, (count + 1,)), b.scratch("number", dtypes.int64, (count + 1,))
    heap = Heap(b, left, number, largest=False, nan=False)
    total = b.scalar("total", ir.ZERO)
    with b.loop("n", batch) as n, b.loop("c", classes) as c:
        candidates = b.scalar("candidates", ir.ZERO)
        with b.loop("i", count) as i:
            score = b.let("score", scores(n, c, i))
            with b.when(score > lowest):
                heap.put(candidates, score, -i)
                b.assign(candidates, candidates + 1)
        heap.order(candidates)
        taken = b.scalar("taken", ir.ZERO)
        with b.repeat_while(ir.logical("and", taken < limit, candidates > 0)):
            which = b.let("which", -number(0))
            b.assign(candidates, candidates - 1)
            heap.sink(b.let("value", left(candidates)), b.let("place", number(candidates)), candidates)
            box = [
                b.let(f"box{place}", value) for place, value in enumerate(_edges(op, [boxes(n, which, k) for k in range(4)]))
            ]

            def overlaps(k: ir.Expr, box: Sequence[ir.Expr] = box) -> ir.Expr:
                return _overlap(box, [edges(place, k) for place in range(5)], threshold)

            with b.when(~b.reduce("overlaps", "or", taken, overlaps)):
                for place, value in enumerate(box):
                    b.store(edges, (place, taken), value)
                for column, value in enumerate((n, c, which)):
                    op.output().store((total, column), value)
                b.assign(taken, taken + 1)
                b.assign(total, total + 1)
    op.output(1).store((), total)


def _edges(op: Op, box: Sequence[ir.Expr]) -> tuple[ir.Expr, ...]:
    """Low and high edges along both axes, and the area."""
    if op.attr("center_point_box", 0):
        x, y, width, height = box
        half_width, half_height = width * 0.5, height * 0.5
        low = y - half_height, x - half_width
        high = y + half_height, x + half_width
    else:
        low = ir.minimum(box[0], box[2]), ir.minimum(box[1], box[3])
        high = ir.maximum(box[0], box[2]), ir.maximum(box[1], box[3])
    return (*low, *high, (high[0] - low[0]) * (high[1] - low[1]))


def _overlap(a: Sequence[ir.Expr], b: Sequence[ir.Expr], threshold: ir.Expr) -> ir.Expr:
    """Whether intersection / union of two boxes exceeds the threshold; boxes without an area overlap nothing."""
    zero = ir.Const(0.0, FLOAT)
    sides = [ir.maximum(ir.minimum(a[i + 2], b[i + 2]) - ir.maximum(a[i], b[i]), zero) for i in range(2)]
    shared = sides[0] * sides[1]
    union = a[4] + b[4] - shared
    return ir.all_of(shared > zero, a[4] > zero, b[4] > zero, union > zero, shared / union > threshold)
