"""Networks as they are drawn: every layer of `flaxvision.layers`, and blocks that branch, join and gate."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxvision.layers import (
    ACTIVATIONS,
    Activation,
    Add,
    Affine,
    AvgPool,
    BatchNorm,
    Carried,
    Concat,
    Conv,
    ConvTranspose,
    Divide,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GlobalMaxPool,
    GroupNorm,
    LayerNorm,
    Linear,
    MaxPool,
    Multiply,
    Network,
    Node,
    Pad,
    PolarTransform,
    PReLU,
    Rearrange,
    Resize,
    Scale,
    SpatialDropout,
    Subtract,
    Upsample,
)
from flaxvision.layers.convolution import aborts_xla

LARGEST_SIDE = 24  # of a map, in pixels
LARGEST_WIDTH = 64  # of a map that is rearranged, in channels


class _Drawn:
    """A network as it is drawn, with parameters of bounded gain: each layer about keeps the size of its input."""

    def __init__(self, random: np.random.Generator, shape: tuple[int, ...]):
        self.random = random
        self.input_shape = self.shape = shape
        self.at: str | None = None  # name of the value at hand
        self.layers: list[tuple[str, Any]] = []
        self.nodes: list[Node] = []
        self.shapes: dict[str | None, tuple[int, ...]] = {None: shape}  # of the values, by name
        self.rngs = nnx.Rngs(0)  # what Flax's layers ask for; nothing is drawn from it

    def network(self) -> Network:
        network = Network(self.layers, input_shape=self.input_shape, kind="random", nodes=self.nodes)
        assert network.output_shape == self.shape, (network, self.shape)
        return network

    def add(self, layer: Any, shape: tuple[int, ...], *others: str | None) -> None:
        name = f"block{len(self.nodes) // 3}.{len(self.nodes)}"
        self.layers.append((name, layer))
        self.nodes.append(Node(name, name, (self.at, *others)))
        self.at, self.shape = name, shape
        self.shapes[name] = shape

    def again(self) -> None:
        """Apply the newest layer a second time, if it keeps the shape of one value."""
        node = self.nodes[-1] if self.nodes else None
        if node is not None and len(node.takes) == 1 and self.shapes[node.takes[0]] == self.shape:
            name = f"again{len(self.nodes)}"
            self.nodes.append(Node(name, node.layer, (self.at,)))
            self.at, self.shapes[name] = name, self.shape

    def either(self, *options: Any) -> Any:
        return options[self.random.integers(len(options))]

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def pair(self, low: int, high: int) -> tuple[int, int]:
        first, second = self.random.integers(low, high, 2)
        return int(first), int(second)

    # Parameters.

    def normal(self, deviation: float, mean: float = 0.0) -> Any:
        """Draws for a layer of Flax; its own initialisers compile a program for every shape."""

        def init(_: object, size: tuple[int, ...], dtype: Any = np.float32, **__: object) -> jax.Array:
            fan_in = 1 if len(size) == 1 else math.prod(size[:-1])
            drawn = mean + deviation * self.random.standard_normal(size) / math.sqrt(fan_in)
            return jnp.asarray(drawn.astype(np.float32), np.float32)  # without the type a program would copy it

        return init

    def weights(self) -> dict[str, Any]:
        use_bias = self.chance(0.7)
        draws = {"kernel_init": self.normal(1.2), "bias_init": self.normal(0.3)}
        return {**draws, "use_bias": use_bias, "rngs": self.rngs}

    # Layers that keep the shape.

    def batch_norm(self) -> BatchNorm:
        layer = BatchNorm(self.shape[-1], self.either(0.1, 0.5, 0.9), self.either(1e-5, 1e-3))
        return self._scaled(layer)

    def group_norm(self) -> Any:
        channels, whole = self.shape[-1], math.prod(self.shape)
        fitting = [n for n in range(1, channels + 1) if channels % n == 0 and whole > n]
        if not fitting:  # PyTorch refuses single values
            return self.batch_norm()
        return self._scaled(GroupNorm(self.either(*fitting), channels, self.either(1e-5, 1e-3)))

    def layer_norm(self) -> LayerNorm:
        return self._scaled(LayerNorm(self.shape[-1], self.either(1e-5, 1e-3)))

    def _scaled(self, layer: Any) -> Any:
        layer.scale[...] = self.normal(0.3, 1.0)(None, self.shape[-1:])
        layer.bias[...] = self.normal(0.3)(None, self.shape[-1:])
        return layer

    def activation(self) -> Any:
        function = self.either(*ACTIVATIONS)
        number = float(self.random.uniform(0.05, 1.5)) if ACTIVATIONS[function].number and self.chance(0.5) else None
        return Activation(function, number)

    def prelu(self) -> PReLU:
        layer = PReLU(self.either(1, self.shape[-1]))
        layer.slope[...] = self.normal(0.3, 0.2)(None, (layer.num_parameters,))
        return layer

    def affine(self) -> Affine:
        def number() -> Any:
            return self.random.uniform(-2, 2, None if self.chance(0.5) else self.shape[-1])

        return Affine(number(), number())

    def same(self) -> None:
        """Add a layer that keeps the shape."""
        makers = [self.batch_norm, self.group_norm, self.layer_norm, self.activation, self.activation]
        makers += [self.prelu, self.affine, lambda: Dropout(0.3)]
        if len(self.shape) == 3:
            makers += [lambda: SpatialDropout(0.3), self.same_conv, self.same_conv]
        self.add(self.either(*makers)(), self.shape)

    def same_conv(self) -> Conv:
        """A convolution that keeps the shape: plain, grouped, depthwise or dilated."""
        channels = self.shape[2]
        groups = self.either(1, 1, channels, *(n for n in range(2, channels) if channels % n == 0))
        dilation = self.either(1, 1, (2, 1), (2, 3))
        kernel = self.either((1, 1), (3, 3), (1, 3), (3, 2))
        settings = {"feature_group_count": groups, "kernel_dilation": dilation, "padding": "SAME"}
        return Conv(channels, channels, kernel, **settings, **self.weights())

    # Layers that change it.

    def conv(self) -> None:
        kernel, strides, width = self.pair(1, 8), self.pair(1, 4), int(self.random.integers(1, 9))
        explicit = tuple(tuple(map(int, pads)) for pads in self.random.integers(0, 4, (2, 2)))
        padding = self.either("SAME", "VALID", explicit)
        shape = self._sides("conv", kernel, strides, padding)
        if shape is not None:
            layer = Conv(self.shape[2], width, kernel, strides, padding=padding, **self.weights())
            self.add(layer, (*shape, width))

    def transpose(self) -> None:
        kernel, strides, width = self.pair(1, 8), self.pair(1, 4), int(self.random.integers(1, 9))
        padding: Any = self.either("SAME", "VALID")
        flip = self.chance(0.5)
        if self.chance(0.3):  # of the dilated input: from nothing to the whole kernel, as it comes
            padding = tuple((int(self.random.integers(0, k)), int(self.random.integers(0, k))) for k in kernel)
        shape = self._sides("transpose", kernel, strides, padding)
        if shape is not None:
            settings = {"padding": padding, "transpose_kernel": flip}
            layer = ConvTranspose(self.shape[2], width, kernel, strides, **settings, **self.weights())
            if not aborts_xla(layer, self.shape):
                self.add(layer, (*shape, width))

    def pool(self) -> None:
        window = self.pair(1, 8)
        strides = self.either(None, self.pair(1, 4))
        pixels = tuple(int(self.random.integers(0, side // 2 + 1)) for side in window)
        padding = self.either("SAME", "VALID", pixels)
        layer = self.either(MaxPool(window, strides, padding), AvgPool(window, strides, padding, self.chance(0.5)))
        explicit = padding if isinstance(padding, str) else tuple((pad, pad) for pad in padding)
        shape = self._sides("pool", window, layer.strides, explicit)
        if shape is not None:
            self.add(layer, (*shape, self.shape[2]))

    def upsample(self) -> None:
        scale = self.pair(1, 4)
        sides = [side * n for side, n in zip(self.shape[:2], scale, strict=True)]
        if max(sides) <= LARGEST_SIDE:
            self.add(Upsample(scale), (*sides, self.shape[2]))

    def globally(self) -> None:
        self.add(self.either(GlobalMaxPool, GlobalAvgPool)(), (1, 1, self.shape[2]))

    def _sides(self, kind: str, kernel: Any, strides: Any, padding: Any) -> tuple[int, ...] | None:
        """The sides that it gives, reckoned here and not by the library; None where it does not fit."""
        axes = enumerate(zip(self.shape[:2], kernel, strides, strict=True))
        sides = tuple(_side(kind, *of_axis, padding, axis) for axis, of_axis in axes)
        return sides if min(sides) >= 1 and max(sides) <= LARGEST_SIDE else None

    # What networks that were written elsewhere are made of.

    def brought(self) -> None:
        makers = [self.rearranged, self.padded, self.scaled, self.plain_norm, self.divided]
        self.either(*makers, *([self.resized] if len(self.shape) == 3 else []))()

    def rearranged(self) -> None:
        """Axes split in two, put in another order and joined again: as many axes as before."""
        sizes = (self.shape[-1], *self.shape[:-1])
        split = [part for size in sizes for part in self._factors(size)]
        order = self.random.permutation(len(split)).tolist()
        ends = sorted(self.random.integers(0, len(order) + 1, len(sizes) - 1).tolist())
        parts = zip([0, *ends], [*ends, len(order)], strict=True)
        made = [math.prod(split[axis] for axis in order[start:end]) for start, end in parts]
        if len(made) == 1 or (made[0] <= LARGEST_WIDTH and max(made[1:]) <= LARGEST_SIDE):
            self.add(Rearrange(split, order, made), (*made[1:], made[0]))

    def _factors(self, size: int) -> tuple[int, int]:
        first = int(self.either(*(n for n in range(1, size + 1) if size % n == 0)))
        return first, size // first

    def padded(self) -> None:
        pads = [(int(low), int(high)) for low, high in self.random.integers(-1, 3, (len(self.shape), 2))]
        shape = tuple(size + sum(pad) for size, pad in zip(self.shape, pads, strict=True))
        if min(shape) >= 1 and (len(shape) == 1 or max(shape[:2]) <= LARGEST_SIDE):
            mode = ("constant", "reflect", "replicate")[sum(map(sum, pads)) % 3]
            within = [*(side - 1 for side in self.shape[:2]), *([0] if len(shape) == 3 else [])]
            fits = all(0 <= n <= most for each, most in zip(pads, within, strict=True) for n in each)
            self.add(Pad(pads, self.either(0.0, 0.0, 1.5), mode if fits else "constant"), shape)

    def scaled(self) -> None:
        layer = Scale(self.shape[-1], self.either("multiply", "add"))
        layer.weight[...] = self.normal(0.3, 1.0)(None, self.shape[-1:])
        self.add(layer, self.shape)

    def plain_norm(self) -> None:
        """A normalization without a scale, or without a bias."""
        channels = self.shape[-1]
        makers = [lambda: BatchNorm(channels, affine=False), lambda: LayerNorm(channels, 1e-3, affine=False)]
        makers += [lambda: LayerNorm(channels, 1e-3, use_bias=False)]
        if len(self.shape) == 3 and math.prod(self.shape[:2]) > 1:
            makers += [lambda: GroupNorm(channels, channels, 1e-3, affine=False)]  # each channel by itself
        self.add(self.either(*makers)(), self.shape)

    def resized(self) -> None:
        size = self.pair(1, LARGEST_SIDE + 1)
        self.add(Resize(size), (*size, self.shape[2]))

    def divided(self) -> None:
        """A value by what is made of it, which is not near zero."""
        whole, shape = self.at, self.shape
        self.add(Activation("sigmoid"), shape)
        self.add(Affine(1.0, 0.5), shape)
        divisor, self.at = self.at, whole
        self.add(Divide(), shape, divisor)

    def carried(self) -> None:
        """A tensor that nothing takes."""
        layer = Carried((2, 3))
        layer.value[...] = self.normal(1.0)(None, (2, 3))
        self.layers.append((f"carried{len(self.layers)}", layer))

    # Blocks: what makes it a graph.

    def residual(self) -> None:
        """Layers beside a skip connection, put together by arithmetic or concatenation."""
        skip = self.at
        for _ in range(int(self.random.integers(1, 3))):
            self.same()
        self.together(skip)

    def branches(self) -> None:
        """Two branches from one value."""
        start, shape = self.at, self.shape
        self.same()
        first = self.at
        self.at, self.shape = start, shape
        self.same()
        self.together(first)

    def together(self, other: str | None) -> None:
        kind = self.either(Add, Add, Subtract, Multiply, Concat)
        if kind is Multiply:
            self.add(Activation(self.either("sigmoid", "tanh", "hardsigmoid")), self.shape)
        twice = (*self.shape[:-1], 2 * self.shape[-1])
        self.add(kind(), twice if kind is Concat else self.shape, other)

    def gate(self) -> None:
        """Squeeze and excitation: a map times a number a channel that its means make."""
        whole, shape = self.at, self.shape
        self.globally()
        self.add(Conv(shape[2], shape[2], (1, 1), **self.weights()), self.shape)
        self.add(Activation("sigmoid"), self.shape)
        self.add(Multiply(), shape, whole)


def draw_network(random: np.random.Generator, *, brought: bool = False) -> Network:
    """A network of layers and blocks that fit; if `brought`, also of those that reading others' networks took."""
    if random.random() < 0.08:
        shape: tuple[int, ...] = (int(random.integers(2, 20)),)
    else:
        shape = (int(random.integers(4, 16)), int(random.integers(4, 16)), int(random.choice([1, 2, 3, 4, 5])))
    drawn, ends_on_map = _Drawn(random, shape), random.random() < 0.15
    if shape == (2,):
        drawn.add(PolarTransform(), (2,))
    steps = ("conv", "transpose", "pool", "same", "residual", "branches", "gate", "upsample", "globally", "again")
    for _ in range(int(random.integers(1, 7)) if len(shape) == 3 else 0):
        step = random.choice(steps, p=[0.24, 0.08, 0.14, 0.22, 0.12, 0.06, 0.04, 0.04, 0.03, 0.03])
        getattr(drawn, step)()
        if brought and drawn.chance(0.4):
            drawn.brought()
    if len(shape) == 3 and not (ends_on_map and drawn.layers):
        drawn.add(Flatten(random.random() < 0.1), (math.prod(drawn.shape),))
    if len(drawn.shape) == 1 and (len(shape) == 1 or random.random() < 0.8):
        for _ in range(int(random.integers(1, 4))):
            for _ in range(int(random.integers(0, 3))):
                getattr(drawn, random.choice(["same", "residual"], p=[0.8, 0.2]))()
            if brought and drawn.chance(0.3):
                drawn.brought()
            width = int(random.integers(1, 12))
            drawn.add(Linear(drawn.shape[0], width, **drawn.weights()), (width,))
    if brought and drawn.layers and drawn.chance(0.1):
        drawn.carried()
    return drawn.network()


def _side(kind: str, side: int, kernel: int, stride: int, padding: Any, axis: int) -> int:
    """Side of the output of a convolution, transposed convolution or pool."""
    if kind == "transpose" and isinstance(padding, str):
        return side * stride if padding == "SAME" else (side - 1) * stride + max(kernel, stride)
    if kind == "transpose":
        return (side - 1) * stride + 2 + sum(padding[axis]) - kernel
    if padding == "SAME":
        return -(-side // stride)
    spare = 0 if padding == "VALID" else sum(padding[axis])
    return (side + spare - kernel) // stride + 1
