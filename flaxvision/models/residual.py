"""Residual networks of He et al.: those of ImageNet under torchvision's names, and those of CIFAR-10."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flaxvision.errors import check_choice
from flaxvision.models._checks import width as checked_width

if TYPE_CHECKING:
    from flaxvision.models.build import Build, Value

STEMS = ("imagenet", "cifar")
SHORTCUTS = ("A", "B")


def resnet18(b: Build, outputs: int, stem: str = "imagenet", width: int = 64) -> None:
    """ResNet-18 (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016), as torchvision has it.

    `stem` "cifar" begins with one 3 x 3 convolution of stride 1 in place of the 7 x 7 one and the max-pool; `width` is
    the number of channels of the first stage.
    """
    _imagenet(b, outputs, (2, 2, 2, 2), stem, width)


def resnet34(b: Build, outputs: int, stem: str = "imagenet", width: int = 64) -> None:
    """ResNet-34; see `resnet18`."""
    _imagenet(b, outputs, (3, 4, 6, 3), stem, width)


def resnet50(b: Build, outputs: int, stem: str = "imagenet", width: int = 64) -> None:
    """ResNet-50, whose blocks are bottlenecks; see `resnet18`.

    They stride in the 3 x 3 convolution, as torchvision's do; the paper's stride in the 1 x 1 convolution before it.
    """
    _imagenet(b, outputs, (3, 4, 6, 3), stem, width, expansion=4)


def resnet20(b: Build, outputs: int, shortcut: str = "A") -> None:
    """ResNet-20 for CIFAR-10 (section 4.2 of the same paper): three stages of 16, 32 and 64 channels.

    `shortcut` "A", which the paper uses there, subsamples where a stage begins and pads channels with zeros, without
    parameters; "B" has a 1 x 1 convolution and BatchNorm instead.
    """
    _cifar(b, outputs, 3, shortcut)


def resnet32(b: Build, outputs: int, shortcut: str = "A") -> None:
    """ResNet-32 for CIFAR-10; see `resnet20`."""
    _cifar(b, outputs, 5, shortcut)


def resnet44(b: Build, outputs: int, shortcut: str = "A") -> None:
    """ResNet-44 for CIFAR-10; see `resnet20`."""
    _cifar(b, outputs, 7, shortcut)


def resnet56(b: Build, outputs: int, shortcut: str = "A") -> None:
    """ResNet-56 for CIFAR-10; see `resnet20`."""
    _cifar(b, outputs, 9, shortcut)


def begin(b: Build, stem: str, features: int) -> None:
    """A network's first layers, up to the maps of its first stage; also those of DenseNet look like this."""
    check_choice("stem", stem, STEMS)
    if stem == "cifar":
        convolve(b, "conv1", "bn1", features, 3)
        b.activation("relu", "relu")
        return
    convolve(b, "conv1", "bn1", features, 7, stride=2)
    b.activation("relu", "relu")
    b.max_pool("maxpool", 3, 2, padding=1)


def convolve(b: Build, conv: str, norm: str, features: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
    """A convolution that keeps the side of its maps (over `stride`), and BatchNorm."""
    b.conv(conv, features, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    b.batch_norm(norm)


def _imagenet(b: Build, outputs: int, blocks: tuple[int, ...], stem: str, width: int, *, expansion: int = 1) -> None:
    b.draw(conv="kaiming_fan_out", linear="torch")
    first = checked_width("width", width)
    begin(b, stem, first)
    for stage, count in enumerate(blocks):
        for number in range(count):
            stride = 2 if stage and not number else 1
            _block(b, f"layer{stage + 1}.{number}", first * 2**stage, stride, expansion, "B")
    b.global_avg_pool("avgpool")
    b.linear("fc", outputs)


def _cifar(b: Build, outputs: int, blocks: int, shortcut: str) -> None:
    check_choice("shortcut", shortcut, SHORTCUTS)
    b.draw(conv="kaiming_fan_out", linear="torch")
    begin(b, "cifar", 16)
    for stage in range(3):
        for number in range(blocks):
            stride = 2 if stage and not number else 1
            _block(b, f"layer{stage + 1}.{number}", 16 * 2**stage, stride, 1, shortcut)
    b.global_avg_pool("avgpool")
    b.linear("fc", outputs)


def _block(b: Build, name: str, features: int, stride: int, expansion: int, shortcut: str) -> None:
    """Two 3 x 3 convolutions, or (`expansion` over 1) a 3 x 3 one between two of 1 x 1; and the shortcut round them."""
    before, after = b.here(), features * expansion
    kernels = (3, 3) if expansion == 1 else (1, 3, 1)
    strided = kernels.index(3)
    for number, kernel in enumerate(kernels):
        last = number == len(kernels) - 1
        convolve(
            b,
            f"{name}.conv{number + 1}",
            f"{name}.bn{number + 1}",
            after if last else features,
            kernel,
            stride=stride if number == strided else 1,
        )
        if not last:
            b.activation(f"{name}.relu{number + 1}", "relu")
    inner = b.here()
    if stride > 1 or before.shape[-1] != after:
        b.back_to(before)
        before = _projected(b, name, after, stride) if shortcut == "B" else _padded(b, name, after, stride)
    b.back_to(inner)
    b.add(f"{name}.add", before)
    b.activation(f"{name}.relu", "relu")


def _projected(b: Build, name: str, features: int, stride: int) -> Value:
    convolve(b, f"{name}.downsample.0", f"{name}.downsample.1", features, 1, stride=stride)
    return b.here()


def _padded(b: Build, name: str, features: int, stride: int) -> Value:
    kept = b.avg_pool(f"{name}.subsample", 1, stride)
    zeros = b.affine(f"{name}.zeros", 0.0)  # as many as there are channels: each stage doubles them
    b.back_to(kept)
    return b.concat(f"{name}.shortcut", *[zeros] * (features // kept.shape[-1] - 1))
