"""Networks over sequences of samples, frames and tokens."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperModel

from benchmarks.models.common import Recipe, Residual, lively


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


class Causal(nn.Module):
    """A convolution over time that looks back only."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.past = (kernel - 1) * dilation
        self.layer = nn.Conv1d(inputs, outputs, kernel, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(nn.functional.pad(x, (self.past, 0)))


class TemporalBlock(nn.Module):
    """Two dilated causal convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *(Causal(inputs, outputs, 3, dilation), nn.ReLU(), Causal(outputs, outputs, 3, dilation), nn.ReLU())
        )
        self.shortcut = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return (self.shortcut(x) + self.branch(x)).relu()


def tcn() -> Recipe:
    """A temporal convolutional network (Bai et al. 2018): 64 channels, dilations 1 to 32, 1000 steps."""
    widths = (16, *[64] * 6)
    blocks = [TemporalBlock(a, b, 1 << level) for level, (a, b) in enumerate(itertools.pairwise(widths))]
    return Recipe(nn.Sequential(*blocks, nn.Conv1d(64, 10, 1)), {"x": torch.randn(1, 16, 1000)})


class WaveNet(nn.Module):
    """Gated dilated convolutions, every one adding to the result."""

    def __init__(
        self, width: int = 64, skip: int = 128, dilations: tuple[int, ...] = tuple(1 << i for i in range(10)) * 2
    ) -> None:
        super().__init__()
        self.enter = nn.Conv1d(1, width, 1)
        self.gates = nn.ModuleList(Causal(width, 2 * width, 2, dilation) for dilation in dilations)
        self.skips = nn.ModuleList(nn.Conv1d(width, skip, 1) for _ in dilations)
        self.nexts = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in dilations)
        self.leave = nn.Sequential(nn.ReLU(), nn.Conv1d(skip, skip, 1), nn.ReLU(), nn.Conv1d(skip, 256, 1))

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.enter(x), torch.zeros(1)
        for gate, skip, following in zip(self.gates, self.skips, self.nexts, strict=True):
            signal, strength = gate(x).chunk(2, 1)
            y = signal.tanh() * strength.sigmoid()
            total, x = total + skip(y), x + following(y)
        return self.leave(total)


def wavenet() -> Recipe:
    """A WaveNet (van den Oord et al. 2016) over 2000 samples."""
    return Recipe(WaveNet(), {"x": torch.randn(1, 1, 2000)})


class Attention(nn.Module):
    """Multi-head attention of a sequence to itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        query, key, value = self.qkv(x).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (query @ key.transpose(-1, -2) * (width // self.heads) ** -0.5).softmax(-1)
        return self.project((weights @ value).transpose(1, 2).reshape(batch, length, width))


class ConvolutionModule(nn.Module):
    """Gated pointwise, depthwise over 31 frames, normalization, pointwise."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv1d(width, 2 * width, 1), nn.GLU(1), nn.Conv1d(width, width, 31, padding=15, groups=width)),
            *(nn.BatchNorm1d(width), nn.SiLU(), nn.Conv1d(width, width, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.transpose(1, 2)).transpose(1, 2)


class Half(nn.Module):
    """Half of what the layers give."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * self.layers(x)


def conformer() -> Recipe:
    """Four blocks of a Conformer-S (Gulati et al. 2020; 144 wide, 4 heads, absolute positions) over 200 frames."""

    def feed_forward(width: int) -> Half:
        return Half(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))

    def block(width: int, heads: int) -> list[nn.Module]:
        attention = Residual(nn.LayerNorm(width), Attention(width, heads))
        convolution = Residual(nn.LayerNorm(width), ConvolutionModule(width))
        return [Residual(feed_forward(width)), attention, convolution, Residual(feed_forward(width)), nn.LayerNorm(width)]

    module = nn.Sequential(*(layer for _ in range(4) for layer in block(144, 4)))
    return Recipe(lively(module), {"x": torch.randn(1, 200, 144)})


class Encoder(nn.Module):
    """The encoder of a Whisper of `transformers`."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.model = WhisperModel(config).encoder

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).last_hidden_state


def whisper_tiny() -> Recipe:
    """The encoder of Whisper tiny (Radford et al. 2023): 30 s of speech."""
    return Recipe(Encoder(WhisperConfig(attn_implementation="eager")), {"x": torch.randn(1, 80, 3000)})
