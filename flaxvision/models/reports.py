"""The reports' networks: A to E."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flaxvision.errors import UserError, check_choice
from flaxvision.models._checks import flag, width, widths

if TYPE_CHECKING:
    from flaxvision.models.build import Build

VGG19 = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # (channels, convolutions) of each block


# Fully connected layers: reports B2, C and E.


def linear(b: Build, outputs: int) -> None:
    """One linear layer (reports C1 and C2)."""
    b.linear("layers.0", outputs)


def polar_linear(b: Build, outputs: int) -> None:
    """Points (x, y) to (r, phi), then one linear layer (report C1)."""
    b.polar("layers.0")
    b.linear("layers.1", outputs)


def mlp(
    b: Build,
    outputs: int,
    hidden: tuple[int, ...] = (256, 512),
    activation: str = "relu",
    batch_norm: bool = False,
    dropout: float = 0.0,
) -> None:
    """Hidden layers of the given widths, each with BatchNorm (if asked for), activation, dropout (reports B2, C, E)."""
    stack = "layers" if len(b.shape) == 1 else "linear_relu_stack"
    position = 0
    features_of = widths("hidden", hidden)
    if not features_of and (activation != "relu" or batch_norm or dropout):
        raise UserError("activation, batch_norm and dropout have no effect without hidden layers: leave them out")

    def name() -> str:
        nonlocal position
        position += 1
        return f"{stack}.{position - 1}"

    for features in features_of:
        b.linear(name(), features)
        if flag("batch_norm", batch_norm):
            b.batch_norm(name())
        b.activation(name(), activation)
        if dropout:
            b.dropout(name(), dropout)
    b.linear(name(), outputs)


# Convolutional classifiers: reports A, B and C2.


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


# An encoder of handwritten characters with a predictor or a decoder: report D.


def _encoder(b: Build, inner_activation: str) -> None:
    b.conv("encoder.0", 4, 3)
    b.activation("encoder.1", "relu")
    b.conv("encoder.2", 8, 3, stride=2)
    b.activation("encoder.3", "relu")
    b.conv("encoder.4", 16, 3, stride=2)
    _inner(b, "encoder.4", inner_activation)
    b.max_pool("encoder.5", 3, stride=1)
    b.conv("encoder.6", 32, 3)
    b.activation("encoder.7", "sigmoid")


def _inner(b: Build, after: str, activation: str) -> None:
    # The report prints no activation here; other solutions of the assignment have a ReLU. The names do not shift.
    if activation != "identity":
        b.activation(f"{after}_{activation}", activation)


def emnist_cnn(b: Build, outputs: int, hidden: int = 64, inner_activation: str = "identity") -> None:
    """Report D's classifier: the encoder, then a predictor with `hidden` units.

    `inner_activation` stands after the third convolution: "identity" as printed, or "relu".
    """
    _encoder(b, inner_activation)
    b.linear("predictor.0", width("hidden", hidden))
    b.activation("predictor.1", "relu")
    b.linear("predictor.2", outputs)


def emnist_autoencoder(b: Build, outputs: int | None = None, inner_activation: str = "identity") -> None:
    """Report D's autoencoder: the encoder, then transposed convolutions back to the image, in [0, 1].

    `inner_activation` stands after the third convolution and after the third transposed one.
    """
    _encoder(b, inner_activation)
    b.conv_transpose("decoder.0", 16, 3)
    b.activation("decoder.1", "relu")
    b.conv_transpose("decoder.2", 8, 3)
    b.activation("decoder.3", "relu")
    b.conv_transpose("decoder.4", 8, 3, stride=2)
    _inner(b, "decoder.4", inner_activation)
    b.conv_transpose("decoder.5", 4, 3)
    b.activation("decoder.6", "relu")
    b.conv_transpose("decoder.7", b.input_shape[-1], 4, stride=2)
    b.activation("decoder.8", "sigmoid")
