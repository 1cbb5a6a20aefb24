"""LeNet-5, and the networks of the races to 94 % on CIFAR-10: ResNet-9 and that of airbench94."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from export.references.reports import NONLINEARITIES


class LeNet5(nn.Module):
    """LeNet-5 with means for subsampling; 28x28 images are padded to 32x32."""

    def __init__(self, shape: tuple[int, ...], outputs: int, activation: str = "tanh"):
        super().__init__()
        height, width, channels = shape
        padding = 2 if height == 28 else 0
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=padding)
        self.conv2 = nn.Conv2d(6, 16, 5)
        rows, columns = (((side + 2 * padding - 4) // 2 - 4) // 2 for side in (height, width))
        self.fc1 = nn.Linear(16 * rows * columns, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, outputs)
        self.act = NONLINEARITIES[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`, (N, C, H, W)."""
        x = F.avg_pool2d(self.act(self.conv1(x)), 2)
        x = F.avg_pool2d(self.act(self.conv2(x)), 2)
        x = self.act(self.fc2(self.act(self.fc1(x.flatten(1)))))
        return self.fc3(x)


class ConvBN(nn.Module):
    """3x3 convolution, BatchNorm, ReLU."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's maps of the maps `x`."""
        return F.relu(self.bn(self.conv(x)))


class Residual(nn.Module):
    """Two such layers, added to what they take."""

    def __init__(self, channels: int):
        super().__init__()
        self.res1 = ConvBN(channels, channels)
        self.res2 = ConvBN(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """The block's maps of the maps `x`."""
        return x + self.res2(self.res1(x))


class Pooled(ConvBN):
    """Such a layer, a max-pool, and in some a residual block."""

    def __init__(self, before: int, after: int, residual: bool):
        super().__init__(before, after)
        self.residual = Residual(after) if residual else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The maps `x` at half their side."""
        return self.residual(F.max_pool2d(super().forward(x), 2))


class ResNet9(nn.Module):
    """Page's ResNet-9."""

    def __init__(self, channels: int, outputs: int, width: int = 64):
        super().__init__()
        self.prep = ConvBN(channels, width)
        self.layer1 = Pooled(width, 2 * width, True)
        self.layer2 = Pooled(2 * width, 4 * width, False)
        self.layer3 = Pooled(4 * width, 8 * width, True)
        self.linear = nn.Linear(8 * width, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`, (N, C, 32, 32); a larger map is pooled as a whole at the end."""
        x = self.layer3(self.layer2(self.layer1(self.prep(x))))
        return self.linear(F.max_pool2d(x, x.shape[2:]).flatten(1)) * 0.125


class ConvGroup(nn.Module):
    """Two convolutions with a max-pool behind the first."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding="same", bias=False)
        self.norm1 = nn.BatchNorm2d(after, eps=1e-12, momentum=0.4)
        self.conv2 = nn.Conv2d(after, after, 3, padding="same", bias=False)
        self.norm2 = nn.BatchNorm2d(after, eps=1e-12, momentum=0.4)

    def forward(self, x: Tensor) -> Tensor:
        """The maps `x` at half their side."""
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class Scale(nn.Module):
    """A constant factor."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """The product with `x`."""
        return x * self.factor


class Airbench94(nn.Sequential):
    """The network of airbench94."""

    def __init__(self, channels: int, outputs: int, width: int = 64):
        super().__init__(
            nn.Conv2d(channels, 2 * channels * 2 * 2, 2),
            nn.GELU(),
            ConvGroup(2 * channels * 2 * 2, width),
            ConvGroup(width, 4 * width),
            ConvGroup(4 * width, 4 * width),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * width, outputs, bias=False),
            Scale(1 / 9),
        )
