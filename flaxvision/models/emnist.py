"""Report D's networks: an encoder of handwritten characters with a predictor or a decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flaxvision.models._checks import width

if TYPE_CHECKING:
    from flaxvision.models.build import Build


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
