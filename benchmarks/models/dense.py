"""Networks with an answer for every place of the image: segmentation and detection."""

from __future__ import annotations

import itertools

import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from benchmarks.models.common import Recipe, conv, image, lively


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


class Atrous(nn.Module):
    """Atrous spatial pyramid pooling: dilated convolutions side by side, and the mean of the image."""

    def __init__(self, inputs: int, outputs: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        dilated = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 3, 1, rate, rate, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
            for rate in rates
        )
        self.branches = nn.ModuleList([conv(inputs, outputs, activation=nn.ReLU()), *dilated])
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(inputs, outputs, activation=nn.ReLU()))
        self.project = conv(outputs * (len(rates) + 2), outputs, activation=nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        mean = nn.functional.interpolate(self.mean(x), size=x.shape[-2:], mode="bilinear")
        return self.project(torch.cat([*(branch(x) for branch in self.branches), mean], 1))


def deeplab_head() -> Recipe:
    """The head of DeepLabv3 (Chen et al. 2017) over 512 channels of 28x28, enlarged eight times."""
    layers = [Atrous(512, 256, (12, 24, 36)), conv(256, 256, 3, activation=nn.ReLU()), nn.Conv2d(256, 21, 1)]
    enlarge = nn.Upsample(scale_factor=8.0, mode="bilinear", align_corners=False)
    return image(nn.Sequential(*layers, enlarge), 28, 512, dynamic={})


class Basic(nn.Module):
    """ReLU(x + two convolutions)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(conv(width, width, 3, activation=nn.ReLU()), conv(width, width, 3))
        nn.init.constant_(self.branch[1][1].weight, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.branch(x)).relu()


class Exchange(nn.Module):
    """Four blocks on every resolution, then every resolution is the sum of all."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(*(Basic(width) for _ in range(4))) for width in widths)
        self.fuse = nn.ModuleList(
            nn.ModuleList(self._path(i, o, widths) for i in range(len(widths))) for o in range(len(widths))
        )

    @staticmethod
    def _path(source: int, target: int, widths: tuple[int, ...]) -> nn.Module:
        if source == target:
            return nn.Identity()
        if source > target:
            enlarge = nn.Upsample(scale_factor=float(2 ** (source - target)), mode="nearest")
            return nn.Sequential(conv(widths[source], widths[target]), enlarge)
        steps = [conv(widths[source], widths[source], 3, 2, activation=nn.ReLU()) for _ in range(target - source - 1)]
        return nn.Sequential(*steps, conv(widths[source], widths[target], 3, 2))

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        xs = [block(x) for block, x in zip(self.blocks, xs, strict=True)]
        return [torch.stack([path(x) for path, x in zip(paths, xs, strict=True)]).sum(0).relu() for paths in self.fuse]


class HRNet(nn.Module):
    def __init__(self, width: int = 18, modules: tuple[int, ...] = (1, 1, 1), outputs: int = 17) -> None:
        super().__init__()
        widths = tuple(width << level for level in range(len(modules) + 1))
        self.stem = nn.Sequential(conv(3, 64, 3, 2, activation=nn.ReLU()), conv(64, widths[0], 3, 2, activation=nn.ReLU()))
        self.enter = nn.ModuleList(conv(a, b, 3, 2, activation=nn.ReLU()) for a, b in itertools.pairwise(widths))
        self.stages = nn.ModuleList(
            nn.ModuleList(Exchange(widths[: level + 2]) for _ in range(count)) for level, count in enumerate(modules)
        )
        self.head = nn.Conv2d(sum(widths), outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        xs = [self.stem(x)]
        for enter, stage in zip(self.enter, self.stages, strict=True):
            xs = [*xs, enter(xs[-1])]
            for exchange in stage:
                xs = exchange(xs)
        size = xs[0].shape[-2:]
        return self.head(torch.cat([nn.functional.interpolate(x, size=size, mode="bilinear") for x in xs], 1))


def hrnet_w18() -> Recipe:
    """HRNet-W18 small (Sun et al. 2019), with 17 maps of key points, 256x256."""
    return image(HRNet(), 256, dynamic={})


class C2f(nn.Module):
    """The cross-stage block of YOLOv8: half of the channels go through bottlenecks, every result is kept."""

    def __init__(self, inputs: int, outputs: int, count: int, residual: bool) -> None:
        super().__init__()
        self.residual, half = residual, outputs // 2
        self.enter, self.leave = (
            conv(inputs, outputs, activation=nn.SiLU()),
            conv(half * (2 + count), outputs, activation=nn.SiLU()),
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(conv(half, half, 3, activation=nn.SiLU()), conv(half, half, 3, activation=nn.SiLU()))
            for _ in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        kept = list(self.enter(x).chunk(2, 1))
        for block in self.blocks:
            y = block(kept[-1])
            kept.append(kept[-1] + y if self.residual else y)
        return self.leave(torch.cat(kept, 1))


class SPPF(nn.Module):
    """Three pools of 5x5 in a row, all kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.leave = conv(width, width // 2, activation=nn.SiLU()), conv(2 * width, width, activation=nn.SiLU())
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        kept = [self.enter(x)]
        for _ in range(3):
            kept.append(self.pool(kept[-1]))
        return self.leave(torch.cat(kept, 1))


class Yolo(nn.Module):
    """YOLOv8n (Jocher et al. 2023): backbone, feature pyramid, decoupled heads over three resolutions, distribution of distances."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128, 256), classes: int = 80) -> None:
        super().__init__()
        a, b, c, d, e = widths

        def down(inputs: int, outputs: int) -> nn.Sequential:
            return conv(inputs, outputs, 3, 2, activation=nn.SiLU())

        self.small = nn.Sequential(down(3, a), down(a, b), C2f(b, b, 1, True), down(b, c), C2f(c, c, 2, True))
        self.middle = nn.Sequential(down(c, d), C2f(d, d, 2, True))
        self.large = nn.Sequential(down(d, e), C2f(e, e, 1, True), SPPF(e))
        self.enlarge = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.up_middle, self.up_small = C2f(e + d, d, 1, False), C2f(d + c, c, 1, False)
        self.down_middle, self.down_large = down(c, c), down(d, d)
        self.out_middle, self.out_large = C2f(c + d, d, 1, False), C2f(d + e, e, 1, False)

        def branch(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
            layers = [conv(inputs, hidden, 3, activation=nn.SiLU()), conv(hidden, hidden, 3, activation=nn.SiLU())]
            return nn.Sequential(*layers, nn.Conv2d(hidden, outputs, 1))

        self.boxes = nn.ModuleList(branch(width, 64, 64) for width in (c, d, e))
        self.scores = nn.ModuleList(branch(width, 80, classes) for width in (c, d, e))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        small = self.small(x)
        middle = self.middle(small)
        large = self.large(middle)
        middle = self.up_middle(torch.cat([self.enlarge(large), middle], 1))
        small = self.up_small(torch.cat([self.enlarge(middle), small], 1))
        middle = self.out_middle(torch.cat([self.down_middle(small), middle], 1))
        large = self.out_large(torch.cat([self.down_large(middle), large], 1))
        levels = (small, middle, large)
        sides = torch.cat([box(level).flatten(2) for box, level in zip(self.boxes, levels, strict=True)], 2)
        scores = torch.cat([score(level).flatten(2) for score, level in zip(self.scores, levels, strict=True)], 2)
        anchors, strides = self._anchors(levels, (8, 16, 32))
        share = sides.reshape(sides.shape[0], 4, 16, -1).softmax(2)
        distance = (share * torch.arange(16.0)[None, None, :, None]).sum(2)
        low, high = anchors - distance[:, :2], anchors + distance[:, 2:]
        return torch.cat([low, high], 1).mul(strides).transpose(1, 2), scores.sigmoid()

    @staticmethod
    def _anchors(levels: tuple[Tensor, ...], strides: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        points, scales = list[Tensor](), list[Tensor]()
        for level, stride in zip(levels, strides, strict=True):
            height, width = level.shape[-2:]
            y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
            points.append(torch.stack([x.flatten(), y.flatten()]))
            scales.append(torch.full((1, height * width), float(stride)))
        return torch.cat(points, 1)[None], torch.cat(scales, 1)


def _suppress(model: onnx.ModelProto) -> None:
    """Appends NonMaxSuppression over `boxes` and `scores`: `selected` are rows of (image, class, box)."""
    graph = model.graph
    settings = {"most": [100], "overlap": [0.45], "least": [0.25]}
    for name, value in settings.items():
        kind = onnx.TensorProto.INT64 if name == "most" else onnx.TensorProto.FLOAT
        graph.initializer.append(helper.make_tensor(f"nms_{name}", kind, [1], value))
    inputs = ["boxes", "scores", *(f"nms_{name}" for name in settings)]
    graph.node.append(helper.make_node("NonMaxSuppression", inputs, ["selected"]))
    graph.output.append(helper.make_tensor_value_info("selected", onnx.TensorProto.INT64, ["count", 3]))


def yolo() -> Recipe:
    """A YOLOv8n at 320x320; boxes (corners), scores, and what non-maximum suppression leaves of them."""
    module = lively(Yolo())
    for score in module.scores:
        nn.init.constant_(score[-1].bias, -3.0)  # so that few places hold something
    return Recipe(module, {"x": torch.randn(1, 3, 320, 320)}, ("boxes", "scores"), finish=_suppress)
