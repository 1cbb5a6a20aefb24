"""Residual networks that normalize and activate before they convolve: PreAct ResNet-18 and wide ResNets, for CIFAR."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flaxvision.models import _checks

if TYPE_CHECKING:
    from flaxvision.models.build import Build


def preact_resnet18(b: Build, outputs: int, width: int = 64) -> None:
    """ResNet-18 with pre-activation, for CIFAR (He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016).

    `width` is the number of channels of the first stage.
    """
    first = _checks.width("width", width)
    b.draw(conv="kaiming_fan_out", linear="torch")
    b.conv("conv1", first, 3, padding=1, bias=False)
    for stage in range(4):
        for number in range(2):
            stride = 2 if stage and not number else 1
            _block(b, f"layer{stage + 1}.{number}", first * 2**stage, stride, "shortcut.0", 0.0)
    _end(b, "bn", "linear", outputs)


def wide_resnet(b: Build, outputs: int, depth: int = 28, width: int = 10, dropout: float = 0.0) -> None:
    """Wide ResNet for CIFAR (Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016): WRN-`depth`-`width`.

    Three stages of 16, 32 and 64 channels, times `width`; `dropout` stands between the two convolutions of a block.
    """
    blocks, factor = _checks.depth(depth, fixed=4, block=6), _checks.width("width", width)
    b.draw(conv="kaiming_fan_out", linear="torch_kernel")
    b.conv("conv1", 16, 3, padding=1, bias=False)
    for stage in range(3):
        for number in range(blocks):
            stride = 2 if stage and not number else 1
            name = f"block{stage + 1}.layer.{number}"
            _block(b, name, 16 * factor * 2**stage, stride, "convShortcut", dropout)
    _end(b, "bn1", "fc", outputs)


def _block(b: Build, name: str, features: int, stride: int, shortcut: str, dropout: float) -> None:
    before = b.here()
    b.batch_norm(f"{name}.bn1")
    activated = b.activation(f"{name}.relu1", "relu")
    b.conv(f"{name}.conv1", features, 3, stride=stride, padding=1, bias=False)
    b.batch_norm(f"{name}.bn2")
    b.activation(f"{name}.relu2", "relu")
    if dropout:
        b.dropout(f"{name}.dropout", dropout)
    inner = b.conv(f"{name}.conv2", features, 3, padding=1, bias=False)
    if stride > 1 or before.shape[-1] != features:  # then the shortcut is activated, too
        b.back_to(activated)
        before = b.conv(f"{name}.{shortcut}", features, 1, stride=stride, bias=False)
    b.back_to(inner)
    b.add(f"{name}.add", before)


def _end(b: Build, norm: str, linear: str, outputs: int) -> None:
    b.batch_norm(norm)
    b.activation("relu", "relu")
    b.global_avg_pool("avgpool")
    b.linear(linear, outputs)
