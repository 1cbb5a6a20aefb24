"""MobileNetV2, under torchvision's names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flaxvision.errors import check_choice
from flaxvision.models import _checks
from flaxvision.models.residual import STEMS, convolve

if TYPE_CHECKING:
    from flaxvision.models.build import Build

# (expansion, channels, blocks, stride of the first one) of each stage: table 2 of the paper
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet_v2(
    b: Build, outputs: int, stem: str = "imagenet", width_factor: float = 1.0, dropout: float = 0.2
) -> None:
    """MobileNetV2 (Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018).

    `width_factor` multiplies all channels, which are then rounded to multiples of 8. `stem` "cifar" has a stride of 1
    in the first convolution and in the second stage.
    """
    check_choice("stem", stem, STEMS)
    times = _checks.factor("width_factor", width_factor)
    b.draw(conv="kaiming_fan_out", linear="normal")
    _layer(b, "features.0", _channels(32 * times), 3, stride=1 if stem == "cifar" else 2)
    position = 1
    for stage, (expansion, channels, blocks, stride) in enumerate(STAGES):
        for number in range(blocks):
            strided = stride > 1 and not number and not (stem == "cifar" and stage == 1)
            _block(b, f"features.{position}", expansion, _channels(channels * times), 2 if strided else 1)
            position += 1
    _layer(b, f"features.{position}", _channels(1280 * max(1.0, times)), 1)
    b.global_avg_pool("avgpool")
    b.flatten("flatten")
    if dropout:
        b.dropout("classifier.0", dropout)
    b.linear("classifier.1", outputs)


def _block(b: Build, name: str, expansion: int, features: int, stride: int) -> None:
    """Widen by `expansion`, filter each channel by itself, narrow without an activation; a shortcut where it fits."""
    before, position = b.here(), 0
    wide = before.shape[-1] * expansion
    if expansion > 1:
        _layer(b, f"{name}.conv.0", wide, 1)
        position = 1
    _layer(b, f"{name}.conv.{position}", wide, 3, stride=stride, groups=wide)
    convolve(b, f"{name}.conv.{position + 1}", f"{name}.conv.{position + 2}", features, 1)
    if stride == 1 and before.shape[-1] == features:
        b.add(f"{name}.add", before)


def _layer(b: Build, name: str, features: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
    convolve(b, f"{name}.0", f"{name}.1", features, kernel, stride=stride, groups=groups)
    b.activation(f"{name}.2", "relu6")


def _channels(wanted: float) -> int:
    """The multiple of 8 nearest to `wanted` that is not more than a tenth below it."""
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded
