"""Transformers over text."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from benchmarks.models.common import Recipe


class Encoder(nn.Module):
    """A BERT of `transformers` with named tensors as arguments and results."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.model = BertModel(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
        result = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return result.last_hidden_state, result.pooler_output


def _bert(config: BertConfig) -> Recipe:
    size = (2, 19)
    inputs = {
        "input_ids": torch.randint(0, 30000, size),
        "attention_mask": torch.ones(size, dtype=torch.int64),
        "token_type_ids": torch.zeros(size, dtype=torch.int64),
    }
    dynamic = {name: {0: "batch", 1: "sequence"} for name in inputs}
    return Recipe(Encoder(config), inputs, ("last_hidden_state", "pooler_output"), dynamic)


def bert_base() -> Recipe:
    """BERT-base (Devlin et al. 2018); batch and sequence dynamic, padding mask given."""
    return _bert(BertConfig(attn_implementation="eager"))


class GPT2Block(nn.Module):
    def __init__(self, width: int = 768, heads: int = 12) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(self, hidden: Tensor, past_key: Tensor, past_value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, new, width = hidden.shape
        qkv = self.qkv(self.before_attention(hidden)).reshape(batch, new, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
        scores = query @ key.transpose(-1, -2) / (width // self.heads) ** 0.5
        past = past_key.shape[2]
        rows, columns = torch.arange(new) + past, torch.arange(past + new)
        scores = scores.masked_fill(columns[None, :] > rows[:, None], torch.finfo(scores.dtype).min)
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, new, width)
        hidden = hidden + self.project(mixed)
        return hidden + self.mlp(self.before_mlp(hidden)), key, value


def gpt2_block() -> Recipe:
    """A GPT-2 block (Radford et al. 2019, 768 wide, 12 heads) with a key/value cache; batch, new and past tokens dynamic."""
    past = torch.randn(2, 12, 7, 64)
    return Recipe(
        GPT2Block(),
        {"hidden": torch.randn(2, 5, 768), "past_key": past, "past_value": torch.randn_like(past)},
        ("hidden_out", "key", "value"),
        {"hidden": {0: "batch", 1: "new"}, "past_key": {0: "batch", 2: "past"}, "past_value": {0: "batch", 2: "past"}},
    )
