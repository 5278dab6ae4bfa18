"""Networks with an answer for every place of the image: segmentation and detection."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.models.common import Recipe, conv, image


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs, 3, activation=nn.ReLU()), conv(outputs, outputs, 3, activation=nn.ReLU()))


class UNet(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        self.down = nn.ModuleList(_double(i, o) for i, o in zip((3, *widths[:-1]), widths, strict=True))
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, 2) for i, o in pairs)
        self.join = nn.ModuleList(_double(2 * o, o) for _, o in pairs)
        self.head = nn.Conv2d(widths[0], 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if level else x)
            kept.append(x)
        kept.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([kept.pop(), up(x)], dim=1))
        return self.head(x)


def unet() -> Recipe:
    """A UNet (Ronneberger et al. 2015) of four levels with ConvTranspose; batch, height and width (multiples of 8) dynamic."""
    return image(UNet(), 64, dynamic={0: "batch", 2: "height", 3: "width"})
