"""Convolutional networks for phones: depthwise convolutions, squeeze-and-excite, shuffled channels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from benchmarks.models.common import Recipe, Residual, SqueezeExcite, conv, head, image, rounded


def _inverted(
    inputs: int, hidden: int, outputs: int, kernel: int, stride: int, act: nn.Module, scale: nn.Module | None = None
) -> nn.Module:
    """Expand by 1x1, depthwise, (scale,) project by 1x1; a residual where the shape stays."""
    layers = [
        *((conv(inputs, hidden, activation=act),) if hidden != inputs else ()),
        conv(hidden, hidden, kernel, stride, hidden, act),
        *((scale,) if scale else ()),
        conv(hidden, outputs),
    ]
    return Residual(*layers) if stride == 1 and inputs == outputs else nn.Sequential(*layers)


def mobilenet_v2() -> Recipe:
    """MobileNetV2 1.0 (Sandler et al. 2018)."""
    act = nn.ReLU6()
    layers: list[nn.Module] = [conv(3, 32, 3, 2, activation=act)]
    inputs = 32
    settings = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, outputs, blocks, stride in settings:
        for block in range(blocks):
            layers.append(_inverted(inputs, inputs * expansion, outputs, 3, stride if block == 0 else 1, act))
            inputs = outputs
    return image(nn.Sequential(*layers, conv(320, 1280, activation=act), *head(1280)))


def mobilenet_v3() -> Recipe:
    """MobileNetV3-Large 1.0 (Howard et al. 2019)."""
    r, h = nn.ReLU(), nn.Hardswish()
    layers: list[nn.Module] = [conv(3, 16, 3, 2, activation=h)]
    inputs = 16
    settings = (  # kernel, expanded, outputs, squeeze-and-excite, activation, stride
        *((3, 16, 16, False, r, 1), (3, 64, 24, False, r, 2), (3, 72, 24, False, r, 1)),
        *((5, 72, 40, True, r, 2), (5, 120, 40, True, r, 1), (5, 120, 40, True, r, 1)),
        *((3, 240, 80, False, h, 2), (3, 200, 80, False, h, 1), (3, 184, 80, False, h, 1), (3, 184, 80, False, h, 1)),
        *((3, 480, 112, True, h, 1), (3, 672, 112, True, h, 1)),
        *((5, 672, 160, True, h, 2), (5, 960, 160, True, h, 1), (5, 960, 160, True, h, 1)),
    )
    for kernel, hidden, outputs, squeeze, act, stride in settings:
        scale = SqueezeExcite(hidden, rounded(hidden / 4), nn.ReLU(), nn.Hardsigmoid()) if squeeze else None
        layers.append(_inverted(inputs, hidden, outputs, kernel, stride, act, scale))
        inputs = outputs
    layers += [conv(160, 960, activation=h), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return image(nn.Sequential(*layers, nn.Linear(960, 1280), h, nn.Linear(1280, 1000)))


def efficientnet_b0() -> Recipe:
    """EfficientNet-B0 (Tan & Le 2019)."""
    act = nn.SiLU()
    layers: list[nn.Module] = [conv(3, 32, 3, 2, activation=act)]
    inputs = 32
    settings = (  # expansion, outputs, blocks, stride, kernel
        *((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3)),
        *((6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)),
    )
    for expansion, outputs, blocks, stride, kernel in settings:
        for block in range(blocks):
            hidden = inputs * expansion
            scale = SqueezeExcite(hidden, max(1, inputs // 4), nn.SiLU(), nn.Sigmoid())
            layers.append(_inverted(inputs, hidden, outputs, kernel, stride if block == 0 else 1, act, scale))
            inputs = outputs
    return image(nn.Sequential(*layers, conv(320, 1280, activation=act), *head(1280)))


def mnasnet() -> Recipe:
    """MnasNet-B1 1.0 (Tan et al. 2019)."""
    act = nn.ReLU()
    layers: list[nn.Module] = [conv(3, 32, 3, 2, activation=act), conv(32, 32, 3, 1, 32, act), conv(32, 16)]
    inputs = 16
    settings = ((3, 24, 3, 2, 3), (3, 40, 3, 2, 5), (6, 80, 3, 2, 5), (6, 96, 2, 1, 3), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))
    for expansion, outputs, blocks, stride, kernel in settings:
        for block in range(blocks):
            layers.append(_inverted(inputs, inputs * expansion, outputs, kernel, stride if block == 0 else 1, act))
            inputs = outputs
    return image(nn.Sequential(*layers, conv(320, 1280, activation=act), *head(1280)))


class ShuffleUnit(nn.Module):
    """Half of the channels pass (or are shrunk too, with stride 2), the others go through a branch; then both interleave."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride, half = stride, outputs // 2
        entering = inputs if stride > 1 else half
        self.branch = nn.Sequential(
            conv(entering, half, activation=nn.ReLU()),
            conv(half, half, 3, stride, half),
            conv(half, half, activation=nn.ReLU()),
        )
        if stride > 1:
            self.shortcut = nn.Sequential(conv(inputs, inputs, 3, stride, inputs), conv(inputs, half, activation=nn.ReLU()))

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            y = torch.cat([self.shortcut(x), self.branch(x)], 1)
        else:
            kept, changed = x.chunk(2, 1)
            y = torch.cat([kept, self.branch(changed)], 1)
        return nn.functional.channel_shuffle(y, 2)


