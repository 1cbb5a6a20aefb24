"""Small networks that were made to reach 94 % on CIFAR-10 fast: Page's ResNet-9 and Jordan's airbench94."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flaxvision.models._checks import width as checked_width
from flaxvision.models.residual import convolve

if TYPE_CHECKING:
    from flaxvision.models.build import Build


def resnet9(b: Build, outputs: int, width: int = 64) -> None:
    """ResNet-9 (Page, "How to Train Your ResNet", 2018), under the names of its code; `width` is that of `prep`."""
    b.draw(conv="torch", linear="torch")
    features = checked_width("width", width)
    _normalized(b, "prep", features)
    for number in (1, 2, 3):
        name = f"layer{number}"
        _normalized(b, name, features * 2**number)
        before = b.max_pool(f"{name}.pool", 2)
        if number != 2:
            for part in ("res1", "res2"):
                _normalized(b, f"{name}.residual.{part}", before.shape[-1])
            b.add(f"{name}.residual.add", before)
    b.global_max_pool("pool")
    b.flatten("flatten")
    b.linear("linear", outputs, bias=False)
    b.affine("classifier", 0.125)


def airbench94(b: Build, outputs: int, width: int = 64) -> None:
    """The network of airbench94 (Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024), by its code's names.

    Its first layer is to whiten 2 x 2 patches: its weights are set from the data and frozen ("0.kernel"), as are the
    scales of BatchNorm ("2.norm1.scale" and so on); those of the other convolutions begin as the identity. `width` is
    that of the first group.
    """
    b.draw(conv="torch_kernel", linear="torch_kernel")
    features = checked_width("width", width)
    b.conv("0", 2 * 4 * b.shape[-1], 2)  # each direction of a patch, and its negative
    b.activation("1", "gelu")
    b.draw(conv="identity")
    for position, channels in ((2, features), (3, 4 * features), (4, 4 * features)):
        for number in (1, 2):
            b.conv(f"{position}.conv{number}", channels, 3, padding=1, bias=False)
            if number == 1:
                b.max_pool(f"{position}.pool", 2)
            b.batch_norm(f"{position}.norm{number}", momentum=0.6, epsilon=1e-12)
            b.activation(f"{position}.activ{number}", "gelu")
    b.global_max_pool("5")
    b.flatten("6")
    b.linear("7", outputs, bias=False)
    b.affine("8", 1 / 9)


def _normalized(b: Build, name: str, features: int) -> None:
    convolve(b, f"{name}.conv", f"{name}.bn", features, 3)
    b.activation(f"{name}.relu", "relu")
