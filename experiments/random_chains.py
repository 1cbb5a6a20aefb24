"""Random chains of every layer, and how far their exports are from them.

`random_case(seed)` makes a chain from its seed alone; `errors(case)` gives, for each runtime, its largest difference
from Flax and what is allowed. See `export_random_chains` for the rule.
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
    AvgPool,
    BatchNorm,
    Chain,
    Context,
    Conv,
    ConvTranspose,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GlobalMaxPool,
    Linear,
    MaxPool,
    PolarTransform,
)

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
    """A chain, 64 inputs on which it is alive, and its outputs for the first 1, 3 and 64 of them."""

    seed: int
    chain: Chain
    inputs: np.ndarray
    outputs: dict[int, np.ndarray]


def random_case(seed: int) -> Case:
    """The chain of a seed. A dead one, whose outputs hardly depend on the inputs, is drawn again."""
    for attempt in itertools.count():
        random = np.random.default_rng([seed, attempt])
        chain = _draw(random)
        inputs = _inputs(random, chain.input_shape)
        if any(isinstance(layer, BatchNorm) for layer in chain.layers):
            chain = _train_statistics(chain, inputs)
        case = case_of(chain, inputs, seed)
        whole = case.outputs[64]
        if np.isfinite(whole).all() and whole.std(axis=0).mean() > ALIVE * max(1.0, np.abs(whole).max()):
            return case
    raise AssertionError("unreachable")


def case_of(chain: Chain, inputs: np.ndarray, seed: int = 0) -> Case:
    """A chain with its outputs for 64 inputs, all in one program."""
    graphdef, state = nnx.split(chain)
    batches = [inputs[:batch] for batch in BATCHES]
    run = jax.jit(lambda state, xs: [nnx.merge(graphdef, state)(x) for x in xs], **ONCE)
    return Case(seed, chain, inputs, dict(zip(BATCHES, map(np.asarray, run(state, batches)), strict=True)))


def _draw(random: np.random.Generator) -> Chain:
    """Layers that fit one after the other, with parameters of bounded gain: each about keeps the size of its input."""
    layers: list[Any] = []
    if random.random() < 0.08:
        shape: tuple[int, ...] = (int(random.integers(2, 20)),)
    else:
        shape = (int(random.integers(4, 16)), int(random.integers(4, 16)), int(random.choice([1, 2, 3, 5])))
    input_shape, ends_on_map = shape, random.random() < 0.15

    def normal(deviation: float, mean: float = 0.0) -> Any:
        """Draws for a layer of Flax; its own initialisers compile a program for every shape."""

        def init(_: object, size: tuple[int, ...], dtype: Any = np.float32, **__: object) -> jax.Array:
            fan_in = 1 if len(size) == 1 else math.prod(size[:-1])
            return jnp.asarray((mean + deviation * random.standard_normal(size) / math.sqrt(fan_in)).astype(np.float32))

        return init

    def weights() -> dict[str, Any]:
        use_bias = bool(random.random() < 0.7)
        return {"kernel_init": normal(1.2), "bias_init": normal(0.3), "use_bias": use_bias, "rngs": nnx.Rngs(0)}

    def batch_norm() -> BatchNorm:
        layer = BatchNorm(shape[-1], either(0.1, 0.5, 0.9), either(1e-5, 1e-3))
        layer.scale[...] = normal(0.3, 1.0)(None, shape[-1:])
        layer.bias[...] = normal(0.3)(None, shape[-1:])
        return layer

    def add(layer: Any, new_shape: tuple[int, ...]) -> None:
        nonlocal shape
        layers.append((f"block{len(layers) // 3}.{len(layers)}", layer))
        shape = new_shape

    def either(*options: Any) -> Any:
        return options[random.integers(len(options))]

    if shape == (2,):
        add(PolarTransform(), (2,))
    for _ in range(int(random.integers(1, 7)) if len(shape) == 3 else 0):
        kind = random.choice(
            ["conv", "transpose", "pool", "norm", "activation", "dropout", "global"],
            p=[0.34, 0.12, 0.18, 0.12, 0.18, 0.02, 0.04],
        )
        sides, channels = shape[:2], shape[2]
        if kind in ("conv", "transpose", "pool"):
            kernel, strides = (tuple(map(int, random.integers(1, top, 2))) for top in (8, 4))
            padding: Any = either("SAME", "VALID")
            width = int(random.integers(1, 9))
            if kind == "pool":
                layer = either(MaxPool, AvgPool)(kernel, either(None, strides), padding)
                strides = layer.strides
            elif kind == "conv":
                padding = either(
                    "SAME", "VALID", tuple(tuple(map(int, pads)) for pads in random.integers(0, 4, (2, 2)))
                )
                layer = Conv(channels, width, kernel, strides, padding=padding, **weights())
            else:
                flip = bool(random.random() < 0.5)
                if random.random() < 0.3:  # of the dilated input: from nothing to the whole kernel, as it comes
                    padding = tuple((int(random.integers(0, k)), int(random.integers(0, k))) for k in kernel)
                layer = ConvTranspose(
                    channels, width, kernel, strides, padding=padding, transpose_kernel=flip, **weights()
                )
            # Sides are reckoned here and not by Flax, so that a misfit is never built.
            new = tuple(
                _side(kind, *of_axis, padding, axis)
                for axis, of_axis in enumerate(zip(sides, kernel, strides, strict=True))
            )
            if min(new) >= 1 and max(new) <= LARGEST_SIDE:
                add(layer, (*new, channels if kind == "pool" else width))
        elif kind == "norm":
            add(batch_norm(), shape)
        elif kind == "activation":
            add(Activation(either(*ACTIVATIONS)), shape)
        elif kind == "dropout":
            add(Dropout(0.3), shape)
        else:
            add(either(GlobalMaxPool, GlobalAvgPool)(), (1, 1, channels))
    if len(shape) == 3 and not (ends_on_map and layers):
        add(Flatten(), (math.prod(shape),))
    if len(shape) == 1 and (len(input_shape) == 1 or random.random() < 0.8):
        for _ in range(int(random.integers(1, 4))):
            for _ in range(int(random.integers(0, 3))):
                add(either(batch_norm, lambda: Activation(either(*ACTIVATIONS)), lambda: Dropout(0.5))(), shape)
            width = int(random.integers(1, 12))
            add(Linear(shape[0], width, **weights()), (width,))
    chain = Chain(layers, input_shape=input_shape, kind="random")
    assert chain.output_shape == shape, (chain, shape)
    return chain


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


def _train_statistics(chain: Chain, inputs: np.ndarray) -> Chain:
    graphdef, state = nnx.split(chain)

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
    network = export.to_torch(case.chain)
    exact_network = copy.deepcopy(network).double()
    with torch.no_grad(), without_onednn():
        whole = torch.from_numpy(inputs[64]).double()
        exact = exact_network(whole).numpy()
        moved = _moved_by_rounding(exact_network, whole, exact)
        theirs = {"torch": {batch: network(torch.from_numpy(x)).numpy() for batch, x in inputs.items()}}
    if "onnx" in peers:
        theirs["onnx"] = _onnx(case.chain, inputs)
    if "keras" in peers:
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # Keras relies on both
            twin = export.to_keras(case.chain)
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


def _onnx(chain: Chain, inputs: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = export.to_onnx(chain, Path(folder) / "chain.onnx")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return {batch: session.run(None, {"input": x})[0] for batch, x in inputs.items()}


def _channels_first(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x


def describe(chain: Chain) -> str:
    """The chain in one line, for a report of a disagreement."""
    fields = ("window", "kernel_size", "strides", "padding", "use_bias", "transpose_kernel", "function", "epsilon")
    parts = []
    for _, layer in chain.named_layers():
        settings = ", ".join(f"{field}={getattr(layer, field)}" for field in fields if hasattr(layer, field))
        parts.append(f"{type(layer).__name__}({settings})")
    return f"{chain.input_shape}: " + " ".join(parts)
