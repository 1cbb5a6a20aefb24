"""ResNets, as torchvision and, for CIFAR, He et al. have them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: the identity, a given one, or (B) a projection."""

    expansion = 1

    def __init__(self, inplanes: int, planes: int, stride: int, downsample: nn.Module | None = None):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """The block's maps of the maps `x`."""
        skip = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + skip)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int, downsample: nn.Module | None = None):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """The block's maps of the maps `x`."""
        skip = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + skip)


def projection(inplanes: int, planes: int, stride: int) -> nn.Module:
    """Shortcut B."""
    return nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))


class Padding(nn.Module):
    """Shortcut A: every other row and column, and channels of zeros after those that there are."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """The shortcut of the maps `x`."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.channels))


class ResNet(nn.Module):
    """torchvision's ResNet, with a stem for CIFAR as well."""

    def __init__(
        self,
        channels: int,
        outputs: int,
        block: type[BasicBlock] | type[Bottleneck],
        layers: tuple[int, ...],
        stem: str = "imagenet",
        width: int = 64,
    ):
        super().__init__()
        self.block, self.inplanes = block, width
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(channels, width, 7, 2, 3, bias=False)
        else:
            self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        self.layer1 = self._stage(width, layers[0], 1)
        self.layer2 = self._stage(2 * width, layers[1], 2)
        self.layer3 = self._stage(4 * width, layers[2], 2)
        self.layer4 = self._stage(8 * width, layers[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * width * block.expansion, outputs)

    def _stage(self, planes: int, blocks: int, stride: int) -> nn.Sequential:
        after = planes * self.block.expansion
        downsample = projection(self.inplanes, after, stride) if stride > 1 or self.inplanes != after else None
        first = self.block(self.inplanes, planes, stride, downsample)
        self.inplanes = after
        return nn.Sequential(first, *[self.block(after, planes, 1) for _ in range(blocks - 1)])

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`, (N, C, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class CifarResNet(nn.Module):
    """ResNet-20, 32, 44 and 56 of section 4.2."""

    def __init__(self, channels: int, outputs: int, depth: int, shortcut: str = "A"):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        stages, before = [], 16
        for planes in (16, 32, 64):
            blocks = []
            for _ in range((depth - 2) // 6):
                stride = 1 if before == planes else 2
                skip: nn.Module | None = None
                if stride == 2:
                    skip = Padding(planes - before, 2) if shortcut == "A" else projection(before, planes, 2)
                blocks.append(BasicBlock(before, planes, stride, skip))
                before = planes
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3 = stages
        self.fc = nn.Linear(64, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`, (N, C, H, W)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))
