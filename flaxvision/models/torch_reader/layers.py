"""How PyTorch's layers with weights are read."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import nn

from flaxvision.layers import BatchNorm, GroupNorm, LayerNorm
from flaxvision.layers.moving import MODES
from flaxvision.models.reading import shaping, weighted
from flaxvision.models.reading.graph import Growth, Held
from flaxvision.models.reading.weighted import Window, transposed_padding
from flaxvision.models.torch_reader.calls import Call
from flaxvision.models.torch_reader.table import Loose, array_of, pair_of, reads


@reads(nn.Conv2d)
def _conv(growth: Growth, call: Call, module: nn.Conv2d, input: Held) -> Held:
    mode, padding = module.padding_mode, module.padding
    if mode not in ("zeros", *MODES):
        call.refuse(f"nn.Conv2d with padding_mode={mode!r}", "padding_mode='zeros', 'reflect' or 'replicate' would do")
    if mode != "zeros":
        left, right, above, below = module._reversed_padding_repeated_twice
        input = shaping.padded(growth, call, input, {1: (above, below), 2: (left, right)}, 0.0, mode, end="_pad")
        padding = (0, 0)
    settings = module.stride, padding, module.dilation, module.groups
    return _convolution(growth, call, str(call.node.target), input, module.weight, module.bias, *settings)


@reads(F.conv2d)
def _functional_conv(
    growth: Growth,
    call: Call,
    input: Held,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Held:
    name = _owner(call, weight, bias)
    return _convolution(growth, call, name, input, weight, bias, stride, padding, dilation, groups)


def _convolution(
    growth: Growth,
    call: Call,
    name: str,
    input: Held,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Held:
    kernel = _kernel(weight)
    apart = pair_of(dilation)
    if isinstance(padding, str):
        total = [(k - 1) * d if padding == "same" else 0 for k, d in zip(kernel.shape[:2], apart, strict=True)]
        (above, below), (left, right) = ((both // 2, both - both // 2) for both in total)
    else:
        (above, left) = (below, right) = pair_of(padding)
    window = Window(pair_of(stride), ((above, below), (left, right)), apart, groups)
    return weighted.conv(growth, call, name, input, kernel, array_of(bias), window)


def _kernel(weight: Any) -> np.ndarray:
    """A convolution's weight (out, in, H, W) as (H, W, in, out)."""
    kernel = array_of(weight)
    assert kernel is not None
    return kernel.transpose(2, 3, 1, 0)


def _owner(call: Call, weight: Any, bias: Any) -> str:
    """The module whose weight and bias a functional layer takes."""
    given = [each for each in (weight, bias) if isinstance(each, Loose)]
    viewed = next((each.name for each in given if each.tensor.shape != each.parameter.shape), None)
    if viewed is not None:
        call.refuse(f"{call.words} with a view of {viewed}", "use the layer as it is, or a layer of its own")
    names = {each.name.rpartition(".")[::2] for each in given}
    owners = {owner for owner, _ in names}
    plain = isinstance(weight, Loose) and (bias is None or isinstance(bias, Loose))
    if plain and owners == {""}:
        call.refuse(f"{call.words} with tensors of the whole module's own", "put the module into nn.Sequential(…)")
    if not plain or len(owners) > 1 or {part for _, part in names} - {"weight", "bias"}:
        call.refuse(
            f"{call.words} with tensors that are no layer's weight and bias", "use the layer, nn.Conv2d and so on"
        )
    return owners.pop()


@reads(nn.ConvTranspose2d)
def _conv_transpose(growth: Growth, call: Call, module: nn.ConvTranspose2d, input: Held) -> Held:
    if module.groups != 1 or pair_of(module.dilation) != (1, 1):
        call.refuse("nn.ConvTranspose2d with groups or dilation", "groups=1 and dilation=1 would do")
    above, left = pair_of(module.padding)
    cuts, more = ((above, above), (left, left)), pair_of(module.output_padding)
    window = Window(pair_of(module.stride), transposed_padding(pair_of(module.kernel_size), cuts, more))
    kernel, bias = _kernel(module.weight), array_of(module.bias)
    return weighted.conv_transpose(growth, call, str(call.node.target), input, kernel, bias, window)


@reads(nn.Linear)
def _linear(growth: Growth, call: Call, module: nn.Linear, input: Held) -> Held:
    return _of_features(growth, call, str(call.node.target), module.weight, module.bias, input)


@reads(F.linear)
def _functional_linear(growth: Growth, call: Call, input: Held, weight: Any, bias: Any = None) -> Held:
    return _of_features(growth, call, _owner(call, weight, bias), weight, bias, input)


