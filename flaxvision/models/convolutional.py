"""Convolutional classifiers: reports A, B and C2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flaxvision.errors import check_choice
from flaxvision.models._checks import flag

if TYPE_CHECKING:
    from flaxvision.models.build import Build

VGG19 = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # (channels, convolutions) of each block


def wide_cnn(b: Build, outputs: int, padding: str = "SAME") -> None:
    """Report A's network: "SAME" as its PyTorch part, "VALID" as its Keras part (ReLU between the dense layers)."""
    check_choice("padding", padding, ("SAME", "VALID"))
    pad = 2 if padding == "SAME" else 0
    for position, features in ((0, 32), (3, 64)):
        b.conv(f"convnet.{position}", features, 5, padding=pad)
        b.activation(f"convnet.{position + 1}", "relu")
        b.max_pool(f"convnet.{position + 2}", 2)
    b.linear("fc.0", 1024)
    if padding == "VALID":
        b.activation("fc_relu", "relu")
    b.linear("fc.1", outputs)


def mnist_net(b: Build, outputs: int, dropout: float = 0.25) -> None:
    """Report B1's network: two blocks of convolution, BatchNorm, ReLU, max-pool and dropout, two linear layers."""
    for position, features in enumerate((8, 16)):
        b.conv(f"conv{position}", features, 3, padding=1)
        b.batch_norm(f"conv{position}_bn")
        b.activation(f"relu{position}", "relu")
        b.max_pool(f"pool{position}", 2)
        if dropout:
            b.dropout(f"dropout{position}", dropout)
    b.linear("fc", 256)
    b.activation("fc_relu", "relu")
    b.linear("fc1", outputs)


def strided_cnn(b: Build, outputs: int, pool: bool = False) -> None:
    """Report B2's smallest convolutional network: one strided convolution, with or without a max-pool."""
    b.conv("conv0", 8, 6, stride=2)
    b.batch_norm("conv0_bn")
    b.activation("relu0", "relu")
    if flag("pool", pool):
        b.max_pool("pool0", 2)
    b.linear("fc", outputs)


def vgg19(b: Build, outputs: int) -> None:
    """VGG-19 with BatchNorm and report B3's head (Simonyan and Zisserman, ICLR 2015; names as in torchvision)."""
    position = 0
    for features, convolutions in VGG19:
        for _ in range(convolutions):
            b.conv(f"features.{position}", features, 3, padding=1)
            b.batch_norm(f"features.{position + 1}")
            b.activation(f"features.{position + 2}", "relu")
            position += 3
        b.max_pool(f"features.{position}", 2)
        position += 1
    b.linear("classifier.0", 512)
    b.activation("classifier.1", "relu")
    b.linear("classifier.2", 128)
    b.activation("classifier.3", "relu")
    b.linear("classifier.4", outputs)


def tiny_cnn(b: Build, outputs: int) -> None:
    """Report C2's convolutional network: three convolutions, a maximum over the map, one linear layer."""
    for position, features in ((0, 8), (3, 16), (6, 32)):
        b.conv(f"layers.{position}", features, 3)
        b.activation(f"layers.{position + 1}", "relu")
        if position < 6:
            b.max_pool(f"layers.{position + 2}", 2)
    b.global_max_pool("layers.8")
    b.linear("classifier.0", outputs)
