"""Random networks of every layer, and how far their exports are from them.

`random_case(seed)` makes a network from its seed alone; `errors(case)` gives, for each runtime, its largest difference
from Flax and what is allowed. See `export_random_networks` for the rule.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
import math
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import torch
from flax import nnx

import export
from flaxvision.layers import (
    ACTIVATIONS,
    Activation,
    Add,
    Affine,
    AvgPool,
    BatchNorm,
    Concat,
    Context,
    Conv,
    ConvTranspose,
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
    PolarTransform,
    PReLU,
    SpatialDropout,
    Subtract,
    Upsample,
)
from flaxvision.layers.kinds import describe as described

BATCHES = (1, 3, 64)
PEERS = ("onnx", "torch")
TOLERANCE = 1e-5  # of max(1, largest output)
ROUNDING = 16.0  # times what one rounding a tensor does: sums of some hundred terms round as often
ROUNDINGS = 8  # draws of rounded inputs
ALIVE = 1e-3  # the outputs' standard deviation over the batch, of max(1, largest output)
LARGEST_SIDE = 24  # of a map, in pixels
ONCE: dict[str, Any] = {"compiler_options": {"xla_backend_optimization_level": 0}}  # a program that runs a few times


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, 64 inputs on which it is alive, and its outputs for the first 1, 3 and 64 of them."""

    seed: int
    network: Network
    inputs: np.ndarray
    outputs: dict[int, np.ndarray]


def random_case(seed: int) -> Case:
    """The network of a seed. A dead one, whose outputs hardly depend on the inputs, is drawn again."""
    for attempt in itertools.count():
        random = np.random.default_rng([seed, attempt])
        network = _draw(random)
        inputs = _inputs(random, network.input_shape)
        if any(isinstance(layer, BatchNorm) for layer in network.layers):
            network = _train_statistics(network, inputs)
        case = case_of(network, inputs, seed)
        whole = case.outputs[64]
        if np.isfinite(whole).all() and whole.std(axis=0).mean() > ALIVE * max(1.0, np.abs(whole).max()):
            return case
    raise AssertionError("unreachable")


def case_of(network: Network, inputs: np.ndarray, seed: int = 0) -> Case:
    """A network with its outputs for 64 inputs, all in one program."""
    graphdef, state = nnx.split(network)
    batches = [inputs[:batch] for batch in BATCHES]
    run = jax.jit(lambda state, xs: [nnx.merge(graphdef, state)(x) for x in xs], **ONCE)
    return Case(seed, network, inputs, dict(zip(BATCHES, map(np.asarray, run(state, batches)), strict=True)))


class _Drawn:
    """A network as it is drawn, with parameters of bounded gain: each layer about keeps the size of its input."""

    def __init__(self, random: np.random.Generator, shape: tuple[int, ...]):
        self.random = random
        self.input_shape = self.shape = shape
        self.at: str | None = None  # name of the value at hand
        self.layers: list[tuple[str, Any]] = []
        self.nodes: list[Node] = []

    def network(self) -> Network:
        network = Network(self.layers, input_shape=self.input_shape, kind="random", nodes=self.nodes)
        assert network.output_shape == self.shape, (network, self.shape)
        return network

    def add(self, layer: Any, shape: tuple[int, ...], *others: str | None) -> None:
        name = f"block{len(self.nodes) // 3}.{len(self.nodes)}"
        self.layers.append((name, layer))
        self.nodes.append(Node(name, name, (self.at, *others)))
        self.at, self.shape = name, shape

    def again(self) -> None:
        """Apply the newest layer a second time, if it keeps the shape of one value."""
        node = self.nodes[-1] if self.nodes else None
        if node is not None and len(node.takes) == 1 and self._shape_of(node.takes[0]) == self.shape:
            name = f"again{len(self.nodes)}"
            self.nodes.append(Node(name, node.layer, (self.at,)))
            self.at = name

    def _shape_of(self, value: str | None) -> tuple[int, ...]:
        known = Network(self.layers, input_shape=self.input_shape, nodes=self.nodes)
        return {None: self.input_shape, **{step.node.name: step.output for step in known.walk()}}[value]

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
            return jnp.asarray(drawn.astype(np.float32))

        return init

    def weights(self) -> dict[str, Any]:
        use_bias = self.chance(0.7)
        return {
            "kernel_init": self.normal(1.2),
            "bias_init": self.normal(0.3),
            "use_bias": use_bias,
            "rngs": nnx.Rngs(0),
        }

    # Layers that keep the shape.

    def batch_norm(self) -> BatchNorm:
        layer = BatchNorm(self.shape[-1], self.either(0.1, 0.5, 0.9), self.either(1e-5, 1e-3))
        return self._scaled(layer)

    def group_norm(self) -> Any:
        channels, whole = self.shape[-1], math.prod(self.shape)
        fitting = [
            n for n in range(1, channels + 1) if channels % n == 0 and whole > n
        ]  # PyTorch refuses single values
        if not fitting:
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
        makers = [
            self.batch_norm,
            self.group_norm,
            self.layer_norm,
            self.activation,
            self.activation,
            self.prelu,
            self.affine,
        ]
        makers += [lambda: Dropout(0.3)]
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


def _draw(random: np.random.Generator) -> Network:
    """A network of layers and blocks that fit one after the other."""
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
    if len(shape) == 3 and not (ends_on_map and drawn.layers):
        drawn.add(Flatten(random.random() < 0.1), (math.prod(drawn.shape),))
    if len(drawn.shape) == 1 and (len(shape) == 1 or random.random() < 0.8):
        for _ in range(int(random.integers(1, 4))):
            for _ in range(int(random.integers(0, 3))):
                getattr(drawn, random.choice(["same", "residual"], p=[0.8, 0.2]))()
            width = int(random.integers(1, 12))
            drawn.add(Linear(drawn.shape[0], width, **drawn.weights()), (width,))
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


