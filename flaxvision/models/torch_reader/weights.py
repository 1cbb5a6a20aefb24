"""The numbers of a network that was read: the module's own, or PyTorch's default initialization anew."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

from flaxvision.errors import UserError
from flaxvision.layers import BatchNorm, Carried, Conv, ConvTranspose, Linear, Network, PReLU, TorchModule, TorchTensor
from flaxvision.layers.initializers import uniform
from flaxvision.models._state_dict import COUNTER, correspondence
from flaxvision.models.files import variables


def with_tensors(network: Network, module: nn.Module, ending: str) -> Network:
    """The network with what it must know of the module's `state_dict`; tensors that it does not use are carried along.

    Raises:
        UserError: For a tensor that cannot be carried, and for two layers that share one.
    """
    own = {pair.name for pair in correspondence(network)}
    counts = {f"{name}.{COUNTER}" for name, layer in network.named_layers() if isinstance(layer, BatchNorm)}
    seen: dict[int, str] = {}
    entries, extra = [], []
    for name, tensor in module.state_dict(keep_vars=True).items():
        if not isinstance(tensor, torch.Tensor) or tensor.is_complex() or tensor.is_quantized:
            raise UserError(f"{network.kind} keeps {name!r}, which is no tensor of plain numbers: leave it out")
        shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        before = seen.setdefault(id(tensor), name)
        if before != name and name in own and before in own:
            raise UserError(
                f"{before} and {name} of {network.kind} are one tensor, and layers that share weights cannot be read: "
                "apply one layer twice instead"
            )
        if name in own or name in counts:
            source = name
        elif before != name:
            source = before
        else:
            source = name
            extra.append((name, Carried(shape, "float32" if tensor.is_floating_point() else "int32")))
        if tensor.is_floating_point() and dtype != "float64":
            dtype = "float32"  # also where the module keeps half of it: it rounds what it loads
        entries.append(TorchTensor(name, shape, dtype, source))
    pairs = [*network.named_layers(), *extra]
    whole = Network(pairs, input_shape=network.input_shape, kind=network.kind, nodes=network.nodes)
    whole.torch = TorchModule(tuple(entries), ending)
    return whole


def unused(network: Network, module: nn.Module) -> list[str]:
    """The parameters of a module that its network only carries along."""
    carried = {name for name, layer in network.named_layers() if isinstance(layer, Carried)}
    return [name for name, _ in module.named_parameters() if name in carried]


def frozen(network: Network, module: nn.Module) -> dict[str, str]:
    """The parameters of a module whose `requires_grad` is False -> the network's variables, which do not learn."""
    idle = set(unused(network, module))
    kept = {name for name, parameter in module.named_parameters() if not parameter.requires_grad} - idle
    return {pair.name: pair.variable for pair in correspondence(network) if pair.name in kept}


def count_batches(network: Network, module: nn.Module) -> None:
    """Let each BatchNorm count on from the batches that the module's has seen."""
    theirs = module.state_dict()
    for name, layer in network.named_layers():
        if isinstance(layer, BatchNorm):
            layer.batches = int(theirs.get(f"{name}.{COUNTER}", torch.zeros(())))


def of_module(network: Network, module: nn.Module) -> dict[str, np.ndarray]:
    """A module's numbers by the names of the network's variables."""
    theirs = module.state_dict()
    shapes = {name: value.shape for name, value in variables(network).items()}
    found = {}
    for pair in correspondence(network):
        tensor = theirs[pair.name].detach().cpu()
        wide = tensor.dtype == torch.float64 and jax.config.read("jax_enable_x64")
        array = (tensor.float() if tensor.is_floating_point() and not wide else tensor).numpy()
        found[pair.variable] = np.array(pair.from_torch(array, shapes[pair.variable]))
    return found


