"""How PyTorch's layers with weights are read: an entry each, that makes ours without its numbers."""

from __future__ import annotations

from torch import nn

from flaxvision.layers import BatchNorm, Conv, ConvTranspose, GroupNorm, LayerNorm, Linear, PReLU
from flaxvision.layers.kinds import placeholders
from flaxvision.models.torch_reader.axes import Atom, Layout
from flaxvision.models.torch_reader.calls import Call
from flaxvision.models.torch_reader.graph import Growth, Held
from flaxvision.models.torch_reader.table import pair_of, reads


@reads(nn.Conv2d)
def _conv(growth: Growth, call: Call, module: nn.Conv2d, input: Held) -> Held:
    if module.padding_mode != "zeros":
        call.refuse(f"nn.Conv2d with padding_mode={module.padding_mode!r}", "padding_mode='zeros' would do")
    kernel, dilation = pair_of(module.kernel_size), pair_of(module.dilation)
    if isinstance(module.padding, str):
        total = [(k - 1) * d if module.padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
        pads = tuple((both // 2, both - both // 2) for both in total)
    else:
        pads = tuple((side, side) for side in pair_of(module.padding))
    layer = placeholders(Conv)(
        in_features=module.in_channels,
        out_features=module.out_channels,
        kernel_size=kernel,
        strides=pair_of(module.stride),
        padding=pads,
        feature_group_count=module.groups,
        kernel_dilation=1 if dilation == (1, 1) else dilation,
        use_bias=module.bias is not None,
    )
    return _of_map(growth, call, layer, input)


@reads(nn.ConvTranspose2d)
def _conv_transpose(growth: Growth, call: Call, module: nn.ConvTranspose2d, input: Held) -> Held:
    if module.groups != 1 or pair_of(module.dilation) != (1, 1):
        call.refuse("nn.ConvTranspose2d with groups or dilation", "groups=1 and dilation=1 would do")
    kernel = pair_of(module.kernel_size)
    axes = zip(kernel, pair_of(module.padding), pair_of(module.output_padding), strict=True)
    layer = placeholders(ConvTranspose)(
        in_features=module.in_channels,
        out_features=module.out_channels,
        kernel_size=kernel,
        strides=pair_of(module.stride),
        padding=tuple((k - 1 - cut, k - 1 - cut + more) for k, cut, more in axes),
        transpose_kernel=True,
        use_bias=module.bias is not None,
    )
    return _of_map(growth, call, layer, input)


@reads(nn.Linear)
def _linear(growth: Growth, call: Call, module: nn.Linear, input: Held) -> Held:
    last = len(input.shape) - 1
    held = growth.with_features(call, input, last)
    layer = placeholders(Linear)(
        in_features=module.in_features, out_features=module.out_features, use_bias=module.bias is not None
    )
    value = growth.apply(call, str(call.node.target), layer, held)
    made = (Atom(module.out_features),) if module.out_features != 1 else ()
    return Held(value, Layout((made, *held.layout.base[1:]), (*held.layout.axes[:last], made)))


@reads(nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
def _batch_norm(growth: Growth, call: Call, module: nn.BatchNorm2d, input: Held) -> Held:
    if not module.track_running_stats or module.running_mean is None or module.momentum is None:
        call.refuse(
            f"{call.words} without running statistics, or with their plain average",
            "track_running_stats=True and a momentum such as 0.1 would do",
        )
    _check_affine(call, module)
    held = growth.with_features(call, input, 0) if len(input.shape) == 2 else growth.plain(call, input)
    return _norm(growth, call, BatchNorm(module.num_features, 1 - module.momentum, module.eps), held)


@reads(nn.GroupNorm)
def _group_norm(growth: Growth, call: Call, module: nn.GroupNorm, input: Held) -> Held:
    _check_affine(call, module)
    layer = GroupNorm(module.num_groups, module.num_channels, module.eps)
    return _norm(growth, call, layer, growth.plain(call, input))


@reads(nn.InstanceNorm2d)
def _instance_norm(growth: Growth, call: Call, module: nn.InstanceNorm2d, input: Held) -> Held:
    if module.track_running_stats:
        call.refuse("nn.InstanceNorm2d with running statistics", "track_running_stats=False would do")
    _check_affine(call, module)
    layer = GroupNorm(module.num_features, module.num_features, module.eps)
    return _norm(growth, call, layer, growth.as_map(call, input))


@reads(nn.LayerNorm)
def _layer_norm(growth: Growth, call: Call, module: nn.LayerNorm, input: Held) -> Held:
    if len(module.normalized_shape) != 1:
        call.refuse(
            f"nn.LayerNorm over {len(module.normalized_shape)} axes",
            "nn.GroupNorm(1, channels) normalizes whole maps, nn.LayerNorm(channels) the last axis",
        )
    _check_affine(call, module)
    held = growth.with_features(call, input, len(input.shape) - 1)
    return _norm(growth, call, LayerNorm(module.normalized_shape[0], module.eps), held)


@reads(nn.PReLU)
def _prelu(growth: Growth, call: Call, module: nn.PReLU, input: Held) -> Held:
    held = input if module.num_parameters == 1 else growth.with_features(call, input, 0)
    return _norm(growth, call, PReLU(module.num_parameters), held)


def _check_affine(call: Call, module: nn.Module) -> None:
    if getattr(module, "weight", None) is None or getattr(module, "bias", None) is None:
        call.refuse(
            f"{call.words} without a weight and bias", "affine=True (elementwise_affine=True, bias=True) would do"
        )


def _of_map(growth: Growth, call: Call, layer: Conv | ConvTranspose, input: Held) -> Held:
    value = growth.apply(call, str(call.node.target), layer, growth.as_map(call, input))
    return Held(value, Layout.plain(value.shape))


def _norm(growth: Growth, call: Call, layer: BatchNorm | GroupNorm | LayerNorm | PReLU, held: Held) -> Held:
    return Held(growth.apply(call, str(call.node.target), layer, held), held.layout)
