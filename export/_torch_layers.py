"""The few layers that PyTorch lacks or pads differently; made from a `Place` of the layer table."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

import torch
import torch.nn.functional as F

from export._place import Place, pair, transpose_cuts
from export._torch_moving import Scale
from flaxvision.layers import Node, Preprocess


class DropPath(torch.nn.Module):
    """Zeroes whole examples in training, as timm's module of this name does."""

    def __init__(self, place: Place):
        super().__init__()
        self.drop_prob = float(place.layer.rate[...])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drop examples of `x`, (N, ...)."""
        return x * F.dropout(x.new_ones((x.shape[0], *(1 for _ in x.shape[1:]))), self.drop_prob, self.training)


class ChainModule(torch.nn.Module):
    """Named layers applied as a network's nodes say; names with dots become modules within modules.

    Any name keeps its keys in the `state_dict`: one that is an attribute of every module ("type", "train") is found by
    `dict(net.named_modules())`, and a layer may hold others ("block" beside "block.conv").

    Args:
        layers: (name, layer) pairs in order.
        nodes: Which are applied to what; the last one gives the output.
        tensors: The `state_dict` that it shall have; those that no layer has are put where their names say.
        second: Of those, the names of what has another name, too -> that.
    """

    def __init__(
        self,
        layers: list[tuple[str, torch.nn.Module]],
        nodes: Sequence[Node],
        tensors: Mapping[str, torch.Tensor] = MappingProxyType({}),
        second: Mapping[str, str] = MappingProxyType({}),
    ):
        super().__init__()
        self._nodes = tuple(nodes)
        for name in tensors:
            self._place(name)  # in their order
        self._scales = {name: layer for name, layer in layers if isinstance(layer, Scale)}
        for name, layer in layers:
            if name in self._scales:
                continue
            parent, leaf = self._place(name)
            holder = parent._modules.get(leaf)  # made for the layers within, which come first
            if holder is not None:
                layer._modules.update(holder._modules)
            parent._modules[leaf] = layer
        for name, tensor in tensors.items():
            parent, leaf = self._place(name)
            if leaf in parent._parameters or leaf in parent._buffers:
                continue
            made: torch.Tensor = self._tensor(second[name]) if second.get(name) else tensor.clone()
            if made.is_floating_point():
                parent._parameters[leaf] = (
                    made if isinstance(made, torch.nn.Parameter) else torch.nn.Parameter(made, name in self._scales)
                )
            else:
                parent._buffers[leaf] = made

    def _place(self, name: str) -> tuple[torch.nn.Module, str]:
        """The module that holds what is so named, made where there is none, and its name within."""
        parent: torch.nn.Module = self
        *path, leaf = name.split(".")
        for part in path:
            if part not in parent._modules:
                parent._modules[part] = torch.nn.Module()
            parent = _within(parent, part)
        return parent, leaf

    def _tensor(self, name: str) -> torch.Tensor:
        parent, leaf = self._place(name)
        found = parent._parameters.get(leaf, parent._buffers.get(leaf))
        assert found is not None
        return found

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all layers, also where one is named "training"."""
        for module in self.modules():
            module.__dict__["training"] = mode
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the network to `x`, (N, C, H, W) or (N, D)."""
        values: dict[str | None, torch.Tensor] = {None: x}
        for node in self._nodes:
            if node.layer in self._scales:
                (taken,) = node.takes
                x = values[node.name] = self._scales[node.layer](values[taken], self._tensor(node.layer))
                continue
            layer: torch.nn.Module = self
            for part in node.layer.split("."):
                layer = _within(layer, part)
            x = values[node.name] = layer(*(values[name] for name in node.takes))
        return x


def _within(module: torch.nn.Module, name: str) -> torch.nn.Module:
    """A module's own by its name, which `get_submodule` does not find where it is an attribute as well."""
    found = module._modules[name]
    assert found is not None
    return found


def _pad(x: torch.Tensor, pads: list[tuple[int, int]], value: float = 0.0) -> torch.Tensor:
    (top, bottom), (left, right) = pads
    return F.pad(x, (left, right, top, bottom), value=value)


