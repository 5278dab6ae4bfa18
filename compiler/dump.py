"""``LOOPNEST_DUMP``: every stage leaves a numbered file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..ir.graph import Graph


@dataclass
class Dump:
    """Writes stages to ``directory`` (None: nowhere) and, when asked, keeps their texts."""

    directory: Path | None = None
    kept: dict[str, str] | None = None
    count: int = field(default=0)

    @property
    def wanted(self) -> bool:
        return self.directory is not None or self.kept is not None

    def graph(self, stage: str, graph: Graph) -> None:
        if self.wanted:
            from ..ir.graph_text import as_text

            self.text(stage, as_text(graph))

    def text(self, stage: str, text: str) -> None:
        if self.kept is not None:
            self.kept[stage] = text
        if self.directory is not None:
            self.directory.mkdir(parents=True, exist_ok=True)
            (self.directory / f"{self.count:03}_{stage}.txt").write_text(text)
        self.count += 1
