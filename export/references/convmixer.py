"""ConvMixer, as its paper lists it."""

from __future__ import annotations

from torch import Tensor, nn


class Residual(nn.Module):
    """A module and the identity."""

    def __init__(self, fn: nn.Module):
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both, of the maps `x`."""
        return self.fn(x) + x


class ConvMixer(nn.Sequential):
    """Patches, then depthwise and 1x1 convolutions in turn."""

    def __init__(self, channels: int, outputs: int, width: int = 256, depth: int = 8, kernel: int = 5, patch: int = 2):
        modules: list[nn.Module] = [nn.Conv2d(channels, width, patch, stride=patch), nn.GELU(), nn.BatchNorm2d(width)]
        for _ in range(depth):
            places = nn.Conv2d(width, width, kernel, groups=width, padding="same")
            modules.append(
                nn.Sequential(
                    Residual(nn.Sequential(places, nn.GELU(), nn.BatchNorm2d(width))),
                    nn.Conv2d(width, width, kernel_size=1),
                    nn.GELU(),
                    nn.BatchNorm2d(width),
                )
            )
        super().__init__(*modules, nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(width, outputs))
