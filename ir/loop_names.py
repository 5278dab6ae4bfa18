"""Names in printed kernels."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Names:
    """Gives each stem a name used once: x, x_1, x_2."""

    taken: dict[str, int] = field(default_factory=dict)

    def __call__(self, stem: str) -> str:
        count = self.taken.get(stem, 0)
        self.taken[stem] = count + 1
        return stem if count == 0 else self(f"{stem}_{count}")