def shufflenet_v2() -> Recipe:
    """ShuffleNet v2 1.0 (Ma et al. 2018)."""
    layers: list[nn.Module] = [conv(3, 24, 3, 2, activation=nn.ReLU()), nn.MaxPool2d(3, 2, 1)]
    inputs = 24
    for outputs, blocks in ((116, 4), (232, 8), (464, 4)):
        for block in range(blocks):
            layers.append(ShuffleUnit(inputs, outputs, 2 if block == 0 else 1))
            inputs = outputs
    return image(nn.Sequential(*layers, conv(464, 1024, activation=nn.ReLU()), *head(1024)))


class Ghost(nn.Module):
    """Half of the outputs by a convolution, the other half by a cheap depthwise one over these."""

    def __init__(self, inputs: int, outputs: int, relu: bool) -> None:
        super().__init__()
        self.outputs, half = outputs, math.ceil(outputs / 2)
        self.primary = conv(inputs, half, activation=nn.ReLU() if relu else None)
        self.cheap = conv(half, half, 3, 1, half, nn.ReLU() if relu else None)

    def forward(self, x: Tensor) -> Tensor:
        y = self.primary(x)
        return torch.cat([y, self.cheap(y)], 1)[:, : self.outputs]


class GhostBottleneck(nn.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int, kernel: int, stride: int, squeeze: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [Ghost(inputs, hidden, True)]
        if stride > 1:
            layers.append(conv(hidden, hidden, kernel, stride, hidden))
        if squeeze:
            layers.append(SqueezeExcite(hidden, rounded(hidden / 4, 4), nn.ReLU(), nn.Hardsigmoid()))
        self.branch = nn.Sequential(*layers, Ghost(hidden, outputs, False))
        same = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(conv(inputs, inputs, kernel, stride, inputs), conv(inputs, outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.shortcut(x)


def ghostnet() -> Recipe:
    """GhostNet 1.0 (Han et al. 2020)."""
    layers: list[nn.Module] = [conv(3, 16, 3, 2, activation=nn.ReLU())]
    inputs = 16
    settings = (  # kernel, hidden, outputs, squeeze-and-excite, stride
        *((3, 16, 16, False, 1), (3, 48, 24, False, 2), (3, 72, 24, False, 1), (5, 72, 40, True, 2), (5, 120, 40, True, 1)),
        *((3, 240, 80, False, 2), (3, 200, 80, False, 1), (3, 184, 80, False, 1), (3, 184, 80, False, 1)),
        *((3, 480, 112, True, 1), (3, 672, 112, True, 1), (5, 672, 160, True, 2)),
        *((5, 960, 160, False, 1), (5, 960, 160, True, 1), (5, 960, 160, False, 1), (5, 960, 160, True, 1)),
    )
    for kernel, hidden, outputs, squeeze, stride in settings:
        layers.append(GhostBottleneck(inputs, hidden, outputs, kernel, stride, squeeze))
        inputs = outputs
    layers += [conv(160, 960, activation=nn.ReLU()), nn.AdaptiveAvgPool2d(1), nn.Conv2d(960, 1280, 1), nn.ReLU()]
    return image(nn.Sequential(*layers, nn.Flatten(), nn.Linear(1280, 1000)))
