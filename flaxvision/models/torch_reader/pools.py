"""How pools, reductions over axes and upsampling are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from flaxvision.layers import Affine, AvgPool, GlobalAvgPool, GlobalMaxPool, MaxPool, Resize, Upsample
from flaxvision.models.reading.axes import Layout
from flaxvision.models.reading.graph import Growth, Held
from flaxvision.models.torch_reader.calls import Call
from flaxvision.models.torch_reader.pointwise import larger
from flaxvision.models.torch_reader.shaping import padded
from flaxvision.models.torch_reader.table import pair_of, reads

Sizes = int | Sequence[int]


def _of_map(growth: Growth, call: Call, layer: Any, held: Held) -> Held:
    value = growth.add(call, layer, growth.as_map(call, held))
    return Held(value, Layout.plain(value.shape))


def _spare(call: Call, held: Held, window: Sequence[int], stride: Sequence[int], pads: Sequence[int]) -> list[int]:
    """How far the last windows reach beyond the padded map, with ceil_mode."""
    axes = zip(call.shape[1:], held.shape[1:], window, stride, pads, strict=True)
    return [max(0, (out - 1) * s + k - side - 2 * pad) for out, side, k, s, pad in axes]


@reads(F.max_pool2d, torch.max_pool2d)
def _max_pool(
    growth: Growth,
    call: Call,
    input: Held,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Held:
    if pair_of(dilation) != (1, 1) or return_indices:
        call.refuse("F.max_pool2d with dilation or indices", "dilation=1 and return_indices=False would do")
    window, pads = pair_of(kernel_size), pair_of(padding)
    strides = pair_of(stride) if stride else window
    spare = _spare(call, input, window, strides, pads)
    if any(spare):
        around = {1: (pads[0], pads[0] + spare[0]), 2: (pads[1], pads[1] + spare[1])}
        wide = padded(growth, call, input, around, -math.inf)
        return _of_map(growth, call, MaxPool(window, strides), wide)
    return _of_map(growth, call, MaxPool(window, strides, pads if any(pads) else "VALID"), input)


@reads(F.avg_pool2d)
def _avg_pool(
    growth: Growth,
    call: Call,
    input: Held,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Held:
    window, pads = pair_of(kernel_size), pair_of(padding)
    strides = pair_of(stride) if stride else window
    if divisor_override or any(_spare(call, input, window, strides, pads)):
        call.refuse("F.avg_pool2d with ceil_mode or divisor_override", "ceil_mode=False and no divisor would do")
    layer = AvgPool(window, strides, pads, count_include_pad) if any(pads) else AvgPool(window, strides)
    return _of_map(growth, call, layer, input)


def _adaptive(growth: Growth, call: Call, held: Held, largest: bool) -> Held:
    sides, wanted = held.shape[1:], call.shape[1:]
    if wanted == (1, 1):
        return _of_map(growth, call, GlobalMaxPool() if largest else GlobalAvgPool(), held)
    if wanted == sides:
        return held
    if all(side % want == 0 for side, want in zip(sides, wanted, strict=True)):
        window = (sides[0] // wanted[0], sides[1] // wanted[1])
        return _of_map(growth, call, MaxPool(window) if largest else AvgPool(window), held)
    if all(want % side == 0 for side, want in zip(sides, wanted, strict=True)):
        return _of_map(growth, call, Upsample((wanted[0] // sides[0], wanted[1] // sides[1])), held)
    call.refuse(f"{call.words} from {sides} to {wanted}", "give sizes that divide, or 1")


@reads(F.adaptive_avg_pool2d)
def _adaptive_avg_pool(growth: Growth, call: Call, input: Held, output_size: Any) -> Held:
    return _adaptive(growth, call, input, False)


@reads(F.adaptive_max_pool2d)
def _adaptive_max_pool(growth: Growth, call: Call, input: Held, output_size: Any, return_indices: bool = False) -> Held:
    if return_indices:
        call.refuse("F.adaptive_max_pool2d with indices", "return_indices=False would do")
    return _adaptive(growth, call, input, True)


@reads(F.interpolate)
def _interpolate(
    growth: Growth,
    call: Call,
    input: Held,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Held:
    sides, wanted = input.shape[1:], call.shape[1:]
    given = scale_factor if isinstance(scale_factor, Sequence) else (scale_factor or 0.0,) * len(sides)
    exact = recompute_scale_factor or all(
        scale * side in (0, new) for scale, side, new in zip(given, sides, wanted, strict=True)
    )
    if mode == "bilinear" and exact and not antialias:
        return _of_map(growth, call, Resize((wanted[0], wanted[1]), bool(align_corners)), input)
    whole = all(want % side == 0 for side, want in zip(sides, wanted, strict=True))
    if not mode.startswith("nearest") or not whole:
        call.refuse(
            f"F.interpolate with mode={mode!r} from {sides} to {wanted}",
            "mode='nearest' to a whole multiple, or mode='bilinear' to a size, without antialias, would do",
        )
    if sides == wanted:
        return input
    return _of_map(growth, call, Upsample((wanted[0] // sides[0], wanted[1] // sides[1])), input)


# Reductions.


def _axes(call: Call, held: Held, dim: Any) -> tuple[int, ...]:
    """The axes of `dim`, counted without the batch."""
    axes = len(held.shape) + 1
    given = () if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    found = tuple(sorted({each % axes for each in given}))
    if not found or found[0] == 0:
        call.refuse(f"{call.words} over the examples", "give the axes, such as dim=(2, 3)")
    return tuple(axis - 1 for axis in found)


@reads(torch.mean, "mean")
def _mean(growth: Growth, call: Call, input: Held, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Held:
    return growth.reduce(call, input, _axes(call, input, dim), keepdim, largest=False)


@reads(torch.sum, "sum")
def _sum(growth: Growth, call: Call, input: Held, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Held:
    axes = _axes(call, input, dim)
    mean = growth.reduce(call, input, axes, keepdim, largest=False)
    return growth.elementwise(call, Affine(float(math.prod(input.shape[axis] for axis in axes))), mean)


@reads(torch.amax, "amax")
def _amax(growth: Growth, call: Call, input: Held, dim: Any = None, keepdim: bool = False) -> Held:
    return growth.reduce(call, input, _axes(call, input, dim), keepdim, largest=True)


@reads(torch.max, "max")
def _max(
    growth: Growth, call: Call, input: Held, dim: int | Held | None = None, keepdim: bool = False
) -> Held | tuple[Held, None]:
    if isinstance(dim, Held):
        return larger(growth, call, input, dim)
    if not isinstance(dim, int):
        call.refuse(f"{call.words} of all numbers", "x.amax(dim) would do")
    return growth.reduce(call, input, _axes(call, input, dim), keepdim, largest=True), None
