"""How pools, reductions over axes and upsampling are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from flaxvision.layers import GlobalAvgPool, GlobalMaxPool
from flaxvision.models.reading import shaping
from flaxvision.models.reading.graph import Growth, Held
from flaxvision.models.torch_reader.calls import Call
from flaxvision.models.torch_reader.pointwise import larger
from flaxvision.models.torch_reader.table import pair_of, reads

Sizes = int | Sequence[int]


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
    input = growth.as_map(call, input)
    window, pads = pair_of(kernel_size), pair_of(padding)
    strides = pair_of(stride) if stride else window
    below, right = _spare(call, input, window, strides, pads)
    around = (pads[0], pads[0] + below), (pads[1], pads[1] + right)
    return shaping.pooled(growth, call, input, window, strides, around, largest=True)


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
    input = growth.as_map(call, input)
    window, pads = pair_of(kernel_size), pair_of(padding)
    strides = pair_of(stride) if stride else window
    if divisor_override or any(_spare(call, input, window, strides, pads)):
        call.refuse("F.avg_pool2d with ceil_mode or divisor_override", "ceil_mode=False and no divisor would do")
    around = (pads[0], pads[0]), (pads[1], pads[1])
    return shaping.pooled(growth, call, input, window, strides, around, largest=False, counts=count_include_pad)


def _adaptive(growth: Growth, call: Call, held: Held, largest: bool) -> Held:
    held = growth.as_map(call, held)
    sides, wanted = held.shape[1:], call.shape[1:]
    if wanted == (1, 1):
        return growth.on_map(call, GlobalMaxPool() if largest else GlobalAvgPool(), held)
    if wanted == sides:
        return held
    if all(side % want == 0 for side, want in zip(sides, wanted, strict=True)):
        window = sides[0] // wanted[0], sides[1] // wanted[1]
        return shaping.pooled(growth, call, held, window, window, "VALID", largest=largest)
    if all(want % side == 0 for side, want in zip(sides, wanted, strict=True)):
        return shaping.upsampled(growth, call, held, (wanted[0] // sides[0], wanted[1] // sides[1]))
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
    input = growth.as_map(call, input)
    sides, wanted = input.shape[1:], call.shape[1:]
    given = scale_factor if isinstance(scale_factor, Sequence) else (scale_factor or 0.0,) * len(sides)
    exact = recompute_scale_factor or all(
        scale * side in (0, new) for scale, side, new in zip(given, sides, wanted, strict=True)
    )
    if mode == "bilinear" and exact and not antialias:
        return shaping.resized(growth, call, input, (wanted[0], wanted[1]), align_corners=bool(align_corners))
    whole = all(want % side == 0 for side, want in zip(sides, wanted, strict=True))
    if not mode.startswith("nearest") or not whole:
        call.refuse(
            f"F.interpolate with mode={mode!r} from {sides} to {wanted}",
            "mode='nearest' to a whole multiple, or mode='bilinear' to a size, without antialias, would do",
        )
    return shaping.upsampled(growth, call, input, (wanted[0] // sides[0], wanted[1] // sides[1]))


# Reductions.


def _axes(call: Call, held: Held, dim: Any) -> tuple[int, ...]:
    """The axes of `dim`, counted without the batch."""
    return shaping.inner_axes(call, held, () if dim is None else (dim,) if isinstance(dim, int) else dim)


@reads(torch.mean, "mean")
def _mean(growth: Growth, call: Call, input: Held, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Held:
    return growth.reduce(call, input, _axes(call, input, dim), keepdim, largest=False)


@reads(torch.sum, "sum")
def _sum(growth: Growth, call: Call, input: Held, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Held:
    return shaping.total(growth, call, input, _axes(call, input, dim), keepdim)


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
