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
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import numpy as np
import onnxruntime
import torch
from drawn_networks import draw_network
from flax import nnx

import export
from flaxvision.layers import BatchNorm, Context, Network
from flaxvision.layers.kinds import describe as described

FIRST_BROUGHT = 5000  # the seed from which on networks have the layers that reading others' networks took
BATCHES = (1, 3, 64)
PEERS = ("onnx", "torch")
TOLERANCE = 1e-5  # of max(1, largest output)
ROUNDING = 16.0  # times what one rounding a tensor does: sums of some hundred terms round as often
ROUNDINGS = 8  # draws of rounded inputs
SHUT = 18.0  # a sigmoid of less is 0 in onnxruntime, of more 1
ALIVE = 1e-3  # the outputs' standard deviation over the batch, of max(1, largest output)
# A program that runs a few times: to compile it without these takes three times as long as all else that is done here.
ONCE: dict[str, Any] = {
    "compiler_options": {
        "xla_backend_optimization_level": 0,
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_parallel_codegen_split_count": 1,
    }
}


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
        network = draw_network(random, brought=seed >= FIRST_BROUGHT)
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
        moved = max(_moved_by_rounding(exact_module, whole, exact), _rounded_nearby(module, exact_module, whole))
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
    own = (np.abs(outputs - exact[:batch]).max() for batch, outputs in theirs["torch"].items())
    rounding = max(moved, *map(float, own)) / scale
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

    Inputs, parameters, statistics and the output of every layer move by at most half a unit in the last place; sigmoids
    and the like by one at 1, since runtimes compute them to so many digits after the point: a gate that is all but shut
    may let through 1e-8 of 1e4, which a normalization behind it magnifies. SiLU and its like are gates of their inputs.
    """
    random = torch.Generator().manual_seed(0)
    bounded = (torch.nn.Sigmoid, torch.nn.Tanh, torch.nn.Softmax, torch.nn.Hardsigmoid)
    gating = (torch.nn.SiLU, torch.nn.Mish, torch.nn.GELU, torch.nn.Hardswish)

    def moved(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        if isinstance(module, (*bounded, *gating)):
            noise = (2 * torch.rand(output.shape, generator=random, dtype=output.dtype) - 1) * 2.0**-24
            output = output + (noise * inputs[0].clamp(-SHUT, SHUT) if isinstance(module, gating) else noise)
        return rounded(output)

    def rounded(x: torch.Tensor) -> torch.Tensor:
        return x * (1 + (2 * torch.rand(x.shape, generator=random, dtype=x.dtype) - 1) * 2.0**-24)

    nearby = copy.deepcopy(network)
    for module in nearby.modules():
        if not any(module.children()):
            module.register_forward_hook(moved)
    tensors = [
        (theirs, tensor)
        for theirs, tensor in zip(nearby.state_dict().values(), network.state_dict().values(), strict=True)
        if tensor.is_floating_point()
    ]
    furthest = 0.0
    for _ in range(ROUNDINGS):
        for theirs, tensor in tensors:
            theirs.copy_(rounded(tensor))
        furthest = max(furthest, float(np.abs(nearby(rounded(inputs)).numpy() - exact).max()))
    return furthest


def _rounded_nearby(module: torch.nn.Module, exact_module: torch.nn.Module, inputs: torch.Tensor) -> float:
    """PyTorch's largest distance from float64 on inputs whose last bits differ.

    On the inputs themselves the mean of two large values may be exact by luck, which a normalization magnifies.
    """
    random = torch.Generator().manual_seed(0)
    furthest = 0.0
    for _ in range(ROUNDINGS):
        noise = (2 * torch.rand(inputs.shape, generator=random, dtype=inputs.dtype) - 1) * 2.0**-23
        nearby = (inputs * (1 + noise)).float()
        furthest = max(furthest, float((module(nearby) - exact_module(nearby.double())).abs().max()))
    return furthest


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
