"""A builder that makes no index twice: address arithmetic is most of what an unrolled tile would be, and all of it repeats.

Value numbering (Cocke and Schwartz, 1970): an operation on the same operands as one before it, in the same block or in one that
dominates it as far as the builder knows, is that one's result. Constants are folded, and constants that are added go outwards: what is left
of the addresses of a tile's accesses are a few sums, which they share, and a number of bytes each. LLVM would do the same, but only after
each instruction was written and parsed.

All of it holds whatever wraps: sums and products of 64-bit integers are those of a ring, and so are addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from . import llvm as ll

_NEUTRAL = {"add": 0, "sub": 0, "mul": 1, "udiv": 1}
"""Right operands that change nothing."""
_FOLDED: dict[str, Callable[[int, int], int]] = {"add": int.__add__, "sub": int.__sub__, "mul": int.__mul__}
_INDEX, _BYTE = ll.IntType(64), ll.IntType(8)
_NOTHING = ll.Value(ll.VoidType(), "")
_BYTES: dict[ll.Type, int] = {ll.HalfType(): 2, ll.FloatType(): 4, ll.DoubleType(): 8, ll.PointerType(): 8}
_BYTES.update((ll.IntType(8 * size), size) for size in (1, 2, 4, 8, 16))


class Shifted(ll.Value):
    """An index ``constant`` above ``base``. The addition is an instruction only where the index itself is an operand."""

    __slots__ = ("base", "builder", "constant")

    def __init__(self, builder: Builder, base: ll.Value, constant: int) -> None:
        self.type = base.type
        self.builder = builder
        self.base = base
        self.constant = constant

    @property
    def text(self) -> str:  # type: ignore[override]
        """The sum, made in the block in which the builder is, or above it."""
        return self.at_end(self.builder.block)

    def at_end(self, block: ll.Block) -> str:
        return self.builder.numbered(self.type, f"add i64 {self.base.text}, {self.constant}", block).text


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
        (index,) = indices
        base, constant = _split(index)
        if base is not None:
            pointer = self.numbered(pointer.type, f"getelementptr {source_etype.text}, ptr {pointer.text}, {base}")
        if not constant:
            return pointer
        return self.numbered(
            pointer.type, f"getelementptr i8, ptr {pointer.text}, i64 {_wrapped(constant * _BYTES[source_etype])}"
        )

    def is_first(self, what: str) -> bool:
        """Whether ``what``, which changes nothing when it is done again, has not been done in this block."""
        known = self.block.known
        if what in known:
            return False
        known[what] = _NOTHING
        return True

    @contextmanager
    def if_then(self, condition: ll.Value, *, unlikely: bool = False) -> Generator[ll.Block]:
        before = self.block
        with super().if_then(condition, unlikely=unlikely) as end:
            self.dominates(before, self.block, end)
            yield end

    def _arithmetic(self, op: str, lhs: ll.Value, rhs: ll.Value) -> ll.Value:
        if isinstance(lhs, ll.Constant) and op in ("add", "mul"):
            lhs, rhs = rhs, lhs
        (x, a), (y, b) = _split(lhs), _split(rhs)
        if op in _FOLDED and x is None and y is None:
            return ll.Constant(_INDEX, _wrapped(_FOLDED[op](a, b)))
        if op == "add" and x is not None and (a or b):
            return self._shifted(x if y is None else self.add(x, y), a + b)
        if op == "sub" and (a or b) and x is not None:
            return self._shifted(x if y is None else self.sub(x, y), a - b)
        if y is None and _NEUTRAL.get(op) == b:
            return lhs
        if op == "mul" and x is not None and y is None and (a or not b):
            return self._shifted(self.mul(x, rhs), a * b) if b else rhs
        return self.numbered(_INDEX, f"{op} i64 {lhs.text}, {rhs.text}")

    def _shifted(self, base: ll.Value, constant: int) -> ll.Value:
        constant = _wrapped(constant)
        return Shifted(self, base, constant) if constant else base

    def numbered(self, type_: ll.Type, text: str, block: ll.Block | None = None) -> ll.Value:
        """The result of an instruction, at the end of ``block`` (by default the one where the builder is) unless there is one above."""
        end = above = block or self.block
        while above is not None:
            found = above.known.get(text)
            if found is not None:
                return found
            above = above.above
        result = end.known[text] = ll.Value(type_, end.function.unique())
        end.lines.insert(len(end.lines) - end.terminated, f"{result.text} = {text}")
        return result


def _split(value: ll.Value) -> tuple[ll.Value | None, int]:
    """An index as a value that is no constant, or none, and a constant."""
    if isinstance(value, Shifted):
        return value.base, value.constant
    if isinstance(value, ll.Constant) and isinstance(value.constant, int):
        return None, value.constant
    return value, 0


def _wrapped(number: int) -> int:
    """The 64-bit integer that a number is, modulo 2^64."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)
