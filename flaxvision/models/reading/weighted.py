"""Layers with weights: ours, from another framework's numbers and settings; maps are channels first, (C, H, W)."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence

import numpy as np
from flax import nnx

from flaxvision.layers import KINDS, BatchNorm, Conv, ConvTranspose, GroupNorm, LayerNorm, Linear, Pad, PReLU
from flaxvision.models.reading.axes import Atom, Axis, Layout
from flaxvision.models.reading.graph import Call, Growth, Held, Value
from flaxvision.ops.windows import Pair

Padding = str | tuple[Pair, Pair]  # "SAME", "VALID", or (before, after) of height and width


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """How a kernel moves over a map."""

    strides: Pair = (1, 1)
    padding: Padding = "VALID"
    dilation: Pair = (1, 1)
    groups: int = 1


def conv(
    growth: Growth, call: Call, key: Hashable, held: Held, kernel: np.ndarray, bias: np.ndarray | None, window: Window
) -> Held:
    """A convolution, its kernel (H, W, in / groups, out); zeros that were put around its map are its padding."""
    held, window = _with_pads(growth, held, window)
    check_reach(growth, call, held, kernel.shape[:2], window)
    height, width, channels, features = kernel.shape
    layer = KINDS[Conv].make(
        in_features=channels * window.groups,
        out_features=features,
        kernel_size=(height, width),
        strides=window.strides,
        padding=window.padding,
        feature_group_count=window.groups,
        kernel_dilation=1 if window.dilation == (1, 1) else window.dilation,
        use_bias=bias is not None,
    )
    return _on_map(growth, call, key, held, layer, kernel, bias)


def check_reach(
    growth: Growth,
    call: Call,
    held: Held,
    kernel: Sequence[int],
    window: Window,
    spread: Sequence[int] | None = None,
) -> None:
    """Raise if a map (C, H, W), spread by a transposed convolution, would be padded beyond measure."""
    pads = window.padding if not isinstance(window.padding, str) else ((0, 0), (0, 0))
    sides = spread or held.shape[1:]
    reaches = [(k - 1) * d + 1 for k, d in zip(kernel, window.dilation, strict=True)]
    growth.check_window(
        *(call, held), [side + sum(pad) + reach for side, pad, reach in zip(sides, pads, reaches, strict=True)]
    )


def _with_pads(growth: Growth, held: Held, window: Window) -> tuple[Held, Window]:
    """The value before zeros were put around it, and the window with them as padding."""
    sides = ((0, 0), (0, 0)) if window.padding == "VALID" else window.padding
    while held.layout.is_plain and not isinstance(sides, str):
        node = next((each for each in reversed(growth.nodes) if each.name == held.value.name), None)
        layer = None if node is None else growth.layers[node.layer]
        if node is None or not isinstance(layer, Pad) or layer.mode != "constant" or layer.value:
            break
        if len(layer.pads) != 3:
            break
        rows, columns, channels = layer.pads
        if any(channels) or min(*rows, *columns) < 0:
            break
        before = node.takes[0]
        value = Value(before, growth.shapes[before])
        held = Held(value, Layout.plain(value.shape))
        above, left = sides
        sides = (above[0] + rows[0], above[1] + rows[1]), (left[0] + columns[0], left[1] + columns[1])
    return held, window if sides == ((0, 0), (0, 0)) else dataclasses.replace(window, padding=sides)


def conv_transpose(
    growth: Growth, call: Call, key: Hashable, held: Held, kernel: np.ndarray, bias: np.ndarray | None, window: Window
) -> Held:
    """A transposed convolution, its kernel (H, W, out, in) as in PyTorch; padding is Flax's, of the dilated input."""
    height, width, features, channels = kernel.shape
    spread = tuple((side - 1) * stride + 1 for side, stride in zip(held.shape[1:], window.strides, strict=True))
    check_reach(growth, call, held, kernel.shape[:2], window, spread)
    layer = KINDS[ConvTranspose].make(
        in_features=channels,
        out_features=features,
        kernel_size=(height, width),
        strides=window.strides,
        padding=window.padding,
        transpose_kernel=True,
        use_bias=bias is not None,
    )
    return _on_map(growth, call, key, held, layer, kernel, bias)


def _on_map(
    growth: Growth,
    call: Call,
    key: Hashable,
    held: Held,
    layer: nnx.Module,
    kernel: np.ndarray,
    bias: np.ndarray | None,
) -> Held:
    numbers = {"kernel": kernel} if bias is None else {"kernel": kernel, "bias": bias}
    value = growth.weighted(call, key, layer, growth.as_map(call, held), numbers)
    return Held(value, Layout.plain(value.shape))


