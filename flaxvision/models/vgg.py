"""VGG-11, 13 and 16, under torchvision's names; report B3's VGG-19, with a head of its own, is in `reports`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flaxvision.models import _checks

if TYPE_CHECKING:
    from flaxvision.models.build import Build

CHANNELS = (64, 128, 256, 512, 512)  # of each block


def vgg11(
    b: Build,
    outputs: int,
    batch_norm: bool = False,
    pooled: int = 7,
    hidden: tuple[int, ...] = (4096, 4096),
    dropout: float = 0.5,
) -> None:
    """VGG-11 (Simonyan and Zisserman, "Very Deep Convolutional Networks…", ICLR 2015), as torchvision has it.

    `batch_norm` puts BatchNorm after each convolution (torchvision's vgg11_bn). The last maps are pooled to `pooled`
    rows and columns before the linear layers of widths `hidden`; for CIFAR-10, give `pooled` 1 and `hidden` [512, 512].
    """
    _vgg(b, outputs, (1, 1, 2, 2, 2), batch_norm, pooled, hidden, dropout)


def vgg13(
    b: Build,
    outputs: int,
    batch_norm: bool = False,
    pooled: int = 7,
    hidden: tuple[int, ...] = (4096, 4096),
    dropout: float = 0.5,
) -> None:
    """VGG-13; see `vgg11`."""
    _vgg(b, outputs, (2, 2, 2, 2, 2), batch_norm, pooled, hidden, dropout)


def vgg16(
    b: Build,
    outputs: int,
    batch_norm: bool = False,
    pooled: int = 7,
    hidden: tuple[int, ...] = (4096, 4096),
    dropout: float = 0.5,
) -> None:
    """VGG-16; see `vgg11`."""
    _vgg(b, outputs, (2, 2, 3, 3, 3), batch_norm, pooled, hidden, dropout)


def _vgg(
    b: Build,
    outputs: int,
    convolutions: tuple[int, ...],
    batch_norm: bool,
    pooled: int,
    hidden: tuple[int, ...],
    dropout: float,
) -> None:
    normalized, widths = _checks.flag("batch_norm", batch_norm), _checks.widths("hidden", hidden)
    b.draw(conv="kaiming_fan_out", linear="normal")
    position = 0
    for features, count in zip(CHANNELS, convolutions, strict=True):
        for _ in range(count):
            b.conv(f"features.{position}", features, 3, padding=1)
            if normalized:
                position += 1
                b.batch_norm(f"features.{position}")
            b.activation(f"features.{position + 1}", "relu")
            position += 2
        b.max_pool(f"features.{position}", 2)
        position += 1
    b.adaptive_avg_pool("avgpool", _checks.width("pooled", pooled))
    for number, width in enumerate(widths):
        b.linear(f"classifier.{3 * number}", width)
        b.activation(f"classifier.{3 * number + 1}", "relu")
        if dropout:
            b.dropout(f"classifier.{3 * number + 2}", dropout)
    b.linear(f"classifier.{3 * len(widths)}", outputs)
