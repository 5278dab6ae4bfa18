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
    heap = _Heap(
        b, b.scratch("values", x.dtype, (k,)), b.scratch("places", ir.INDEX, (k,)), largest=bool(op.attr("largest", 1))
    )
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
def _where_some_are_better(b: Builder, heap: _Heap, x: Callable[[ir.Expr], ir.Expr]) -> Generator[None]:
    """Skips what is inside where none of ``CHUNK`` elements is better than the worst in the heap; their extremum is a matter of vectors."""
    best = b.reduce("best", "max" if heap.largest else "min", CHUNK, x)
    better = heap.better(best, heap.values(0), ir.FALSE)
    with b.when(better | ir.unary("isnan", best) if best.dtype.is_float else better):
        yield


class _Heap:
    """A binary heap of values and where they come from, each element worse than its children or equal."""

    def __init__(self, b: Builder, values: ir.Buffer, places: ir.Buffer, *, largest: bool) -> None:
        self.b, self.values, self.places, self.largest = b, values, places, largest

    def better(self, x: ir.Expr, y: ir.Expr, x_is_first: ir.Expr) -> ir.Expr:
        """Whether ``x`` comes before ``y``; of equals the one that stands first."""
        above = x > y if self.largest else x < y
        equal = x.eq(y)
        if x.dtype.is_float:
            x_nan, y_nan = ir.unary("isnan", x), ir.unary("isnan", y)
            one, other = (x_nan, y_nan) if self.largest else (y_nan, x_nan)
            above, equal = above | (one & ~other), equal | (x_nan & y_nan)
        return above | (equal & x_is_first)

    def put(self, i: ir.Expr, value: ir.Expr, place: ir.Expr) -> None:
        self.b.store(self.values, (i,), value)
        self.b.store(self.places, (i,), place)

    def rise(self, i: ir.Expr, value: ir.Expr) -> None:
        """Adds element ``i``, which stands after all others, at the end: parents that are better move down."""
        b = self.b
        hole, moving = b.scalar("hole", i), b.scalar("moving", ir.TRUE)
        with b.repeat_while(moving & (hole > 0)):
            parent = b.let("parent", (hole - 1) // 2)
            above = b.let("above", self.values(parent))
            b.assign(moving, self.better(above, value, ir.TRUE))
            with b.when(moving):
                self.put(hole, above, self.places(parent))
                b.assign(hole, parent)
        self.put(hole, value, i)

    def sink(self, value: ir.Expr, place: ir.Expr, count: ir.Expr) -> None:
        """Replaces the root of a heap of ``count`` elements: children that are worse move up."""
        b = self.b
        hole, child = b.scalar("hole", ir.ZERO), b.scalar("child", ir.ONE)
        with b.repeat_while(child < count):
            right = b.let("right", ir.minimum(child + 1, count - 1))
            is_first = self.places(child) < self.places(right)
            b.assign(child, ir.select(self.better(self.values(child), self.values(right), is_first), right, child))
            below, origin = b.let("below", self.values(child)), b.let("origin", self.places(child))
            with b.when(self.better(value, below, place < origin)):
                self.put(hole, below, origin)
                b.assign(hole, child)
                b.assign(child, child * 2 + 1)
            with b.otherwise():
                b.assign(child, count)
        self.put(hole, value, place)
