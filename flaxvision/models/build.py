"""Grows a chain layer by layer, following the shape of one example, so that a misfit is caught before any training."""

from __future__ import annotations

import math

from flax import nnx

from flaxvision.errors import UserError, check_choice
from flaxvision.layers import (
    Activation,
    AvgPool,
    BatchNorm,
    Chain,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GlobalMaxPool,
    MaxPool,
    PolarTransform,
)
from flaxvision.layers.initializers import INITS, kernel_and_bias

Padding = str | int


def width(what: str, value: object) -> int:
    """`value` as the width of a layer, or an error that names it `what`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{what} is {value!r}: give a whole number, 1 or more")
    return value


def flag(what: str, value: object) -> bool:
    """`value` as true or false, or an error that names it `what`."""
    if not isinstance(value, bool):
        raise UserError(f"{what} is {value!r}: give true or false")
    return value


def widths(what: str, value: object) -> tuple[int, ...]:
    """`value` as the widths of several layers, or an error that names it `what`."""
    if not isinstance(value, (tuple, list)):
        raise UserError(f"{what} is {value!r}: give a list of widths, such as [256, 512]")
    return tuple(width(what, item) for item in value)


class Build:
    """A chain under construction.

    Args:
        kind: Name of the network, for files and errors.
        input_shape: Shape of one example, (H, W, C) or (D,).
        seed: Seed of the initial parameters.
        init: Framework whose default initialisation to use: "flax", "torch" or "keras".
    """

    def __init__(self, kind: str, input_shape: tuple[int, ...], *, seed: int = 0, init: str = "flax"):
        check_choice("init", init, INITS)
        self.kind = kind
        self.input_shape = self.shape = tuple(input_shape)
        self.init = init
        self.rngs = nnx.Rngs(seed)
        self.layers: list[tuple[str, nnx.Module]] = []

    def linear(self, name: str, features: int) -> None:
        """Add a fully connected layer; a map is flattened first."""
        if len(self.shape) != 1:
            self.flatten("flatten" if not any(n == "flatten" for n, _ in self.layers) else f"{name}_flatten")
        (fan_in,) = self.shape
        layer = nnx.Linear(fan_in, features, rngs=self.rngs, **kernel_and_bias(self.init, fan_in))
        self._add(name, layer, (features,))

    def conv(self, name: str, features: int, kernel: int, *, stride: int = 1, padding: Padding = 0) -> None:
        """Add a square convolution; `padding` is "SAME", "VALID" or a count of pixels on each side."""
        height, width, channels = self._map(name)
        size = (kernel, kernel)
        if padding == "SAME":
            sides = [-(-side // stride) for side in (height, width)]
        else:
            pad = 0 if padding == "VALID" else int(padding)
            sides = [(side + 2 * pad - kernel) // stride + 1 for side in (height, width)]
        layer = nnx.Conv(
            channels,
            features,
            size,
            strides=(stride, stride),
            padding=padding if isinstance(padding, str) else ((padding, padding), (padding, padding)),
            rngs=self.rngs,
            **kernel_and_bias(self.init, channels * kernel**2),
        )
        self._add(name, layer, (*sides, features))

    def conv_transpose(self, name: str, features: int, kernel: int, *, stride: int = 1) -> None:
        """Add a square transposed convolution without padding: side (n - 1) * stride + kernel, as in PyTorch."""
        height, width, channels = self._map(name)
        layer = nnx.ConvTranspose(
            channels,
            features,
            (kernel, kernel),
            strides=(stride, stride),
            padding="VALID",
            transpose_kernel=True,
            rngs=self.rngs,
            **kernel_and_bias(self.init, features * kernel**2),
        )
        self._add(name, layer, (*((side - 1) * stride + max(kernel, stride) for side in (height, width)), features))

    def max_pool(self, name: str, window: int, stride: int | None = None) -> None:
        """Add a square max-pool; `stride` defaults to the window."""
        height, width, channels = self._map(name)
        step = stride or window
        shape = tuple((side - window) // step + 1 for side in (height, width))
        self._add(name, MaxPool(window, step), (*shape, channels))

    def avg_pool(self, name: str, window: int, stride: int | None = None) -> None:
        """Add a square mean-pool; `stride` defaults to the window."""
        height, width, channels = self._map(name)
        step = stride or window
        shape = tuple((side - window) // step + 1 for side in (height, width))
        self._add(name, AvgPool(window, step), (*shape, channels))

    def global_avg_pool(self, name: str) -> None:
        """Add a mean over the whole map."""
        self._add(name, GlobalAvgPool(), (1, 1, self._map(name)[2]))

    def global_max_pool(self, name: str) -> None:
        """Add a maximum over the whole map."""
        self._add(name, GlobalMaxPool(), (1, 1, self._map(name)[2]))

    def batch_norm(self, name: str) -> None:
        """Add batch normalisation over the last axis."""
        self._add(name, BatchNorm(self.shape[-1]), self.shape)

    def activation(self, name: str, kind: str) -> None:
        """Add an activation by its name."""
        self._add(name, Activation(kind), self.shape)

    def dropout(self, name: str, rate: float) -> None:
        """Add dropout with probability `rate`."""
        self._add(name, Dropout(rate), self.shape)

    def flatten(self, name: str) -> None:
        """Flatten the map."""
        self._add(name, Flatten(), (math.prod(self.shape),))

    def polar(self, name: str) -> None:
        """Add the transform of points (x, y) to (r, phi)."""
        if self.shape != (2,):
            raise UserError(f"{self.kind} takes points of shape (2,), not {self.shape}: use a data set of 2-D points")
        self._add(name, PolarTransform(), (2,))

    def chain(self) -> Chain:
        """The chain as built."""
        return Chain(self.layers, input_shape=self.input_shape, kind=self.kind)

    def _map(self, name: str) -> tuple[int, int, int]:
        if len(self.shape) != 3:
            raise UserError(
                f"{self.kind} does not fit examples of shape {self.input_shape}: layer {name!r} needs a map (H, W, C)"
            )
        return self.shape[0], self.shape[1], self.shape[2]

    def _add(self, name: str, layer: nnx.Module, shape: tuple[int, ...]) -> None:
        if min(shape) < 1:
            raise UserError(
                f"{self.kind} does not fit examples of shape {self.input_shape}: layer {name!r} would turn a map of "
                f"{self.shape} into {shape}; use larger images or a smaller network"
            )
        self.layers.append((name, layer))
        self.shape = shape
