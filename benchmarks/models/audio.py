"""Networks over sequences of samples, frames and tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.models.common import Recipe


class Tagger(nn.Module):
    def __init__(self, words: int = 1000, width: int = 64, hidden: int = 128, tags: int = 17) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * hidden, tags)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        states, (last, _) = self.lstm(self.embed(tokens))
        return self.head(states).log_softmax(-1), last


def bilstm() -> Recipe:
    """A tagger: embedding, two bidirectional LSTM layers (Graves & Schmidhuber 2005), linear; batch and sequence dynamic."""
    tokens = torch.randint(0, 1000, (3, 11))
    return Recipe(Tagger(), {"tokens": tokens}, ("scores", "last"), {"tokens": {0: "batch", 1: "sequence"}})
