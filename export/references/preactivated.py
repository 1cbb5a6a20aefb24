"""PreAct ResNet-18 and wide ResNets, which normalize and activate before they convolve."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PreActBlock(nn.Module):
    """Pre-activation and two 3x3 convolutions; where the shape changes, the shortcut begins after the activation."""

    def __init__(self, before: int, planes: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        if stride != 1 or before != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(before, planes, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """The block's maps of the maps `x`."""
        out = F.relu(self.bn1(x))
        skip = self.shortcut(out) if hasattr(self, "shortcut") else x
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + skip


class PreActResNet(nn.Module):
    """PreAct ResNet-18 for CIFAR, with the BatchNorm and ReLU at the end that the paper has."""

    def __init__(self, channels: int, outputs: int, width: int = 64):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.layer1 = nn.Sequential(PreActBlock(width, width, 1), PreActBlock(width, width, 1))
        self.layer2 = nn.Sequential(PreActBlock(width, 2 * width, 2), PreActBlock(2 * width, 2 * width, 1))
        self.layer3 = nn.Sequential(PreActBlock(2 * width, 4 * width, 2), PreActBlock(4 * width, 4 * width, 1))
        self.layer4 = nn.Sequential(PreActBlock(4 * width, 8 * width, 2), PreActBlock(8 * width, 8 * width, 1))
        self.bn = nn.BatchNorm2d(8 * width)
        self.linear = nn.Linear(8 * width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`, (N, C, H, W)."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        x = F.adaptive_avg_pool2d(F.relu(self.bn(x)), 1)
        return self.linear(x.view(x.size(0), -1))


class WideBlock(nn.Module):
    """As `PreActBlock`, with dropout between the convolutions."""

    def __init__(self, before: int, planes: int, stride: int, dropout: float):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.convShortcut = None if before == planes else nn.Conv2d(before, planes, 1, stride, bias=False)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """The block's maps of the maps `x`."""
        out = F.relu(self.bn1(x))
        skip = x if self.convShortcut is None else self.convShortcut(out)
        out = F.dropout(F.relu(self.bn2(self.conv1(out))), self.dropout, self.training)
        return self.conv2(out) + skip


class WideStage(nn.Module):
    """Blocks one after the other."""

    def __init__(self, blocks: int, before: int, planes: int, stride: int, dropout: float):
        super().__init__()
        first = WideBlock(before, planes, stride, dropout)
        self.layer = nn.Sequential(first, *[WideBlock(planes, planes, 1, dropout) for _ in range(blocks - 1)])

    def forward(self, x: Tensor) -> Tensor:
        """The stage's maps of the maps `x`."""
        return self.layer(x)


class WideResNet(nn.Module):
    """WRN-depth-width for CIFAR."""

    def __init__(self, channels: int, outputs: int, depth: int = 28, width: int = 10, dropout: float = 0.0):
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.block1 = WideStage(blocks, 16, 16 * width, 1, dropout)
        self.block2 = WideStage(blocks, 16 * width, 32 * width, 2, dropout)
        self.block3 = WideStage(blocks, 32 * width, 64 * width, 2, dropout)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`, (N, C, H, W)."""
        x = F.relu(self.bn1(self.block3(self.block2(self.block1(self.conv1(x))))))
        return self.fc(F.avg_pool2d(x, x.shape[2:]).flatten(1))
