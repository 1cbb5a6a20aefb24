"""How our variables and the tensors of a PyTorch `state_dict` correspond: names, order and layouts, both ways."""

from __future__ import annotations

import dataclasses

import numpy as np

from flaxvision.layers import BatchNorm, Network
from flaxvision.layers.kinds import Tensor, kind_of
from flaxvision.models.files import variables

COUNTER = "num_batches_tracked"  # BatchNorm's own count: written for PyTorch, and read from modules


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """One tensor of a PyTorch `state_dict` and the variable of ours that holds the same numbers."""

    name: str  # in the state_dict: "fc.weight"
    variable: str  # ours: "fc.kernel"
    tensor: Tensor  # how the layouts correspond
    shape: tuple[int, ...] | None = None  # in the state_dict, where the layout does not tell

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Our layout to PyTorch's."""
        array = self.tensor.to_torch(array)
        return array if self.shape is None else array.reshape(self.shape)

    def from_torch(self, array: np.ndarray, ours: tuple[int, ...]) -> np.ndarray:
        """PyTorch's layout to ours, of the shape `ours`."""
        return self.tensor.from_torch(array) if self.shape is None else array.reshape(ours)


def correspondence(model: Network) -> list[Pair]:
    """Every tensor of the model's PyTorch `state_dict` but counts, in the order of the module or of the layers."""
    pairs = [
        Pair(f"{name}.{tensor.torch}" if tensor.torch else name, f"{name}.{tensor.ours}", tensor)
        for name, layer in model.named_layers()
        for tensor in kind_of(layer).tensors(layer)
        if getattr(layer, tensor.ours) is not None
    ]
    if model.torch is None:
        return pairs
    place = {each.name: number for number, each in enumerate(model.torch.tensors)}
    shapes = {each.name: each.shape for each in model.torch.tensors}
    found = [p if p.tensor.torch else dataclasses.replace(p, shape=shapes.get(p.name)) for p in pairs]
    return sorted(found, key=lambda pair: place.get(pair.name, len(place)))


def state_dict(model: Network) -> dict[str, np.ndarray]:
    """The model's tensors by PyTorch's names and in PyTorch's layout, without counts and second names."""
    ours = variables(model)
    return {pair.name: np.array(pair.to_torch(ours[pair.variable]), order="C") for pair in correspondence(model)}


def whole_state_dict(model: Network) -> dict[str, np.ndarray]:
    """All of the `state_dict`, as the module that the model was read from has it, or PyTorch's layers would."""
    tensors = state_dict(model)
    batches = {name: layer.batches for name, layer in model.named_layers() if isinstance(layer, BatchNorm)}
    if model.torch is not None and model.torch.tensors:
        counts = {f"{name}.{COUNTER}": np.asarray(count) for name, count in batches.items()}
        found = {**tensors, **counts}
        sources = {each.name: each.source or each.name for each in model.torch.tensors}  # "" is a count in older files
        return {each.name: found[sources[each.name]].astype(each.dtype) for each in model.torch.tensors}
    whole: dict[str, np.ndarray] = {}
    for name, value in tensors.items():
        whole[name] = value
        layer, _, part = name.rpartition(".")
        if layer in batches and part == "running_var":
            whole[f"{layer}.{COUNTER}"] = np.asarray(batches[layer], np.int64)
    return whole