def _of_features(growth: Growth, call: Call, name: str, weight: Any, bias: Any, input: Held) -> Held:
    kernel = array_of(weight)
    assert kernel is not None
    return weighted.linear(growth, call, name, input, len(input.shape) - 1, kernel.T, array_of(bias))


@reads(nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
def _batch_norm(growth: Growth, call: Call, module: nn.BatchNorm2d, input: Held) -> Held:
    if not module.track_running_stats or module.running_mean is None or module.momentum is None:
        call.refuse(
            f"{call.words} without running statistics, or with their plain average",
            "track_running_stats=True and a momentum such as 0.1 would do",
        )
    held = growth.with_features(call, input, 0) if len(input.shape) == 2 else growth.plain(call, input)
    layer = BatchNorm(module.num_features, 1 - module.momentum, module.eps, module.affine)
    return _norm(growth, call, layer, held)


@reads(nn.GroupNorm)
def _group_norm(growth: Growth, call: Call, module: nn.GroupNorm, input: Held) -> Held:
    layer = GroupNorm(module.num_groups, module.num_channels, module.eps, module.affine)
    return _norm(growth, call, layer, growth.plain(call, input))


@reads(nn.InstanceNorm2d)
def _instance_norm(growth: Growth, call: Call, module: nn.InstanceNorm2d, input: Held) -> Held:
    if module.track_running_stats:
        call.refuse("nn.InstanceNorm2d with running statistics", "track_running_stats=False would do")
    layer = GroupNorm(module.num_features, module.num_features, module.eps, module.affine)
    return _norm(growth, call, layer, growth.as_map(call, input))


@reads(F.group_norm)
def _functional_group_norm(
    growth: Growth, call: Call, input: Held, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Held:
    if (weight is None) != (bias is None):
        call.refuse("F.group_norm with a weight or a bias alone", "give both, or none")
    layer = GroupNorm(num_groups, input.shape[0], eps, weight is not None)
    return _functional_norm(growth, call, layer, growth.plain(call, input), weight, bias)


@reads(F.instance_norm)
def _functional_instance_norm(
    growth: Growth,
    call: Call,
    input: Held,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Held:
    if running_mean is not None or not use_input_stats or (weight is None) != (bias is None):
        call.refuse("F.instance_norm with running statistics, or a weight alone", "each map's own statistics would do")
    layer = GroupNorm(input.shape[0], input.shape[0], eps, weight is not None)
    return _functional_norm(growth, call, layer, growth.as_map(call, input), weight, bias)


def _functional_norm(growth: Growth, call: Call, layer: GroupNorm | LayerNorm, held: Held, *tensors: Any) -> Held:
    """A normalization that a function applies, by the weights of a layer or without any."""
    if tensors[0] is None:
        return growth.elementwise(call, layer, held)
    return Held(growth.apply(call, _owner(call, *tensors), layer, held), held.layout)


@reads(nn.LayerNorm)
def _layer_norm(growth: Growth, call: Call, module: nn.LayerNorm, input: Held) -> Held:
    if len(module.normalized_shape) != 1:
        call.refuse(
            f"nn.LayerNorm over {len(module.normalized_shape)} axes",
            "nn.GroupNorm(1, channels) normalizes whole maps, nn.LayerNorm(channels) the last axis",
        )
    held = growth.with_features(call, input, len(input.shape) - 1)
    layer = LayerNorm(module.normalized_shape[0], module.eps, module.elementwise_affine, module.bias is not None)
    return _norm(growth, call, layer, held)


@reads(F.layer_norm)
def _functional_layer_norm(
    growth: Growth,
    call: Call,
    input: Held,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Held:
    if len(normalized_shape) != 1 or (weight is None) > (bias is None):
        call.refuse("F.layer_norm over several axes, or with a bias alone", "nn.LayerNorm(channels) would do")
    held = growth.with_features(call, input, len(input.shape) - 1)
    layer = LayerNorm(normalized_shape[0], eps, weight is not None, bias is not None)
    return _functional_norm(growth, call, layer, held, weight, bias)


@reads(nn.PReLU)
def _prelu(growth: Growth, call: Call, module: nn.PReLU, input: Held) -> Held:
    return weighted.prelu(growth, call, str(call.node.target), input, 0, module.weight.detach().numpy())


def _norm(growth: Growth, call: Call, layer: BatchNorm | GroupNorm | LayerNorm, held: Held) -> Held:
    return Held(growth.apply(call, str(call.node.target), layer, held), held.layout)
