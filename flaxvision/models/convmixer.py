"""ConvMixer, under the names of its paper's listing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flaxvision.models import _checks

if TYPE_CHECKING:
    from flaxvision.models.build import Build


def convmixer(b: Build, outputs: int, width: int = 256, depth: int = 8, kernel: int = 5, patch: int = 2) -> None:
    """ConvMixer-`width`/`depth` (Trockman and Kolter, "Patches Are All You Need?", TMLR 2023).

    Patches of `patch` x `patch` pixels become `width` channels; `depth` times a depthwise convolution of `kernel` x
    `kernel` mixes places, round which there is a shortcut, and a 1 x 1 convolution mixes channels. The default is the
    paper's network for CIFAR-10.
    """
    b.draw(conv="torch", linear="torch")
    channels, side = _checks.width("width", width), _checks.width("patch", patch)
    window, blocks = _checks.width("kernel", kernel), _checks.width("depth", depth)
    b.conv("0", channels, side, stride=side)
    _activated(b, "1", "2")
    for position in range(3, 3 + blocks):
        before, name = b.here(), f"{position}.0.fn"
        b.conv(f"{name}.0", channels, window, padding="SAME", groups=channels)
        _activated(b, f"{name}.1", f"{name}.2")
        b.add(f"{position}.0.add", before)
        b.conv(f"{position}.1", channels, 1)
        _activated(b, f"{position}.2", f"{position}.3")
    b.global_avg_pool(f"{blocks + 3}")
    b.flatten(f"{blocks + 4}")
    b.linear(f"{blocks + 5}", outputs)


def _activated(b: Build, gelu: str, norm: str) -> None:
    b.activation(gelu, "gelu")
    b.batch_norm(norm)
