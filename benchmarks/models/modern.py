"""Convolutional networks of the 2020s."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import ConvNextConfig, ConvNextModel

from benchmarks.models.common import Recipe, SqueezeExcite, conv, head, image


class Pooled(nn.Module):
    """The pooled output of a vision model of `transformers`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(pixel_values=x).pooler_output


def convnext_tiny() -> Recipe:
    """ConvNeXt-T (Liu et al. 2022), without classes."""
    return image(Pooled(ConvNextModel(ConvNextConfig())))


class RegNetBlock(nn.Module):
    """Bottleneck without expansion: 1x1, grouped 3x3, squeeze-and-excite, 1x1, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, group: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            conv(inputs, outputs, activation=nn.ReLU()),
            conv(outputs, outputs, 3, stride, outputs // group, nn.ReLU()),
            SqueezeExcite(outputs, inputs // 4, nn.ReLU(), nn.Sigmoid()),
            conv(outputs, outputs),
        )
        self.shortcut = conv(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return (self.branch(x) + self.shortcut(x)).relu()


def regnet_y_800mf() -> Recipe:
    """RegNetY-800MF (Radosavovic et al. 2020): grouped convolutions of 16 channels."""
    layers: list[nn.Module] = [conv(3, 32, 3, 2, activation=nn.ReLU())]
    inputs = 32
    for outputs, blocks in ((64, 1), (144, 3), (320, 8), (784, 2)):
        for block in range(blocks):
            layers.append(RegNetBlock(inputs, outputs, 2 if block == 0 else 1, 16))
            inputs = outputs
    return image(nn.Sequential(*layers, *head(inputs)))


class ScaledConv(nn.Conv2d):
    """A convolution whose weights are standardized; exported with the standardized weights."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True, correction=0)
        fan_in = self.weight[0].numel()
        weight = (self.weight - mean) * torch.rsqrt(torch.clamp(variance * fan_in, min=1e-4))
        return self._conv_forward(x, weight, self.bias)


class NFBlock(nn.Module):
    """A residual block without normalization: shortcut + 0.2 * branch(gelu(beta * x))."""

    def __init__(self, inputs: int, outputs: int, stride: int, beta: float) -> None:
        super().__init__()
        self.beta, width = beta, outputs // 2
        groups = width // 128
        self.branch = nn.Sequential(
            *(ScaledConv(inputs, width, 1), nn.GELU(), ScaledConv(width, width, 3, stride, 1, groups=groups), nn.GELU()),
            *(ScaledConv(width, width, 3, 1, 1, groups=groups), nn.GELU(), ScaledConv(width, outputs, 1)),
            SqueezeExcite(outputs, outputs // 2, nn.ReLU(), nn.Sigmoid()),
        )
        self.shortcut = None
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(*([nn.AvgPool2d(2)] if stride > 1 else []), ScaledConv(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        active = nn.functional.gelu(x) * 1.7 * self.beta
        return (self.shortcut(active) if self.shortcut else x) + 0.2 * 2 * self.branch(active)


def nfnet_f0() -> Recipe:
    """NFNet-F0 (Brock et al. 2021) at 192x192, as it is trained."""
    stem: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 16, 2), (16, 32, 1), (32, 64, 1), (64, 128, 2)):
        stem += [ScaledConv(inputs, outputs, 3, stride, 1), nn.GELU()]
    layers, inputs = stem[:-1], 128
    for stage, (outputs, blocks) in enumerate(((256, 1), (512, 2), (1536, 6), (1536, 3))):
        for block in range(blocks):
            stride = 2 if block == 0 and stage > 0 else 1
            layers.append(NFBlock(inputs, outputs, stride, (1 + 0.04 * block) ** -0.5))
            inputs = outputs
    return image(nn.Sequential(*layers, ScaledConv(1536, 3072, 1), nn.GELU(), *head(3072)), 192)
