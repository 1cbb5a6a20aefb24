"""MobileNetV2, as torchvision has it."""

from __future__ import annotations

from torch import Tensor, nn

# expansion t, channels c, repetitions n, stride s: table 2 of the paper
SETTINGS = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
]


def divisible_by_8(value: float) -> int:
    """A channel count that is a multiple of 8, near `value` and at least 0.9 times it."""
    nearest = max(8, 8 * int((value + 4) / 8))
    return nearest if nearest >= 0.9 * value else nearest + 8


def conv_bn_relu(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, linear bottleneck."""

    def __init__(self, before: int, after: int, stride: int, expansion: int):
        super().__init__()
        inner = before * expansion
        expand = [conv_bn_relu(before, inner, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            conv_bn_relu(inner, inner, 3, stride, groups=inner),
            nn.Conv2d(inner, after, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.use_res_connect = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """The block's maps of the maps `x`."""
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class MobileNetV2(nn.Module):
    """The whole network; `stem` "cifar" has no stride in the first convolution and in the stage of 24 channels."""

    def __init__(
        self,
        channels: int,
        outputs: int,
        stem: str = "imagenet",
        width_factor: float = 1.0,
        dropout: float = 0.2,
    ):
        super().__init__()
        before = divisible_by_8(32 * width_factor)
        features: list[nn.Module] = [conv_bn_relu(channels, before, 3, 1 if stem == "cifar" else 2)]
        for t, c, n, s in SETTINGS:
            after = divisible_by_8(c * width_factor)
            for i in range(n):
                stride = s if i == 0 and not (stem == "cifar" and c == 24) else 1
                features.append(InvertedResidual(before, after, stride, t))
                before = after
        last = divisible_by_8(1280 * max(1.0, width_factor))
        features.append(conv_bn_relu(before, last, 1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`, (N, C, H, W)."""
        x = nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(x.flatten(1))
