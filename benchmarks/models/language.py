"""Transformers over text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, T5Config, T5Model

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


def minilm() -> Recipe:
    """MiniLM-L6 (Wang et al. 2020): BERT of 6 layers, 384 wide."""
    size = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    return _bert(BertConfig(**size, attn_implementation="eager"))


class Masked(nn.Module):
    """A model of `transformers` over ids and a padding mask."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def distilbert() -> Recipe:
    """DistilBERT (Sanh et al. 2019); batch and sequence dynamic, padding mask given."""
    inputs = {"input_ids": torch.randint(0, 30000, (2, 19)), "attention_mask": torch.ones(2, 19, dtype=torch.int64)}
    dynamic = {name: {0: "batch", 1: "sequence"} for name in inputs}
    return Recipe(Masked(DistilBertModel(DistilBertConfig(attn_implementation="eager"))), inputs, dynamic=dynamic)


class T5(nn.Module):
    """Encoder and decoder of a T5 of `transformers`."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.model = T5Model(config)

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, decoder_input_ids=decoder_input_ids, use_cache=False).last_hidden_state


def t5_small() -> Recipe:
    """T5-small (Raffel et al. 2020): 64 tokens in, 16 out."""
    inputs = {"input_ids": torch.randint(0, 32000, (1, 64)), "decoder_input_ids": torch.randint(0, 32000, (1, 16))}
    return Recipe(T5(T5Config(attn_implementation="eager")), inputs)


@dataclass(frozen=True)
class Shape:
    """Of a decoder: the feed-forward network is gated with `root_mean` (Llama), else with GELU and biases (GPT-2)."""

    width: int
    layers: int
    heads: int
    groups: int
    hidden: int
    words: int
    llama: bool


class RMSNorm(nn.Module):
    """x / root of the mean square, scaled (Zhang & Sennrich 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.scale


class Gated(nn.Module):
    """down(silu(gate x) * up x) (Shazeer 2020)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021), halves paired as in Llama."""
    low, high = x.chunk(2, -1)
    return x * cosine + torch.cat([-high, low], -1) * sine


class DecoderLayer(nn.Module):
    """Attention to the cache and the new tokens, with fewer heads of keys where `groups` is less than `heads`; feed-forward."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, self.size = shape, shape.width // shape.heads
        norm, bias, rows = (RMSNorm if shape.llama else nn.LayerNorm), not shape.llama, shape.groups * self.size
        self.before_attention, self.before_mlp = norm(shape.width), norm(shape.width)
        self.query, self.project = nn.Linear(shape.width, shape.width, bias), nn.Linear(shape.width, shape.width, bias)
        self.key, self.value = nn.Linear(shape.width, rows, bias), nn.Linear(shape.width, rows, bias)
        wide = nn.Linear(shape.width, shape.hidden)
        dense = nn.Sequential(wide, nn.GELU("tanh"), nn.Linear(shape.hidden, shape.width))
        self.mlp = Gated(shape.width, shape.hidden) if shape.llama else dense

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor], mask: Tensor, angles: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        normal = self.before_attention(x)
        batch, new, width = x.shape
        split = (batch, new, -1, self.size)
        query, key, value = (layer(normal).reshape(split).transpose(1, 2) for layer in (self.query, self.key, self.value))
        if self.shape.llama:
            query, key = _rotated(query, *angles), _rotated(key, *angles)
        key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        repeat = self.shape.heads // self.shape.groups
        keys, values = (t.repeat_interleave(repeat, 1) if repeat > 1 else t for t in (key, value))
        weights = (query @ keys.transpose(-1, -2) * self.size**-0.5 + mask).softmax(-1)
        x = x + self.project((weights @ values).transpose(1, 2).reshape(batch, new, width))
        return x + self.mlp(self.before_mlp(x)), key, value


class Decoder(nn.Module):
    """Ids and cache (layers, keys and values, batch, heads, past, size) to logits of the last token and the longer cache."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(shape.words, shape.width)
        self.positions = None if shape.llama else nn.Embedding(1024, shape.width)
        self.layers = nn.ModuleList(DecoderLayer(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.width) if shape.llama else nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.words, bias=False)
        nn.init.normal_(self.embed.weight, std=0.1)

    def forward(self, input_ids: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        size, before, new = self.shape.width // self.shape.heads, past.shape[4], input_ids.shape[1]
        rows, columns = torch.arange(new) + before, torch.arange(before + new)
        mask = torch.where(columns[None, :] > rows[:, None], -1e9, 0.0)
        angle = rows[:, None] * 10000.0 ** (-torch.arange(0, size, 2) / size)[None, :]
        angles = (torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin())
        x = self.embed(input_ids)
        x = x if self.positions is None else x + self.positions(rows)
        caches: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            x, key, value = layer(x, (past[index, 0], past[index, 1]), mask, angles)
            caches.append(torch.stack([key, value]))
        return self.head(self.norm(x[:, -1:])), torch.stack(caches)


def _decoder(shape: Shape) -> Recipe:
    inputs = {
        "input_ids": torch.randint(0, shape.words, (1, 5)),
        "past": torch.randn(shape.layers, 2, 1, shape.groups, 7, shape.width // shape.heads),
    }
    return Recipe(Decoder(shape), inputs, ("logits", "cache"), {"input_ids": {1: "new"}, "past": {4: "past"}})


def gpt2() -> Recipe:
    """GPT-2 small (Radford et al. 2019) with a key/value cache; new and past tokens dynamic."""
    return _decoder(Shape(768, 12, 12, 12, 3072, 50257, llama=False))


def llama() -> Recipe:
    """A decoder as Llama 3's (Dubey et al. 2024), 8 layers of 1024: grouped queries, rotary positions; new and past tokens dynamic."""
    return _decoder(Shape(1024, 8, 16, 4, 2816, 32000, llama=True))
