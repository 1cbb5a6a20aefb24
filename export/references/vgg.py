"""VGG, as torchvision has it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class VGG(nn.Module):
    """Blocks of 3x3 convolutions of 64 to 512 channels, an adaptive pool, linear layers."""

    def __init__(
        self,
        channels: int,
        outputs: int,
        convolutions: tuple[int, ...],
        batch_norm: bool = False,
        pooled: int = 7,
        hidden: tuple[int, ...] = (4096, 4096),
        dropout: float = 0.5,
    ):
        super().__init__()
        features: list[nn.Module] = []
        for width, count in zip((64, 128, 256, 512, 512), convolutions, strict=True):
            for _ in range(count):
                features.append(nn.Conv2d(channels, width, kernel_size=3, padding=1))
                if batch_norm:
                    features.append(nn.BatchNorm2d(width))
                features.append(nn.ReLU(inplace=True))
                channels = width
            features.append(nn.MaxPool2d(kernel_size=2, stride=2))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d((pooled, pooled))
        classifier: list[nn.Module] = []
        inputs = 512 * pooled * pooled
        for width in hidden:
            classifier += [nn.Linear(inputs, width), nn.ReLU(True), nn.Dropout(dropout)]
            inputs = width
        self.classifier = nn.Sequential(*classifier, nn.Linear(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`, (N, C, H, W)."""
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
