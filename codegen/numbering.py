"""A builder that makes no index twice: address arithmetic is most of what an unrolled tile would be, and all of it repeats.

Value numbering (Cocke and Schwartz, 1970): an operation on the same operands as one before it, in the same block or in one that
dominates it as far as the builder knows, is that one's result. Constants are folded. LLVM would do the same, but only after each
instruction was built, printed and parsed.
"""

# llvmlite has no type stubs, and what pyright infers from its source is wrong.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportIncompatibleMethodOverride=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import contextmanager
from typing import Any

import llvmlite.ir as ll

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
        self._known: dict[ll.Block, dict[Hashable, ll.Value]] = {}
        self._above: dict[ll.Block, ll.Block] = {}

    def dominates(self, block: ll.Block, *others: ll.Block) -> None:
        """Says that every way to ``others`` leads through ``block``, to its end."""
        self._above.update((other, block) for other in others)

    def add(self, lhs: ll.Value, rhs: ll.Value, name: str = "", flags: Sequence[str] = ()) -> ll.Value:
        return super().add(lhs, rhs, name, flags) if flags else self._arithmetic("add", super().add, lhs, rhs, name)

    def sub(self, lhs: ll.Value, rhs: ll.Value, name: str = "", flags: Sequence[str] = ()) -> ll.Value:
        return super().sub(lhs, rhs, name, flags) if flags else self._arithmetic("sub", super().sub, lhs, rhs, name)

    def mul(self, lhs: ll.Value, rhs: ll.Value, name: str = "", flags: Sequence[str] = ()) -> ll.Value:
        return super().mul(lhs, rhs, name, flags) if flags else self._arithmetic("mul", super().mul, lhs, rhs, name)

    def udiv(self, lhs: ll.Value, rhs: ll.Value, name: str = "", flags: Sequence[str] = ()) -> ll.Value:
        return super().udiv(lhs, rhs, name, flags) if flags else self._arithmetic("udiv", super().udiv, lhs, rhs, name)

    def urem(self, lhs: ll.Value, rhs: ll.Value, name: str = "", flags: Sequence[str] = ()) -> ll.Value:
        return super().urem(lhs, rhs, name, flags) if flags else self._arithmetic("urem", super().urem, lhs, rhs, name)

    def gep(self, ptr: ll.Value, indices: Sequence[ll.Value], *arguments: Any, **named: Any) -> ll.Value:
        types = (str(named.get("source_etype")), *map(str, arguments), named.get("inbounds"))
        key = ("gep", types, id(ptr), *map(_key, indices))
        return self._numbered(key, lambda: super(Builder, self).gep(ptr, indices, *arguments, **named))

    @contextmanager
    def if_then(self, pred: ll.Value, likely: bool | None = None) -> Generator[ll.Block]:
        before = self.block
        with super().if_then(pred, likely) as end:
            self.dominates(before, self.block, end)
            yield end

    def _arithmetic(self, op: str, make: Callable[..., ll.Value], lhs: ll.Value, rhs: ll.Value, name: str) -> ll.Value:
        if lhs.type != _INDEX:
            return make(lhs, rhs, name)
        a, b = _key(lhs), _key(rhs)
        if isinstance(b, tuple):
            if isinstance(a, tuple) and op in _FOLDED:
                return ll.Constant(_INDEX, (_FOLDED[op](a[0], b[0]) + (1 << 63)) % (1 << 64) - (1 << 63))
            if _NEUTRAL.get(op) == b[0]:
                return lhs
            if op == "mul" and b[0] == 0:
                return rhs
        elif isinstance(a, tuple) and op in ("add", "mul"):
            return self._arithmetic(op, make, rhs, lhs, name)
        return self._numbered((op, a, b), lambda: make(lhs, rhs, name))

    def _numbered(self, key: Hashable, make: Callable[[], ll.Value]) -> ll.Value:
        block: ll.Block | None = self.block
        while block is not None:
            found = self._known.get(block, {}).get(key)
            if found is not None:
                return found
            block = self._above.get(block)
        result = make()
        self._known.setdefault(self.block, {})[key] = result
        return result


def _key(value: ll.Value) -> Hashable:
    """Equal for values that are the same: a constant's number in a tuple, the identity of anything else, which the module keeps."""
    if isinstance(value, ll.Constant) and isinstance(value.constant, int):
        return (value.constant,)
    return id(value)
