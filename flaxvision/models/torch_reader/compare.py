"""Whether the network that was read does what the module does: on random images, in both modes, in float64."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from torch import nn
from torch.overrides import TorchFunctionMode

from flaxvision.errors import UserError
from flaxvision.layers import Activation, Context, Dropout, Network
from flaxvision.models._state_dict import correspondence
from flaxvision.models.torch_reader.chance import seeded, states
from flaxvision.models.torch_reader.drop_path import replace_drop_paths
from flaxvision.models.torch_reader.trace import one_thread
from flaxvision.models.torch_reader.weights import assigned, of_module

IMAGES = 4
TOLERANCE = 1e-6  # of the largest number; float64 rounds at 1e-16, and what a module computes in float32 at 1e-7
QUICK = {"xla_backend_optimization_level": 0}  # to compile takes longer than to run once
PLAINLY = (
    "so it is not used: forward does what torch.fx cannot see, such as to change a tensor through another name; write "
    "it plainly, or grow the network with fv.models.Build"
)
_DROPOUTS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.dropout}


class WithoutDropout(TorchFunctionMode):
    """Within it, dropout drops nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _DROPOUTS:
            return func(*args, **(kwargs or {}))
        return args[0] if (kwargs or {}).get("inplace") else args[0].contiguous()  # as dropout's output lies


class InDouble(WithoutDropout):
    """Beside that, what is made float32 by its name is float64, as all of the module that is compared."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        func = torch.Tensor.double if func == torch.Tensor.float else func
        args = tuple(torch.float64 if each is torch.float32 else each for each in args)
        kwargs = {name: torch.float64 if each is torch.float32 else each for name, each in (kwargs or {}).items()}
        return super().__torch_function__(func, types, args, kwargs)


def check_same(network: Network, module: nn.Module) -> None:
    """Raise unless the network gives a module's outputs and, in training mode without dropout, its running statistics.

    Raises:
        UserError: For a difference: in which mode, of what, how large; and for a module that draws random numbers.
    """
    shape = network.input_shape
    images = np.random.default_rng(0).standard_normal((IMAGES, *shape))
    twin = _disturbed(module)
    network = assigned(network, of_module(network, twin))
    theirs = _theirs(twin, images)
    graphdef, state = nnx.split(network)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), state)
        run = jax.jit(lambda state, x: _both(graphdef, state, x), compiler_options=QUICK)
        ours = run(wide, jnp.asarray(images))
        ours = {mode: {name: np.asarray(value) for name, value in each.items()} for mode, each in ours.items()}
    pairs = {pair.variable: pair for pair in correspondence(network)}
    for mode, values in ours.items():
        for name, value in values.items():
            its = theirs[mode][pairs[name].name if name else ""]
            value = value.transpose(0, 3, 1, 2) if not name and value.ndim == 4 else value
            _check(network.kind, mode, pairs[name].name if name else "the outputs", value, its)


def _disturbed(module: nn.Module) -> nn.Module:
    """A copy with other parameters, as what is computed of one may be the same at the numbers that it starts with."""
    twin, generator = copy.deepcopy(module).cpu(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.is_floating_point():
                size = 0.1 * max(0.1, float(parameter.abs().mean()))
                parameter.add_(size * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    return twin


def _check(kind: str, mode: str, what: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    if ours.size != theirs.size:
        raise UserError(
            f"{kind} in {mode} mode: {what} of the network that was read have the shape {ours.shape}, the module's "
            f"{theirs.shape}, {PLAINLY}"
        )
    ours = ours.reshape(theirs.shape)
    largest = max(1.0, float(np.abs(theirs).max(initial=0.0)))
    difference = float(np.abs(ours - theirs).max(initial=0.0))
    if not difference <= TOLERANCE * largest:  # also where it is not a number
        raise UserError(
            f"{kind} in {mode} mode: {what} of the network that was read differ from the module's by {difference:.2g} "
            f"(of {largest:.2g}), {PLAINLY}"
        )


def _both(graphdef: Any, state: Any, x: jax.Array) -> dict[str, dict[str, jax.Array]]:
    """Outputs and running statistics by name, in evaluation and in training; "" are the outputs."""
    found: dict[str, dict[str, jax.Array]] = {}
    for mode in ("evaluation", "training"):
        network = nnx.merge(graphdef, state, copy=True)
        for layer in network.layers:
            if isinstance(layer, Dropout):
                layer.rate[...] = jnp.zeros((), x.dtype)
        train = mode == "training"
        scores = network(x, Context(train=True, key=jax.random.key(0)) if train else Context())
        names = network.parameter_names()
        statistics = {
            names[path]: variable[...]
            for path, variable in nnx.to_flat_state(nnx.state(network, nnx.BatchStat))
            if train
        }
        found[mode] = {"": ended(network, scores), **statistics}
    return found


def ended(network: Network, scores: jax.Array) -> jax.Array:
    """Scores as the module's own ending leaves them."""
    if network.torch is None or not network.torch.ending:
        return scores
    return Activation(network.torch.ending)(scores)


def _theirs(twin: nn.Module, images: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    twin.double()
    replace_drop_paths(twin)
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2) if images.ndim == 4 else images))
    found = {}
    with torch.no_grad(), one_thread(), InDouble(), seeded(0):
        for mode, train in (("evaluation", False), ("training", True)):
            twin.train(train)  # what it gives back may be the user's
            before = states()
            try:
                outputs = twin(x.clone())
            except Exception as error:  # whatever the user's code or PyTorch raises
                said = " ".join(str(error).split())[:300]
                raise UserError(
                    f"{type(twin).__name__} fails in {mode} mode on {IMAGES} random examples of shape "
                    f"{tuple(x.shape[1:])} ({type(error).__name__}: {said}): mend it"
                ) from error
            if states() != before:
                raise UserError(
                    f"{type(twin).__name__} draws random numbers in {mode} mode (random, numpy.random, torch.rand), "
                    "which a graph cannot show: use nn.Dropout, or a module named DropPath"
                )
            tensors = {name: tensor.double().numpy() for name, tensor in twin.state_dict().items()}
            found[mode] = {**tensors, "": outputs.double().numpy()}
    return found
