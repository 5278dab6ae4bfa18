"""What the definitions share: the recipe of an export, and layers that many of them have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import onnx
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Recipe:
    """What `torch.onnx.export` needs: a module, example arguments by name, names of the outputs, and which dims are dynamic.

    `finish` adds to the export what PyTorch has no operator for.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...] = ("y",)
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    finish: Callable[[onnx.ModelProto], None] | None = None


def lively(module: nn.Module) -> nn.Module:
    """Gives batch normalization statistics that are not the identity, as training would."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(0.0, 0.1)
            layer.running_var.uniform_(0.6, 1.6)
            nn.init.uniform_(layer.weight, 0.6, 1.4)
            nn.init.normal_(layer.bias, 0.0, 0.1)
    return module


def image(module: nn.Module, size: int = 224, channels: int = 3, dynamic: Mapping[int, str] | None = None) -> Recipe:
    """A network over images `x`; the batch is dynamic unless `dynamic` says otherwise, and 1 when nothing is."""
    dims = {0: "batch"} if dynamic is None else dynamic
    return Recipe(lively(module), {"x": torch.randn(2 if dims else 1, channels, size, size)}, dynamic={"x": dims})


def conv(
    inputs: int,
    outputs: int,
    kernel: int | tuple[int, int] = 1,
    stride: int = 1,
    groups: int = 1,
    activation: nn.Module | None = None,
    padding: int | tuple[int, int] | None = None,
) -> nn.Sequential:
    """Convolution without bias (padded to keep the extents unless `padding` is given), batch normalization, activation."""
    if padding is None:
        padding = kernel // 2 if isinstance(kernel, int) else (kernel[0] // 2, kernel[1] // 2)
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        *((activation,) if activation else ()),
    ]
    return nn.Sequential(*layers)


def head(inputs: int, outputs: int = 1000) -> list[nn.Module]:
    """Mean over the image, then classes."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, outputs)]


def rounded(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor` that is not under 90 % of `channels` (as the mobile networks round their widths)."""
    near = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return near + divisor if near < 0.9 * channels else near


class Residual(nn.Module):
    """x + branch(x)."""

    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class SqueezeExcite(nn.Module):
    """Scales channels by a function of their means (Hu et al. 2018)."""

    def __init__(self, channels: int, hidden: int, activation: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, hidden, 1), activation, nn.Conv2d(hidden, channels, 1), gate
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale(x)
