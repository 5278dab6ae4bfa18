"""TopK (ONNX operator specification, opset 24): the k largest or smallest elements along an axis, in order, and where they stand.

Of equal elements the first comes first; NaN counts as larger than any number.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from ...ir import dtypes
from ...ir import loops as ir
from ...ir.graph import TensorType, Type
from .builder import Builder
from .context import Op
from .heap import Heap
from .infer import InferContext
from .registry import nest

CHUNK = 32
"""Elements that are looked at together before each is compared with the worst in the heap."""
RARE = 16
"""With at least that many times k elements, chunks without a better one are common."""


def _axis(context: InferContext) -> int:
    return context.axis(context.attr("axis", -1), context.rank(0))


def _infer(context: InferContext) -> list[Type]:
    shape, axis, k = context.shape(0), _axis(context), context.ints(1)
    if k is None or len(k) != 1 or not 0 <= k[0] <= shape[axis]:
        raise context.fail(f"k is {k}; one number from 0 to {shape[axis]}, the extent of axis {axis}, is required")
    result = (*shape[:axis], k[0], *shape[axis + 1 :])
    return [TensorType(context.dtype(0), result), TensorType(dtypes.int64, result)]


@nest("TopK", infer=_infer, values=(1,), prologue=True)
def top_k(op: Op, b: Builder) -> None:
    """A heap of the best k elements seen, the worst of them at its root; then the heap, emptied from the worst to the best."""
    x, axis = op.input(0), _axis(op)
    k = op.out_shape(0)[axis]
    heap = Heap(b, b.scratch("values", x.dtype, (k,)), b.scratch("places", ir.INDEX, (k,)), largest=bool(op.attr("largest", 1)))
    follows_memory = x.buffer is not None and all(size == 1 for size in x.sizes[axis + 1 :])
    others = [extent for i, extent in enumerate(x.shape) if i != axis]
    with b.loops("i", others, "parallel") as rest:

        def at(i: ir.Expr) -> tuple[ir.Expr, ...]:
            return (*rest[:axis], i, *rest[axis:])

        with b.loop("f", k) as i:
            heap.rise(i, b.let("value", x(*at(i))))

        def offer(i: ir.Expr) -> None:
            value = b.let("value", x(*at(i)))
            with b.when(heap.better(value, heap.values(0), ir.FALSE)):
                heap.sink(value, i, k)

        done, left = k, x.shape[axis] - k
        if follows_memory and x.sizes[axis] >= RARE * ir.hint(k):
            with b.loop("c", left // CHUNK) as c:
                start = k + c * CHUNK
                with _where_some_are_better(b, heap, lambda i: x(*at(start + i))), b.loop("s", CHUNK) as i:
                    offer(b.let("i", start + i))
            done, left = k + left // CHUNK * CHUNK, left % CHUNK
        with b.loop("s", left) as i:
            offer(b.let("i", done + i))
        with b.loop("d", k) as i:
            last = b.let("last", k - 1 - i)
            for output, part in ((0, heap.values), (1, heap.places)):
                if op.wants(output):
                    op.output(output).store(at(last), ir.cast(part(0), op.output(output).dtype))
            heap.sink(b.let("value", heap.values(last)), b.let("place", heap.places(last)), last)


@contextmanager
def _where_some_are_better(b: Builder, heap: Heap, x: Callable[[ir.Expr], ir.Expr]) -> Generator[None]:
    """Skips what is inside where none of ``CHUNK`` elements is better than the worst in the heap; their extremum is a matter of vectors."""
    best = b.reduce("best", "max" if heap.largest else "min", CHUNK, x)
    better = heap.better(best, heap.values(0), ir.FALSE)
    with b.when(better | ir.unary("isnan", best) if best.dtype.is_float else better):
        yield