def redrawn(network: Network, module: nn.Module, seed: int) -> dict[str, jax.Array]:
    """PyTorch's default initialization of every layer, drawn in order from one seed.

    Convolutions and linear layers are uniform within 1 / sqrt(fan-in), weights and biases alike; normalizations begin
    with ones and zeros, PReLUs with their `init`. What is no layer's, a parameter of a block or a buffer, keeps the
    module's numbers.
    """
    rngs = nnx.Rngs(seed)
    drawn: dict[str, jax.Array] = {}
    for name, layer in network.named_layers():
        if isinstance(layer, PReLU):
            drawn[f"{name}.slope"] = jnp.full(layer.slope.shape, _init(module, name), jnp.float32)
        for part, value in _drawn(layer, rngs):
            drawn[f"{name}.{part}"] = value
    return drawn


def _bound(layer: Conv | ConvTranspose | Linear) -> float:
    """Within which PyTorch draws weights and biases uniformly, 1 / sqrt(fan-in).

    The kernel is (H, W, in, out), or (H, W, out, in) where transposed, as PyTorch counts.
    """
    return 1 / math.sqrt(math.prod(layer.kernel.shape[:-1]))


def _init(module: nn.Module, name: str) -> float:
    """What a module's PReLU begins with."""
    return float(getattr(module.get_submodule(name), "init", 0.25))


def _drawn(layer: nnx.Module, rngs: nnx.Rngs) -> Iterator[tuple[str, jax.Array]]:
    if isinstance(layer, (Conv, ConvTranspose, Linear)):
        draw, shape = uniform(_bound(layer)), layer.kernel.shape
        yield "kernel", draw(rngs.params(), shape)
        if layer.bias is not None:
            yield "bias", draw(rngs.params(), layer.bias.shape)
    elif not isinstance(layer, Carried):
        for part, number in (("scale", 1.0), ("bias", 0.0), ("mean", 0.0), ("var", 1.0)):
            variable = getattr(layer, part, None)
            if isinstance(variable, nnx.Variable):
                yield part, jnp.full(variable.shape, number, jnp.float32)


def own_way(network: Network, module: nn.Module, numbers: Mapping[str, np.ndarray]) -> list[str]:
    """Layers whose numbers PyTorch's default initialization would not give."""
    found = []
    for name, layer in network.named_layers():
        own = {part: numbers[f"{name}.{part}"] for part in ("kernel", "scale", "bias") if f"{name}.{part}" in numbers}
        if isinstance(layer, (Conv, ConvTranspose, Linear)):
            plain = all(_is_uniform(each, _bound(layer)) for each in own.values())
        elif isinstance(layer, PReLU):
            plain = bool(np.allclose(numbers[f"{name}.slope"], _init(module, name)))
        else:
            plain = all((each == (part == "scale")).all() for part, each in own.items())
        if not plain:
            found.append(name)
    return found


def _is_uniform(numbers: np.ndarray, bound: float) -> bool:
    """Whether numbers may have been drawn uniformly within a bound; of a billion that were, one is taken for others."""
    largest = float(np.abs(numbers).max())
    spread = numbers.size == 1 or np.ptp(numbers) > 0
    return bool(spread and bound * 1e-9 ** (1 / numbers.size) <= largest <= bound * (1 + 1e-6))


def narrowed(module: nn.Module) -> list[str]:
    """The types of a module's numbers that are read as float32."""
    kept = {torch.float32} | ({torch.float64} if jax.config.read("jax_enable_x64") else set())
    types = {tensor.dtype for tensor in module.state_dict().values() if tensor.is_floating_point()}
    return sorted(str(each).removeprefix("torch.") for each in types - kept)


def assigned(network: Network, numbers: Mapping[str, np.ndarray | jax.Array]) -> Network:
    """A copy of the network with these numbers; what has none keeps its own."""
    copy = nnx.clone(network)
    names = copy.parameter_names()
    for path, variable in nnx.to_flat_state(nnx.state(copy)):
        if names[path] in numbers:
            variable.set_value(jnp.asarray(numbers[names[path]]))
    return copy