class PaddedConv2d(torch.nn.Conv2d):
    """A convolution whose padding differs between the sides, as "SAME" with a stride does."""

    def __init__(self, pads: list[tuple[int, int]], *arguments: Any):
        super().__init__(*arguments)
        self.pads = pads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(_pad(x, self.pads))


class ConvTranspose2d(torch.nn.ConvTranspose2d):
    """A transposed convolution that may cut more on one side than on the other."""

    def __init__(self, place: Place):
        layer = place.layer
        cuts, spare = transpose_cuts(place)
        even = [min(cut) for cut in cuts]
        super().__init__(
            layer.in_features,
            layer.out_features,
            layer.kernel_size,
            pair(layer.strides),
            padding=pair(tuple(even)),
            output_padding=pair(tuple(spare)),
            bias=layer.use_bias,
        )
        self.crop = [(even[axis] - before, even[axis] - after) for axis, (before, after) in enumerate(cuts)]

    def forward(self, x: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        y = super().forward(x, output_size)
        return _pad(y, self.crop) if any(map(any, self.crop)) else y


class PaddedMaxPool2d(torch.nn.Module):
    """A max-pool padded with minus infinity, more after than before where "SAME" asks for it."""

    def __init__(self, place: Place):
        super().__init__()
        self.window, self.strides, self.pads = place.layer.window, place.layer.strides, place.pads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(_pad(x, self.pads, -torch.inf), self.window, self.strides)


class PaddedAvgPool2d(PaddedMaxPool2d):
    """A mean over windows in which padding counts or does not."""

    def __init__(self, place: Place):
        super().__init__(place)
        self.count_include_pad = place.layer.count_include_pad

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.count_include_pad:
            return F.avg_pool2d(_pad(x, self.pads), self.window, self.strides)
        sums, counts = (F.avg_pool2d(_pad(v, self.pads), self.window, self.strides) for v in (x, torch.ones_like(x)))
        return sums / counts


class _AtPlace(torch.nn.Module):
    """Made from its place, without numbers of its own."""

    def __init__(self, place: Place):
        super().__init__()
        self.channels = place.channels


class Add(_AtPlace):
    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return functools.reduce(torch.add, values)


class Subtract(_AtPlace):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a - b


class Divide(_AtPlace):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a / b


class Multiply(_AtPlace):
    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return functools.reduce(torch.mul, values)


class Concat(_AtPlace):
    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return torch.cat(values, self.channels)


class Affine(torch.nn.Module):
    """A constant scale and shift; neither is in the `state_dict`."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, place: Place):
        super().__init__()
        for name in ("scale", "shift"):
            number = torch.tensor(getattr(place.layer, name), dtype=torch.float64)
            self.register_buffer(name, number.reshape(place.along) if number.ndim else number, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale + self.shift


class Pixels(torch.nn.Module):
    """Stored pixels (N, C, H, W), 0 to 255, as a network takes them; its numbers are not in the `state_dict`."""

    scale: torch.Tensor
    offset: torch.Tensor

    def __init__(self, preprocess: Preprocess, network: torch.nn.Module):
        super().__init__()
        dtype = next((each.dtype for each in network.parameters() if each.is_floating_point()), torch.float32)
        for name in ("scale", "offset"):
            numbers = torch.tensor(getattr(preprocess, name), dtype=dtype).reshape(-1, 1, 1)
            self.register_buffer(name, numbers, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self.scale.dtype) * self.scale + self.offset


class ChannelsLastFlatten(_AtPlace):
    """(N, C, H, W) to (N, H * W * C)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


class LastAxisBatchNorm(torch.nn.BatchNorm1d):
    """Batch normalization over the last axis of examples that are not maps, such as (T, C)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.reshape(-1, x.shape[-1])).reshape(x.shape)


class LayerNorm2d(torch.nn.LayerNorm):
    """Layer normalization over the channels of (N, C, H, W), which `torch.nn.LayerNorm` takes on the last axis."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class PolarTransform(_AtPlace):
    """Points (x, y) to (r, phi)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.hypot(x[:, 0], x[:, 1]), torch.atan2(x[:, 1], x[:, 0])], dim=1)