def _inputs(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """64 examples of waves and noise, of sizes from 1 to 1e4."""
    largest = random.choice([1.0, 1.0, 30.0, 1e4])
    waves = np.zeros((64, *shape))
    for axis, side in enumerate(shape):
        position = np.arange(side).reshape([-1 if i == axis else 1 for i in range(len(shape))])
        speed, phase = (random.uniform(0, top, (64, *[1] * len(shape))) for top in (1.5, 6.3))
        waves = waves + np.sin(speed * position + phase)
    waves += 0.5 * random.standard_normal(waves.shape) + random.uniform(-1, 1, (64, *[1] * len(shape)))
    return (largest * waves / np.abs(waves).max()).astype(np.float32)


def _train_statistics(network: Network, inputs: np.ndarray) -> Network:
    graphdef, state = nnx.split(network)

    @functools.partial(jax.jit, **ONCE)
    def step(state: nnx.State, x: jax.Array, key: jax.Array) -> nnx.State:
        model = nnx.merge(graphdef, state)
        model(x, Context(train=True, key=key))
        return nnx.state(model)

    for number in range(4):
        state = step(state, np.roll(inputs, 7 * number, axis=0)[:48], jax.random.key(number))
    return nnx.merge(graphdef, state)


def errors(case: Case, peers: tuple[str, ...] = PEERS) -> dict[str, tuple[float, float]]:
    """For each peer its largest difference from Flax, relative to max(1, largest output), and what is allowed."""
    inputs = {batch: _channels_first(case.inputs[:batch]) for batch in BATCHES}
    module = export.to_torch(case.network)
    exact_module = copy.deepcopy(module).double()
    with torch.no_grad(), without_onednn():
        whole = torch.from_numpy(inputs[64]).double()
        exact = exact_module(whole).numpy()
        moved = _moved_by_rounding(exact_module, whole, exact)
        theirs = {"torch": {batch: module(torch.from_numpy(x)).numpy() for batch, x in inputs.items()}}
    if "onnx" in peers:
        theirs["onnx"] = _onnx(case.network, inputs)
    if "keras" in peers:
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # Keras relies on both
            twin = export.to_keras(case.network)
            run = jax.jit(lambda xs: {batch: twin(x) for batch, x in xs.items()}, **ONCE)
            found = run({batch: case.inputs[:batch] for batch in BATCHES})
            theirs["keras"] = {batch: _channels_first(np.asarray(outputs)) for batch, outputs in found.items()}
    scale = max(1.0, float(np.abs(exact).max()))
    rounding = max(moved, float(np.abs(theirs["torch"][64] - exact).max())) / scale
    allowed = max(TOLERANCE, ROUNDING * rounding)
    worst = {}
    for peer in peers:
        differences = []
        for batch, ours in case.outputs.items():
            ours = _channels_first(ours)
            assert theirs[peer][batch].shape == ours.shape, (peer, theirs[peer][batch].shape, ours.shape)
            differences.append(np.abs(theirs[peer][batch] - ours).max() / scale)
        worst[peer] = float(np.max(differences))  # NaN stays NaN
    return {peer: (error, allowed) for peer, error in worst.items()}


def _moved_by_rounding(network: torch.nn.Module, inputs: torch.Tensor, exact: np.ndarray) -> float:
    """How far a float64 network's `exact` outputs move when float32 rounds no more than its tensors.

    Inputs, parameters, statistics and the output of every layer move by at most half a unit in the last place.
    """
    random = torch.Generator().manual_seed(0)

    def rounded(x: torch.Tensor) -> torch.Tensor:
        return x * (1 + (2 * torch.rand(x.shape, generator=random, dtype=x.dtype) - 1) * 2.0**-24)

    moved = 0.0
    for _ in range(ROUNDINGS):
        nearby = copy.deepcopy(network)
        for tensor in nearby.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(rounded(tensor))
        for module in nearby.modules():
            if not any(module.children()):
                module.register_forward_hook(lambda _module, _inputs, output: rounded(output))
        moved = max(moved, float(np.abs(nearby(rounded(inputs)).numpy() - exact).max()))
    return moved


@contextlib.contextmanager
def without_onednn() -> Iterator[None]:
    """PyTorch's own kernels, see above."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of a flag that it reads itself
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def disagreements(found: dict[str, tuple[float, float]]) -> list[str]:
    """The peers that differ from Flax by more than is allowed."""
    return [peer for peer, (error, allowed) in found.items() if not error <= allowed]


def _onnx(network: Network, inputs: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = export.to_onnx(network, Path(folder) / "network.onnx")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return {batch: session.run(None, {"input": x})[0] for batch, x in inputs.items()}


def _channels_first(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x


def describe(network: Network) -> str:
    """The network in one line, for a report of a disagreement."""
    layers = dict(network.named_layers())
    parts, before = [], None
    for node in network.nodes:
        settings = described(node.layer, layers[node.layer])
        kind = settings.pop("kind")
        listed = ", ".join(f"{key}={value}" for key, value in settings.items() if key != "name")
        takes = "" if node.takes == (before,) else f" of {node.takes}"
        parts.append(f"{node.name}: {kind}({listed}){takes}")
        before = node.name
    return f"{network.input_shape}: " + " ".join(parts)
