"""Networks by name, the reports' and those that the field knows; and `create`, which also takes one's own function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flaxvision import _own_code
from flaxvision.errors import unknown
from flaxvision.models import (
    _from_torch,
    convmixer,
    densenet,
    lenet,
    mobilenet,
    preactivated,
    reports,
    residual,
    speedruns,
    vgg,
)
from flaxvision.runtime import on_host, same_draws

if TYPE_CHECKING:
    from flaxvision.layers import Chain

# name -> (function that grows the chain, default shape of one example, default number of outputs)
MODELS: dict[str, tuple[Callable[..., None], tuple[int, ...], int]] = {
    "linear": (reports.linear, (28, 28, 1), 10),
    "polar_linear": (reports.polar_linear, (2,), 1),
    "mlp": (reports.mlp, (28, 28, 1), 10),
    "wide_cnn": (reports.wide_cnn, (28, 28, 1), 10),
    "mnist_net": (reports.mnist_net, (28, 28, 1), 10),
    "strided_cnn": (reports.strided_cnn, (28, 28, 1), 10),
    "vgg19": (reports.vgg19, (32, 32, 3), 10),
    "tiny_cnn": (reports.tiny_cnn, (28, 28, 1), 10),
    "emnist_cnn": (reports.emnist_cnn, (28, 28, 1), 47),
    "emnist_autoencoder": (reports.emnist_autoencoder, (28, 28, 1), 47),
    "lenet5": (lenet.lenet5, (28, 28, 1), 10),
    "resnet9": (speedruns.resnet9, (32, 32, 3), 10),
    "resnet20": (residual.resnet20, (32, 32, 3), 10),
    "resnet32": (residual.resnet32, (32, 32, 3), 10),
    "resnet44": (residual.resnet44, (32, 32, 3), 10),
    "resnet56": (residual.resnet56, (32, 32, 3), 10),
    "preact_resnet18": (preactivated.preact_resnet18, (32, 32, 3), 10),
    "wide_resnet": (preactivated.wide_resnet, (32, 32, 3), 10),
    "densenet": (densenet.densenet, (32, 32, 3), 10),
    "convmixer": (convmixer.convmixer, (32, 32, 3), 10),
    "airbench94": (speedruns.airbench94, (32, 32, 3), 10),
    "resnet18": (residual.resnet18, (224, 224, 3), 1000),
    "resnet34": (residual.resnet34, (224, 224, 3), 1000),
    "resnet50": (residual.resnet50, (224, 224, 3), 1000),
    "vgg11": (vgg.vgg11, (224, 224, 3), 1000),
    "vgg13": (vgg.vgg13, (224, 224, 3), 1000),
    "vgg16": (vgg.vgg16, (224, 224, 3), 1000),
    "mobilenet_v2": (mobilenet.mobilenet_v2, (224, 224, 3), 1000),
}

# What the arguments of the package's networks mean; which of them has which, and its default, their functions say.
ARGUMENTS = {
    "activation": "the function between layers, such as relu, tanh or gelu",
    "batch_norm": "BatchNorm after each hidden layer, or in a VGG after each convolution",
    "bottleneck": "DenseNet-BC: 1 x 1 convolutions before the 3 x 3 ones, and transitions that halve the channels",
    "depth": "how many layers (wide_resnet, densenet) or blocks (convmixer) there are",
    "dropout": "share of values that dropout leaves out in training",
    "growth": "channels that each layer of a block adds",
    "hidden": "widths of the linear layers before the last one; of emnist_cnn a single width",
    "inner_activation": "after the third convolution: 'identity' as the report prints it, or 'relu'",
    "kernel": "side of the depthwise convolutions",
    "padding": "of the convolutions: 'SAME' as in report A's PyTorch part, or 'VALID' as in its Keras part",
    "patch": "side of the patches in pixels",
    "pool": "max-pooling after the convolution",
    "pooled": "rows and columns to which the last maps are pooled; for CIFAR-10 give 1",
    "shortcut": "'A': subsample and pad with zeros, without parameters; 'B': a 1 x 1 convolution and BatchNorm",
    "stem": "'imagenet' as published, or 'cifar' for small images: a first convolution without stride and max-pool",
    "width": "channels of the first stage; of convmixer of all; of wide_resnet the factor of 16, 32 and 64 channels",
    "width_factor": "factor of all channels",
}


def list_models() -> list[str]:
    """The names that `create` knows."""
    return list(MODELS)


def create(
    name: str | Callable[..., object],
    *,
    input_shape: tuple[int, ...] | None = None,
    num_classes: int | None = None,
    seed: int = 0,
    init: str | None = None,
    **arguments: Any,
) -> Chain:
    """A network by name, with freshly drawn parameters.

    Args:
        name: One of `list_models()`, or "package.module:function" or "file.py:function", a function of your own that
            is called as `function(build, outputs, **arguments)` with a `flaxvision.models.Build` and adds layers to it;
            such a function itself; or "torch:file.py:Class", a class of `torch.nn.Module`, or what makes one, see
            `from_torch`.
        input_shape: Shape of one example, (H, W, C) or (D,); None for the report's or paper's.
        num_classes: Number of outputs (1 for binary cross-entropy); None for the report's or paper's.
        seed: Seed of the initial parameters.
        init: Whose initialization to use: the network's own (None: that of its paper or of torchvision; Flax's for the
            reports' networks and your own), or a framework's default, "flax", "torch" or "keras"; of a network in
            PyTorch "torch" (None), or "module" for what its own code makes under this seed.
        **arguments: What the network takes beside that, such as `hidden`, `width`, `depth`, `stem` and `dropout`; of a
            network in PyTorch what its class takes, where `num_classes` is filled in.

    Returns:
        The chain of layers.

    Raises:
        UserError: For an unknown name or argument, and for examples that the network does not fit.
    """
    if not isinstance(name, str):
        name = f"{name.__module__}:{name.__qualname__}"
    refresh(name)
    return grown(name, input_shape=input_shape, num_classes=num_classes, seed=seed, init=init, **arguments)


def grown(
    name: str,
    *,
    input_shape: tuple[int, ...] | None = None,
    num_classes: int | None = None,
    seed: int = 0,
    init: str | None = None,
    **arguments: Any,
) -> Chain:
    """`create` by the code that is imported, though its file may have changed since."""
    from flaxvision.models.build import Build

    if name.startswith(_from_torch.PREFIX):
        return _from_torch.grown(name, input_shape or (32, 32, 3), num_classes, seed, init or "torch", arguments)
    grow, shape, outputs = MODELS[name] if name in MODELS else (_imported(name), (28, 28, 1), 10)
    allowed = argument_names(name)
    for given in arguments:
        if allowed is not None and given not in allowed:
            raise unknown(f"size of {name}", given, allowed or ["(none)"])
    with on_host(), same_draws():
        build = Build(name, tuple(input_shape or shape), seed=seed, init=init or "own")
        grow(build, num_classes or outputs, **{key: _hashable(value) for key, value in arguments.items()})
        return build.network()


def argument_names(name: str) -> list[str] | None:
    """The arguments that a network takes beside shape, classes, seed and `init`; None where its function takes any."""
    if name.startswith(_from_torch.PREFIX):
        return _from_torch.argument_names(name)
    grow = MODELS[name][0] if name in MODELS else _imported(name)
    parameters = list(inspect.signature(grow).parameters.values())[2:]
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters]


@functools.cache
def all_argument_names() -> tuple[str, ...]:
    """The arguments that any network of the package takes."""
    return tuple(dict.fromkeys(argument for name in MODELS for argument in argument_names(name) or ()))


def code_of(name: str) -> dict[str, str] | None:
    """A checksum of each part of one's own that the network's function runs; None for a network of the package."""
    if name in MODELS:
        return None
    if name.startswith(_from_torch.PREFIX):
        return _from_torch.code_of(name)
    _imported(name)
    return _own_code.code_of("model", name)


def numbers_of(name: str, outputs: int, arguments: Mapping[str, Any]) -> str | None:
    """A checksum of the weights with which a network's own code begins, where a trial takes those."""
    if not name.startswith(_from_torch.PREFIX) or arguments.get("init") != "module":
        return None
    return _from_torch.numbers_of(name, outputs, {key: value for key, value in arguments.items() if key != "init"})


def refresh(name: str) -> None:
    """Import the module of a network of one's own again where a file that it is made of has changed since."""
    if ":" in name:
        _own_code.refresh(name.removeprefix(_from_torch.PREFIX))


def _imported(name: str) -> Callable[..., None]:
    if ":" not in name:
        raise unknown("model", name, [*MODELS, "package.module:function"])
    return _own_code.import_function("model", name)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