def linear(
    growth: Growth, call: Call, key: Hashable, held: Held, axis: int, kernel: np.ndarray, bias: np.ndarray | None
) -> Held:
    """A linear layer over an axis (counted without the batch), its kernel (in, out)."""
    features, outputs = kernel.shape
    if held.shape[axis] != features:
        call.refuse(f"{call.words} of {features} features on {held.shape[axis]}", "give as many")
    held, order = growth.featured(call, held, axis)
    layer = KINDS[Linear].make(in_features=features, out_features=outputs, use_bias=bias is not None)
    numbers = {"kernel": kernel if order is None else kernel[order]}
    numbers |= {} if bias is None else {"bias": bias}
    value = growth.weighted(call, key, layer, held, numbers)
    made: Axis = (Atom(outputs),) if outputs != 1 else ()
    axes = list(held.layout.axes)
    axes[axis] = made
    return Held(value, Layout((made, *held.layout.base[1:]), tuple(axes)))


def batch_norm(
    growth: Growth,
    call: Call,
    key: Hashable,
    held: Held,
    axis: int,
    numbers: dict[str, np.ndarray],
    momentum: float,
    epsilon: float,
) -> Held:
    """A batch normalization along an axis, its numbers by our names: scale, bias, mean, var."""
    features = held.shape[axis]
    if any(value.shape != (features,) for value in numbers.values()):
        call.refuse(f"{call.words} of {len(numbers['scale'])} channels on {features}", "give as many")
    if not 0 <= momentum <= 1:
        call.refuse(f"{call.words} with momentum={momentum}", "give a number from 0 to 1")
    return _along(growth, call, key, BatchNorm(features, momentum, epsilon), held, axis, numbers)


def layer_norm(
    growth: Growth,
    call: Call,
    key: Hashable,
    held: Held,
    axis: int,
    scale: np.ndarray | None,
    bias: np.ndarray | None,
    epsilon: float,
) -> Held:
    """A layer normalization over one axis."""
    numbers = _scale_and_bias(call, held.shape[axis], scale, bias)
    return _along(growth, call, key, LayerNorm(held.shape[axis], epsilon), held, axis, numbers)


def _along(
    growth: Growth, call: Call, key: Hashable, layer: nnx.Module, held: Held, axis: int, numbers: dict[str, np.ndarray]
) -> Held:
    """A layer with numbers for each index of an axis (counted without the batch)."""
    held, order = growth.featured(call, held, axis)
    ours = {part: value if order is None else value[order] for part, value in numbers.items()}
    return dataclasses.replace(held, value=growth.weighted(call, key, layer, held, ours), by=None)


def group_norm(
    growth: Growth,
    call: Call,
    key: Hashable,
    held: Held,
    groups: int,
    scale: np.ndarray | None,
    bias: np.ndarray | None,
    epsilon: float,
) -> Held:
    """A group normalization of maps (C, H, W) or vectors, with a number for each channel."""
    held = growth.plain(call, held)
    channels = held.value.shape[-1]
    if not 1 <= groups <= channels or channels % groups:
        call.refuse(f"{call.words} of {channels} channels in {groups} groups", "give a divisor of the channels")
    numbers = _scale_and_bias(call, channels, scale, bias)
    value = growth.weighted(call, key, GroupNorm(groups, channels, epsilon), held, numbers)
    return dataclasses.replace(held, value=value, by=None)


def prelu(growth: Growth, call: Call, key: Hashable, held: Held, axis: int, slope: np.ndarray) -> Held:
    """A PReLU with one slope, or one for each number along an axis."""
    slope = slope.ravel()
    if slope.size == 1:
        value = growth.weighted(call, key, PReLU(1), held, {"slope": slope})
        return dataclasses.replace(held, value=value, by=None)
    if held.shape[axis] != slope.size:
        call.refuse(f"{call.words} of {slope.size} slopes on {held.shape[axis]} channels", "give 1, or one a channel")
    return _along(growth, call, key, PReLU(slope.size), held, axis, {"slope": slope})


def _scale_and_bias(
    call: Call, channels: int, scale: np.ndarray | None, bias: np.ndarray | None
) -> dict[str, np.ndarray]:
    """A normalization's numbers; ones and zeros where it has none."""
    found = {
        "scale": np.ones(channels, np.float32) if scale is None else scale.ravel(),
        "bias": np.zeros(channels, np.float32) if bias is None else bias.ravel(),
    }
    if any(value.shape != (channels,) for value in found.values()):
        call.refuse(f"{call.words} of {found['scale'].size} numbers on {channels} channels", "give one for each")
    return found


def transposed_padding(kernel: Pair, cuts: tuple[Pair, Pair], more: Pair = (0, 0)) -> tuple[Pair, Pair]:
    """Flax's padding of a transposed convolution that is cut by (before, after) an axis, `more` added after.

    >>> transposed_padding((3, 3), ((1, 1), (0, 0)))
    ((1, 1), (2, 2))
    """
    rows, columns = (
        (k - 1 - low, k - 1 - high + extra) for k, (low, high), extra in zip(kernel, cuts, more, strict=True)
    )
    return rows, columns


def same_transposed(kernel: int, stride: int) -> Pair:
    """What Flax's padding "SAME" of a transposed convolution is along an axis.

    >>> same_transposed(3, 2)
    (2, 1)
    """
    total = kernel + stride - 2
    low = kernel - 1 if stride > kernel - 1 else -(-total // 2)
    return low, total - low
