"""``LOOPNEST_DUMP``: every stage, pass and kernel leaves a numbered file.

000_graph.txt  001_remove_dead_code.txt  ...  kernel_00.py  kernel_00.ll  kernel_00.s
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..ir.errors import ConfigError
from ..ir.graph import Graph


@dataclass
class Dump:
    """Writes stages to ``directory`` (None: nowhere) and, when asked, keeps their texts. Files that are there are never overwritten:
    numbers go on where they end, so that several models, or processes, can share a directory."""

    directory: Path | None = None
    kept: dict[str, str] | None = None
    kernels: set[str] = field(default_factory=set)
    """The keys of the kernels that have been written."""
    _next: dict[str, int] = field(default_factory=dict)

    @property
    def wanted(self) -> bool:
        return self.directory is not None or self.kept is not None

    def graph(self, stage: str, graph: Graph) -> None:
        if self.wanted:
            from ..ir.graph_text import as_text

            self.text(stage, as_text(graph))

    def text(self, stage: str, text: str) -> None:
        """A stage or a pass; the last of those with the same name is kept."""
        if self.kept is not None:
            self.kept[stage] = text
        self._write("{:03}_" + stage, {"txt": text}, r"(\d+)_.*")

    def kernel(self, key: str, texts: Mapping[str, str]) -> None:
        """A kernel's texts by file suffix (py, ll, s)."""
        self.kernels.add(key)
        self._write("kernel_{:02}", texts, r"kernel_(\d+)\..*")

    def _write(self, name: str, texts: Mapping[str, str], pattern: str) -> None:
        """Files ``name`` with the next number and each suffix of ``texts``."""
        if self.directory is None:
            return
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if pattern not in self._next:
                found = (re.fullmatch(pattern, path.name) for path in self.directory.iterdir())
                self._next[pattern] = max((int(match[1]) + 1 for match in found if match), default=0)
            for suffix, text in texts.items():
                (self.directory / f"{name.format(self._next[pattern])}.{suffix}").write_text(text)
        except OSError as error:
            raise ConfigError(f"cannot dump to {self.directory}: {error.strerror or error}") from None
        self._next[pattern] += 1
