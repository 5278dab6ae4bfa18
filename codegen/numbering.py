"""A builder that makes no index twice: address arithmetic is most of what an unrolled tile would be, and all of it repeats.

Value numbering (Cocke and Schwartz, 1970): an operation on the same operands as one before it, in the same block or in one that
dominates it as far as the builder knows, is that one's result. Constants are folded. LLVM would do the same, but only after each
instruction was written and parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from . import llvm as ll

_NEUTRAL = {"add": 0, "sub": 0, "mul": 1, "udiv": 1}
"""Right operands that change nothing."""
_FOLDED: dict[str, Callable[[int, int], int]] = {"add": int.__add__, "sub": int.__sub__, "mul": int.__mul__}
_INDEX = ll.IntType(64)


class Builder(ll.IRBuilder):
    """``ll.IRBuilder`` whose 64-bit scalar additions, multiplications, unsigned divisions and addresses are numbered. ``half``: the
    target converts between float16 and float32 by instructions."""

    def __init__(self, block: ll.Block, *, half: bool = False) -> None:
        super().__init__(block)
        self.half = half

    def dominates(self, block: ll.Block, *others: ll.Block) -> None:
        """Says that every way to ``others`` leads through ``block``, to its end."""
        for other in others:
            other.above = block

    def add(self, lhs: ll.Value, rhs: ll.Value, flags: Sequence[str] = ()) -> ll.Value:
        return super().add(lhs, rhs, flags) if flags or lhs.type is not _INDEX else self._arithmetic("add", lhs, rhs)

    def sub(self, lhs: ll.Value, rhs: ll.Value, flags: Sequence[str] = ()) -> ll.Value:
        return super().sub(lhs, rhs, flags) if flags or lhs.type is not _INDEX else self._arithmetic("sub", lhs, rhs)

    def mul(self, lhs: ll.Value, rhs: ll.Value, flags: Sequence[str] = ()) -> ll.Value:
        return super().mul(lhs, rhs, flags) if flags or lhs.type is not _INDEX else self._arithmetic("mul", lhs, rhs)

    def udiv(self, lhs: ll.Value, rhs: ll.Value, flags: Sequence[str] = ()) -> ll.Value:
        return super().udiv(lhs, rhs, flags) if flags or lhs.type is not _INDEX else self._arithmetic("udiv", lhs, rhs)

    def urem(self, lhs: ll.Value, rhs: ll.Value, flags: Sequence[str] = ()) -> ll.Value:
        return super().urem(lhs, rhs, flags) if flags or lhs.type is not _INDEX else self._arithmetic("urem", lhs, rhs)

    def gep(self, pointer: ll.Value, indices: Sequence[ll.Value], *, source_etype: ll.Type) -> ll.Value:
        places = ", ".join(map(str, indices))
        return self._numbered(pointer.type, f"getelementptr {source_etype.text}, ptr {pointer.text}, {places}")

    @contextmanager
    def if_then(self, condition: ll.Value, *, unlikely: bool = False) -> Generator[ll.Block]:
        before = self.block
        with super().if_then(condition, unlikely=unlikely) as end:
            self.dominates(before, self.block, end)
            yield end

    def _arithmetic(self, op: str, lhs: ll.Value, rhs: ll.Value) -> ll.Value:
        if isinstance(rhs, ll.Constant):
            a, b = lhs.constant if isinstance(lhs, ll.Constant) else None, rhs.constant
            if isinstance(a, int) and isinstance(b, int) and op in _FOLDED:
                return ll.Constant(_INDEX, (_FOLDED[op](a, b) + (1 << 63)) % (1 << 64) - (1 << 63))
            if _NEUTRAL.get(op) == b:
                return lhs
            if op == "mul" and b == 0:
                return rhs
        elif isinstance(lhs, ll.Constant) and op in ("add", "mul"):
            return self._arithmetic(op, rhs, lhs)
        return self._numbered(_INDEX, f"{op} i64 {lhs.text}, {rhs.text}")

    def _numbered(self, type_: ll.Type, text: str) -> ll.Value:
        block: ll.Block | None = self.block
        while block is not None:
            found = block.known.get(text)
            if found is not None:
                return found
            block = block.above
        result = self.block.known[text] = self.insert(type_, text)
        return result
