"""Views, permutations, pads, slices, concatenations and pools of tensors whose maps are channels first, (C, H, W)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from flax import nnx

from flaxvision.layers import Affine, AvgPool, Concat, MaxPool, Pad, Resize, Upsample
from flaxvision.layers.kinds import Shape
from flaxvision.models.reading.axes import Layout, atoms_of
from flaxvision.models.reading.graph import Call, Growth, Held
from flaxvision.models.reading.weighted import Window, check_reach
from flaxvision.ops.windows import Pair


def viewed(growth: Growth, call: Call, held: Held, shape: Shape) -> Held:
    """The tensor in another shape, without the batch."""
    layout, value = held.layout.viewed(shape), held.value
    if layout is None and math.prod(shape) == math.prod(held.shape):  # an axis begins within a channel or row
        vector = growth.with_base(call, held, (atoms_of(held.layout.axes),))
        value, layout = vector.value, Layout.plain(vector.value.shape).viewed(shape)
    if layout is None:
        call.refuse(f"{call.words} from {('N', *held.shape)} to {('N', *shape)}", "keep every number once")
    return Held(value, layout, call)


def permuted(call: Call, held: Held, order: Sequence[int]) -> Held:
    """The tensor with its axes, but the batch's, in another order."""
    if sorted(order) != list(range(len(held.shape))):
        call.refuse(f"{call.words} of {len(held.shape)} axes by {tuple(order)}", "keep every axis once")
    return Held(held.value, held.layout.permuted(order), call)


def folded(growth: Growth, call: Call, held: Held, split: Shape, order: Sequence[int], shape: Shape) -> Held:
    """A view, a permutation and a view."""
    apart = viewed(growth, call, held, split)
    return viewed(growth, call, permuted(call, apart, order), shape)


def padded(
    growth: Growth,
    call: Call,
    held: Held,
    pads: dict[int, Pair],
    value: float = 0.0,
    mode: str = "constant",
    *,
    end: str = "",
) -> Held:
    """The tensor with (before, after) put around axes (counted without the batch), or cut off where negative; with
    `end` the layer is beside what the call names.
    """
    if not any(map(any, pads.values())):
        return held
    order = held.layout.permutation
    held = growth.plain(call, held) if order is None else held
    order = order or tuple(range(len(held.shape)))
    first = {order[axis]: each for axis, each in pads.items()}  # on the axes of our value, channels first
    in_order = [first.get(axis, (0, 0)) for axis in range(len(held.shape))]
    made = growth.add(call, Pad([*in_order[1:], in_order[0]], value, mode), held, end=end)
    return in_order_of(Held(made, Layout.plain(made.shape)), order)


def in_order_of(held: Held, order: Sequence[int]) -> Held:
    """A value of its own as the tensor with its axes in this order."""
    return Held(held.value, held.layout.permuted(order))


def sliced(growth: Growth, call: Call, held: Held, axis: int, start: int, stop: int) -> Held:
    """Some of the tensor along an axis (counted without the batch)."""
    size = held.shape[axis]
    if not 0 <= start < stop <= size:
        call.refuse(f"{call.words} of {start} to {stop} of {size}", "leave something")
    return padded(growth, call, held, {axis: (-start, stop - size)})


def concatenated(growth: Growth, call: Call, parts: Sequence[Held], axis: int) -> Held:
    """Tensors one after the other along an axis (counted without the batch), which holds the channels."""
    orders = {part.layout.permutation for part in parts}
    order = orders.pop() if len(orders) == 1 else None
    if order is None or not (0 <= axis < len(order) and order[axis] == 0):
        parts = [growth.plain(call, part) for part in parts]
        order = tuple(range(len(parts[0].shape)))
    if len({len(part.shape) for part in parts}) > 1 or not 0 <= axis < len(order) or order[axis] != 0:
        call.refuse(f"{call.words} along axis {axis + 1}", "one along the channels would do")
    if len(parts) == 1:
        return parts[0]
    return in_order_of(growth.joined(call, Concat(), *parts), order)


def pooled(
    growth: Growth,
    call: Call,
    held: Held,
    window: Pair,
    strides: Pair,
    padding: str | tuple[Pair, Pair],
    *,
    largest: bool,
    counts: bool = False,
) -> Held:
    """A pool over a map (C, H, W); `counts`: whether padding counts towards a mean."""
    held = growth.as_map(call, held)
    check_reach(growth, call, held, window, Window(strides, padding))
    ours: str | Pair = "VALID"
    if isinstance(padding, str):
        ours = padding
    elif any(map(any, padding)):
        (above, below), (left, right) = padding
        even = above == below and left == right and 2 * above <= window[0] and 2 * left <= window[1]
        if even:
            ours = (above, left)
        elif largest or counts:
            held = padded(growth, call, held, {1: padding[0], 2: padding[1]}, -math.inf if largest else 0.0)
        else:
            call.refuse(
                f"{call.words} with padding {padding} that does not count", "padding alike on both sides would do"
            )
    layer: nnx.Module = (
        MaxPool(window, strides, ours) if largest else AvgPool(window, strides, ours, counts and ours != "VALID")
    )
    return growth.joined(call, layer, held)


def upsampled(growth: Growth, call: Call, held: Held, scale: Pair) -> Held:
    """Every value of a map (C, H, W) repeated along height and width."""
    return held if scale == (1, 1) else growth.on_map(call, Upsample(scale), held)


def strided(growth: Growth, call: Call, held: Held, steps: Pair) -> Held:
    """Every so many rows and columns of a map (C, H, W)."""
    return held if steps == (1, 1) else growth.on_map(call, MaxPool(1, steps), held)


def inner_axes(call: Call, held: Held, given: Iterable[int]) -> tuple[int, ...]:
    """Axes to reduce over, counted without the batch."""
    found = sorted({int(axis) % (len(held.shape) + 1) for axis in given})
    if not found or found[0] == 0:
        call.refuse(f"{call.words} over the examples", "give the axes of height, width or channels, such as (2, 3)")
    return tuple(axis - 1 for axis in found)


def total(growth: Growth, call: Call, held: Held, axes: tuple[int, ...], keep: bool) -> Held:
    """The sum over axes (counted without the batch)."""
    mean = growth.reduce(call, held, axes, keep, largest=False)
    return growth.elementwise(call, Affine(float(math.prod(held.shape[axis] for axis in axes))), mean)


def resized(growth: Growth, call: Call, held: Held, size: Pair, *, align_corners: bool = False) -> Held:
    """A map (C, H, W) interpolated bilinearly to another height and width."""
    return growth.on_map(call, Resize(size, align_corners), held)


def channels_last(call: Call, held: Held) -> Held:
    """(C, H, W) as (H, W, C); what is no map stays."""
    return permuted(call, held, (1, 2, 0)) if len(held.shape) == 3 else held


def channels_first(call: Call, held: Held) -> Held:
    """(H, W, C) as (C, H, W); what is no map stays."""
    return permuted(call, held, (2, 0, 1)) if len(held.shape) == 3 else held
