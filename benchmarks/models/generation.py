"""Networks that make images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.models.common import Recipe, image, lively


def dcgan() -> Recipe:
    """The generator of DCGAN (Radford et al. 2016): 100 numbers to 64x64."""
    layers: list[nn.Module] = []
    inputs = 100
    for index, outputs in enumerate((512, 256, 128, 64)):
        stride, padding = (1, 0) if index == 0 else (2, 1)
        layers += [nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    module = nn.Sequential(*layers, nn.ConvTranspose2d(64, 3, 4, 2, 1, bias=False), nn.Tanh())
    return Recipe(lively(module), {"x": torch.randn(2, 100, 1, 1)}, dynamic={"x": {0: "batch"}})


def espcn() -> Recipe:
    """ESPCN (Shi et al. 2016): three times the resolution by sub-pixel convolution."""
    layers = [nn.Conv2d(1, 64, 5, padding=2), nn.Tanh(), nn.Conv2d(64, 32, 3, padding=1), nn.Tanh()]
    return image(nn.Sequential(*layers, nn.Conv2d(32, 9, 3, padding=1), nn.PixelShuffle(3), nn.Sigmoid()), 120, 1)


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice, and a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *(nn.GroupNorm(32, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)),
            *(nn.GroupNorm(32, outputs), nn.SiLU(), nn.Conv2d(outputs, outputs, 3, padding=1)),
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.branch(x)


class SpatialAttention(nn.Module):
    """One head over all places of the image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels)
        self.qkv, self.project = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.norm(x).flatten(2).transpose(1, 2)
        query, key, value = self.qkv(rows).chunk(3, -1)
        weights = (query @ key.transpose(1, 2) * query.shape[-1] ** -0.5).softmax(-1)
        return x + self.project(weights @ value).transpose(1, 2).reshape(x.shape)


def vae_decoder() -> Recipe:
    """The decoder of the autoencoder of latent diffusion (Rombach et al. 2022) at half its width: 4x16x16 to 3x128x128."""
    layers: list[nn.Module] = [nn.Conv2d(4, 256, 3, padding=1), ResidualBlock(256, 256), SpatialAttention(256)]
    layers.append(ResidualBlock(256, 256))
    inputs = 256
    for stage, outputs in enumerate((256, 256, 128, 64)):
        layers += [ResidualBlock(inputs, outputs), ResidualBlock(outputs, outputs)]
        if stage < 3:
            layers += [nn.Upsample(scale_factor=2.0, mode="nearest"), nn.Conv2d(outputs, outputs, 3, padding=1)]
        inputs = outputs
    layers += [nn.GroupNorm(32, 64), nn.SiLU(), nn.Conv2d(64, 3, 3, padding=1)]
    return Recipe(nn.Sequential(*layers), {"x": torch.randn(1, 4, 16, 16)})
