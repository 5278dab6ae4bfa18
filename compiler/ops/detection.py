"""NonMaxSuppression (ONNX operator specification, opset 11)."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir import dtypes
from ...ir import loops as ir
from ...ir.graph import TensorType
from .builder import Builder, neutral
from .context import Op
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
    """For each class the boxes with the highest score, one after the other; each takes those out that overlap it too much.

    candidates = boxes with score > score_threshold, their edges and areas side by side
    while there are any: select the best; it and all with intersection / union > iou_threshold are no candidates any more
    """
    boxes, scores = op.input(0), op.input(1)
    batch, classes, count = scores.shape
    limit = ir.Const(op.out_sizes()[0] // (scores.sizes[0] * scores.sizes[1]))
    threshold = op.input(3)(*[ir.ZERO] * op.input(3).rank) if op.has(3) else ir.Const(0.0, FLOAT)
    lowest = op.input(4)(*[ir.ZERO] * op.input(4).rank) if op.has(4) else ir.Const(float("-inf"), FLOAT)
    edges = b.scratch("edges", FLOAT, (5, count))
    left = b.scratch("left", FLOAT, (count,))
    number = b.scratch("number", dtypes.int64, (count,))
    total = b.scalar("total", ir.ZERO)
    with b.loop("n", batch) as n, b.loop("c", classes) as c:
        candidates = b.scalar("candidates", ir.ZERO)
        best = b.scalar("best", neutral("max", FLOAT))
        with b.loop("i", count) as i:
            score = b.let("score", scores(n, c, i))
            with b.when(score > lowest):
                b.store(left, (candidates,), score)
                b.store(number, (candidates,), i)
                for place, value in enumerate(_edges(op, [boxes(n, i, k) for k in range(4)])):
                    b.store(edges, (place, candidates), value)
                b.assign(best, ir.maximum(best, score))
                b.assign(candidates, candidates + 1)
        taken = b.scalar("taken", ir.ZERO)
        with b.repeat_while(ir.logical("and", taken < limit, best > neutral("max", FLOAT))):
            which = b.reduce("which", "min", candidates, lambda k: ir.select(left(k).eq(best), k, candidates), candidates)
            chosen = [b.let(f"chosen{place}", edges(place, which)) for place in range(5)]
            for column, value in enumerate((n, c, number(which))):
                op.output().store((total, column), value)
            b.assign(taken, taken + 1)
            b.assign(total, total + 1)
            b.assign(best, neutral("max", FLOAT))
            with b.loop("k", candidates, "vector") as k:
                overlaps = _overlap([edges(place, k) for place in range(5)], chosen, threshold)
                out = ir.logical("or", overlaps, k.eq(which))
                rest = b.let("rest", ir.select(out, neutral("max", FLOAT), left(k)))
                b.store(left, (k,), rest)
                b.assign(best, ir.Binary("max", best, rest))
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
