"""The networks of `flaxvision.models` in PyTorch, written by hand under their own module names.

They know nothing of the layer table that the exporters share, so that a mistake of the table cannot hide: each loads
our exported `state_dict` strictly and must give the same outputs. Inputs are (N, C, H, W) or (N, D).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from export.references import reports
from export.references.convmixer import ConvMixer
from export.references.densenet import DenseNet
from export.references.mobilenet import MobileNetV2
from export.references.preactivated import PreActResNet, WideResNet
from export.references.residual import BasicBlock, Bottleneck, CifarResNet, ResNet
from export.references.small import Airbench94, LeNet5, ResNet9
from export.references.vgg import VGG
from flaxvision.errors import unknown

__all__ = ["reference"]

Shape = tuple[int, ...]  # of one example, (H, W, C) or (D,)
Maker = Callable[..., nn.Module]  # of the shape, the outputs and the network's own arguments


def _of_channels(network: Maker, *fixed: Any) -> Maker:
    """A maker of `network(channels, outputs, *fixed, **arguments)`."""
    return lambda shape, outputs, **arguments: network(shape[-1], outputs, *fixed, **arguments)


def _of_outputs(network: Maker) -> Maker:
    """A maker of `network(outputs=outputs, **arguments)`."""
    return lambda shape, outputs, **arguments: network(outputs=outputs, **arguments)


def _mlp(shape: Shape, outputs: int, **arguments: Any) -> nn.Module:
    network = reports.PlanarNetwork if len(shape) == 1 else reports.NeuralNetwork
    return network(math.prod(shape), outputs=outputs, **arguments)


MADE: dict[str, Maker] = {
    "linear": lambda shape, outputs: reports.Linear(math.prod(shape), outputs),
    "polar_linear": _of_outputs(reports.PolarLinear),
    "mlp": _mlp,
    "wide_cnn": _of_outputs(reports.WideCNN),
    "mnist_net": _of_outputs(reports.MNISTNet),
    "strided_cnn": _of_outputs(reports.StridedCNN),
    "vgg19": _of_outputs(reports.VGG19),
    "tiny_cnn": _of_outputs(reports.TinyCNN),
    "emnist_cnn": _of_outputs(reports.EMNISTNet),
    "emnist_autoencoder": lambda shape, outputs, **arguments: reports.Autoencoder(**arguments),
    "lenet5": LeNet5,
    "resnet9": _of_channels(ResNet9),
    "resnet20": _of_channels(CifarResNet, 20),
    "resnet32": _of_channels(CifarResNet, 32),
    "resnet44": _of_channels(CifarResNet, 44),
    "resnet56": _of_channels(CifarResNet, 56),
    "preact_resnet18": _of_channels(PreActResNet),
    "wide_resnet": _of_channels(WideResNet),
    "densenet": _of_channels(DenseNet),
    "convmixer": _of_channels(ConvMixer),
    "airbench94": _of_channels(Airbench94),
    "resnet18": _of_channels(ResNet, BasicBlock, (2, 2, 2, 2)),
    "resnet34": _of_channels(ResNet, BasicBlock, (3, 4, 6, 3)),
    "resnet50": _of_channels(ResNet, Bottleneck, (3, 4, 6, 3)),
    "vgg11": _of_channels(VGG, (1, 1, 2, 2, 2)),
    "vgg13": _of_channels(VGG, (2, 2, 2, 2, 2)),
    "vgg16": _of_channels(VGG, (2, 2, 3, 3, 3)),
    "mobilenet_v2": _of_channels(MobileNetV2),
}


def reference(name: str, *, input_shape: Shape, num_classes: int, **arguments: Any) -> nn.Module:
    """The reference of a network of `flaxvision.models.create`, with the same arguments and PyTorch's own draw.

    Raises:
        UserError: For a name without a reference.

    >>> sum(p.numel() for p in reference("resnet20", input_shape=(32, 32, 3), num_classes=10).parameters())
    269722
    """
    if name not in MADE:
        raise unknown("reference", name, MADE)
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    return MADE[name](tuple(input_shape), num_classes, **given)
