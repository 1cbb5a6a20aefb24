"""DenseNets, under torchvision's names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TORCHVISION = {
    121: (6, 12, 24, 16),
    169: (6, 12, 32, 32),
    201: (6, 12, 48, 32),
    161: (6, 12, 36, 24),
}


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, convolution; in DenseNet-B twice, of which the first is 1x1."""

    def __init__(self, before: int, growth: int, bottleneck: bool, dropout: float):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        if bottleneck:
            self.conv1 = nn.Conv2d(before, 4 * growth, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(4 * growth)
            self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(before, growth, 3, padding=1, bias=False)
        self.bottleneck, self.dropout = bottleneck, dropout

    def forward(self, x: Tensor) -> Tensor:
        """What the layer adds to the maps `x`."""
        x = self.conv1(F.relu(self.norm1(x)))
        if self.bottleneck:
            x = self.conv2(F.relu(self.norm2(x)))
        return F.dropout(x, self.dropout, self.training)


class DenseBlock(nn.Module):
    """Layers that each see what all before them gave."""

    def __init__(self, layers: int, before: int, growth: int, bottleneck: bool, dropout: float):
        super().__init__()
        for i in range(layers):
            self.add_module(f"denselayer{i + 1}", DenseLayer(before + i * growth, growth, bottleneck, dropout))

    def forward(self, x: Tensor) -> Tensor:
        """The block's maps of the maps `x`."""
        given = [x]
        for layer in self.children():
            given.append(layer(torch.cat(given, 1)))
        return torch.cat(given, 1)


class Transition(nn.Module):
    """BatchNorm, ReLU, 1x1 convolution, a mean over 2x2."""

    def __init__(self, before: int, after: int, dropout: float):
        super().__init__()
        self.norm = nn.BatchNorm2d(before)
        self.conv = nn.Conv2d(before, after, 1, bias=False)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """The maps `x` at half their side."""
        x = F.dropout(self.conv(F.relu(self.norm(x))), self.dropout, self.training)
        return F.avg_pool2d(x, 2)


class DenseNet(nn.Module):
    """DenseNet(-BC) of CIFAR, and torchvision's of ImageNet."""

    def __init__(
        self,
        channels: int,
        outputs: int,
        depth: int = 100,
        growth: int = 12,
        bottleneck: bool = True,
        stem: str = "cifar",
        dropout: float = 0.0,
    ):
        super().__init__()
        width = 2 * growth if bottleneck else 16
        self.features = nn.Sequential()
        if stem == "cifar":
            blocks: tuple[int, ...] = ((depth - 4) // (6 if bottleneck else 3),) * 3
            self.features.add_module("conv0", nn.Conv2d(channels, width, 3, padding=1, bias=False))
        else:
            blocks = TORCHVISION[depth]
            self.features.add_module("conv0", nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False))
            self.features.add_module("norm0", nn.BatchNorm2d(width))
            self.features.add_module("relu0", nn.ReLU())
            self.features.add_module("pool0", nn.MaxPool2d(3, stride=2, padding=1))
        for i, layers in enumerate(blocks):
            self.features.add_module(f"denseblock{i + 1}", DenseBlock(layers, width, growth, bottleneck, dropout))
            width += layers * growth
            if i + 1 < len(blocks):
                after = width // 2 if bottleneck else width
                transition = Transition(width, after, dropout if stem == "cifar" else 0.0)
                self.features.add_module(f"transition{i + 1}", transition)
                width = after
        self.features.add_module("norm5" if stem == "imagenet" else "norm4", nn.BatchNorm2d(width))
        self.classifier = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`, (N, C, H, W)."""
        x = F.adaptive_avg_pool2d(F.relu(self.features(x)), (1, 1))
        return self.classifier(torch.flatten(x, 1))
