"""Classic convolutional networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.models.common import Recipe, conv, head, image


class Block(nn.Module):
    """ReLU(shortcut + branch) of a ResNet; the shortcut is a projection where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, branch: nn.Sequential) -> None:
        super().__init__()
        self.branch = branch
        nn.init.constant_(branch[-1][1].weight, 0.3)
        self.shortcut = conv(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return (self.branch(x) + self.shortcut(x)).relu()


def _resnet(blocks: tuple[int, ...], expansion: int) -> Recipe:
    layers: list[nn.Module] = [conv(3, 64, 7, 2, activation=nn.ReLU()), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for stage, count in enumerate(blocks):
        width, outputs = 64 << stage, expansion * 64 << stage
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            if expansion > 1:
                branch = [conv(inputs, width, activation=nn.ReLU()), conv(width, width, 3, stride, activation=nn.ReLU())]
                branch.append(conv(width, outputs))
            else:
                branch = [conv(inputs, width, 3, stride, activation=nn.ReLU()), conv(width, width, 3)]
            layers.append(Block(inputs, outputs, stride, nn.Sequential(*branch)))
            inputs = outputs
    return image(nn.Sequential(*layers, *head(inputs)))


def resnet18() -> Recipe:
    """ResNet-18 (He et al. 2015)."""
    return _resnet((2, 2, 2, 2), 1)


def resnet50() -> Recipe:
    """ResNet-50 (He et al. 2015, the variant with stride in the 3x3)."""
    return _resnet((3, 4, 6, 3), 4)


def vgg16() -> Recipe:
    """VGG-16 (Simonyan & Zisserman 2014), configuration D, as published: no batch normalization."""
    layers: list[nn.Module] = []
    inputs = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            inputs = width
        layers.append(nn.MaxPool2d(2))
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    classifier = [nn.Linear(25088, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)]
    return image(nn.Sequential(*layers, nn.Flatten(), *classifier))


class DenseLayer(nn.Module):
    """Appends 32 channels made of all before them."""

    def __init__(self, inputs: int, growth: int = 32) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            conv(inputs, 4 * growth, activation=nn.ReLU()),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.branch(x)], 1)


def densenet121() -> Recipe:
    """DenseNet-121 (Huang et al. 2017)."""
    layers: list[nn.Module] = [conv(3, 64, 7, 2, activation=nn.ReLU()), nn.MaxPool2d(3, 2, 1)]
    width = 64
    for stage, count in enumerate((6, 12, 24, 16)):
        if stage:
            layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
        for _ in range(count):
            layers.append(DenseLayer(width))
            width += 32
    return image(nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(), *head(width)))


class Branches(nn.Module):
    """Branches side by side, their channels one after the other."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def _chain(inputs: int, *steps: tuple[int, int | tuple[int, int]], stride: int = 1) -> nn.Sequential:
    """Convolutions one after the other, the last one with `stride` (and then no padding)."""
    layers: list[nn.Module] = []
    for index, (outputs, kernel) in enumerate(steps):
        last = index == len(steps) - 1 and stride > 1
        layers.append(conv(inputs, outputs, kernel, stride if last else 1, activation=nn.ReLU(), padding=0 if last else None))
        inputs = outputs
    return nn.Sequential(*layers)


def _pooled(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(inputs, outputs, activation=nn.ReLU()))


def _inception_c(inputs: int, hidden: int) -> Branches:
    h, row, column = hidden, (1, 7), (7, 1)
    deep = _chain(inputs, (h, 1), (h, column), (h, row), (h, column), (192, row))
    return Branches(_chain(inputs, (192, 1)), _chain(inputs, (h, 1), (h, row), (192, column)), deep, _pooled(inputs, 192))


def _inception_e(inputs: int) -> Branches:
    def split(*before: tuple[int, int]) -> nn.Sequential:
        return nn.Sequential(_chain(inputs, *before), Branches(_chain(384, (384, (1, 3))), _chain(384, (384, (3, 1)))))

    return Branches(_chain(inputs, (320, 1)), split((384, 1)), split((448, 1), (384, 3)), _pooled(inputs, 192))


def inception_v3() -> Recipe:
    """Inception v3 (Szegedy et al. 2016), 299x299, without the auxiliary head."""

    def block_a(inputs: int, pooled: int) -> Branches:
        deep = _chain(inputs, (64, 1), (96, 3), (96, 3))
        return Branches(_chain(inputs, (64, 1)), _chain(inputs, (48, 1), (64, 5)), deep, _pooled(inputs, pooled))

    def valid(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
        return conv(inputs, outputs, kernel, stride, activation=nn.ReLU(), padding=0)

    shrink = nn.MaxPool2d(3, 2)
    layers: list[nn.Module] = [
        *(valid(3, 32, 3, 2), valid(32, 32, 3), conv(32, 64, 3, activation=nn.ReLU()), shrink),
        *(valid(64, 80, 1), valid(80, 192, 3), shrink),
        *(block_a(192, 32), block_a(256, 64), block_a(288, 64)),
        Branches(_chain(288, (384, 3), stride=2), _chain(288, (64, 1), (96, 3), (96, 3), stride=2), shrink),
        *(_inception_c(768, hidden) for hidden in (128, 160, 160, 192)),
        Branches(
            _chain(768, (192, 1), (320, 3), stride=2),
            _chain(768, (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3), stride=2),
            shrink,
        ),
        *(_inception_e(1280), _inception_e(2048)),
    ]
    return image(nn.Sequential(*layers, *head(2048)), size=299)


class Fire(nn.Module):
    """Squeeze by 1x1, expand by 1x1 and 3x3 side by side."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand = Branches(nn.Conv2d(squeezed, expanded, 1), nn.Conv2d(squeezed, expanded, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.expand(self.squeeze(x).relu()).relu()


def squeezenet() -> Recipe:
    """SqueezeNet 1.1 (Iandola et al. 2016)."""
    pool = nn.MaxPool2d(3, 2, ceil_mode=True)
    layers = [
        *(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool, Fire(64, 16, 64), Fire(128, 16, 64), pool),
        *(Fire(128, 32, 128), Fire(256, 32, 128), pool, Fire(256, 48, 192), Fire(384, 48, 192)),
        *(Fire(384, 64, 256), Fire(512, 64, 256), nn.Conv2d(512, 1000, 1), nn.ReLU()),
    ]
    return image(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()))
