"""How views, permutations, concatenations, pads and slices are read; most of them move nothing."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from flaxvision.layers import Activation, Concat, Multiply
from flaxvision.layers.moving import MODES
from flaxvision.models.reading import shaping
from flaxvision.models.reading.axes import Layout, atoms_of, fresh
from flaxvision.models.reading.graph import Growth, Held
from flaxvision.models.torch_reader.calls import Call
from flaxvision.models.torch_reader.table import reads
from flaxvision.models.torch_reader.trace import facts

# What takes sizes, which may hold the number of examples: only the shape that comes out counts.
VIEWS = (
    *("view", "reshape", "flatten", "squeeze", "unsqueeze", "unflatten", "view_as", "reshape_as"),
    *(torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, torch.unflatten),
)
EXPANSIONS = ("expand", "expand_as", torch.broadcast_to, "broadcast_to")


@reads(*VIEWS)
def _view(growth: Growth, call: Call, input: Held, *_: Any, **__: Any) -> Held:
    return shaping.viewed(growth, call, input, call.shape)


@reads(*EXPANSIONS)
def _expand(growth: Growth, call: Call, input: Held, *_: Any, **__: Any) -> Held:
    if len(call.shape) != len(input.shape):
        call.refuse(f"{call.words} to another number of axes", "view it as (N, C, 1, 1) first")
    if call.shape[0] != input.shape[0]:  # one channel becomes several
        input = _repeated(growth, call, input, call.shape[0])
    return input  # what takes it broadcasts another axis of 1


def _repeated(growth: Growth, call: Call, held: Held, times: int) -> Held:
    """The channels several times, one after the other."""
    return shaping.concatenated(growth, call, [growth.plain(call, held)] * times, 0)


@reads("repeat", torch.tile, "tile")
def _repeat(growth: Growth, call: Call, input: Held, *_: Any, **__: Any) -> Held:
    if call.shape[1:] != input.shape[1:] or not call.shape[0] > input.shape[0]:
        call.refuse(f"{call.words} along the map", "F.interpolate repeats pixels, x.repeat(1, 3, 1, 1) channels")
    return _repeated(growth, call, input, call.shape[0] // input.shape[0])


@reads("permute", torch.permute)
def _permute(growth: Growth, call: Call, input: Held, *each: Any, dims: Any = ()) -> Held:
    order = dims or (each[0] if len(each) == 1 and not isinstance(each[0], int) else each)
    return _permuted(call, input, [dim % (len(input.shape) + 1) for dim in order])


@reads("transpose", torch.transpose, "swapaxes", torch.swapaxes, "swapdims")
def _transpose(growth: Growth, call: Call, input: Held, dim0: int, dim1: int) -> Held:
    order = list(range(len(input.shape) + 1))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return _permuted(call, input, order)


@reads("movedim", torch.movedim)
def _movedim(growth: Growth, call: Call, input: Held, source: int, destination: int) -> Held:
    order = list(range(len(input.shape) + 1))
    order.insert(destination % len(order), order.pop(source))
    return _permuted(call, input, order)


def _permuted(call: Call, held: Held, order: Sequence[int]) -> Held:
    if order[0] != 0:
        call.refuse(f"{call.words} that moves the examples", "keep them along the first axis")
    return shaping.permuted(call, held, [axis - 1 for axis in order[1:]])


@reads(F.pixel_shuffle, torch.pixel_shuffle)
def _pixel_shuffle(growth: Growth, call: Call, input: Held, upscale_factor: int) -> Held:
    channels, height, width = input.shape
    r = upscale_factor
    return shaping.folded(growth, call, input, (channels // r**2, r, r, height, width), (0, 3, 1, 4, 2), call.shape)


@reads(F.pixel_unshuffle, torch.pixel_unshuffle)
def _pixel_unshuffle(growth: Growth, call: Call, input: Held, downscale_factor: int) -> Held:
    channels, height, width = input.shape
    r = downscale_factor
    return shaping.folded(growth, call, input, (channels, height // r, r, width // r, r), (0, 2, 4, 1, 3), call.shape)


@reads(F.channel_shuffle, torch.channel_shuffle)
def _channel_shuffle(growth: Growth, call: Call, input: Held, groups: int) -> Held:
    channels, *sides = input.shape
    order = (1, 0, *range(2, len(sides) + 2))
    return shaping.folded(growth, call, input, (groups, channels // groups, *sides), order, call.shape)


# Pads, slices and concatenations.


@reads(F.pad)
def _pad(
    growth: Growth, call: Call, input: Held, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Held:
    if mode not in MODES or len(pad) // 2 > len(input.shape):
        call.refuse(f"F.pad with mode={mode!r}", "mode='constant', 'reflect' or 'replicate' around maps would do")
    axes = {len(input.shape) - 1 - n: (pad[2 * n], pad[2 * n + 1]) for n in range(len(pad) // 2)}
    return shaping.padded(growth, call, input, axes, float(value or 0.0), mode)


@reads("narrow", torch.narrow)
def _narrow(growth: Growth, call: Call, input: Held, dim: int, start: int, length: int) -> Held:
    axis = dim % (len(input.shape) + 1) - 1
    start %= input.shape[axis]
    return shaping.sliced(growth, call, input, axis, start, start + length)


@reads("chunk", torch.chunk, "split", torch.split, "tensor_split", torch.tensor_split)
def _split(growth: Growth, call: Call, tensor: Held, _: Any = None, dim: int = 0, **__: Any) -> tuple[Held, ...]:
    axis = dim % (len(tensor.shape) + 1) - 1
    if axis < 0:
        call.refuse(f"{call.words} of the examples (dim={dim})", "dim=1 splits channels")
    ends = itertools.accumulate((piece.shape[dim] for piece in facts(call.node).value), initial=0)
    return tuple(shaping.sliced(growth, call, tensor, axis, *each) for each in itertools.pairwise(ends))


@reads(F.glu)
def _glu(growth: Growth, call: Call, input: Held, dim: int = -1) -> Held:
    axis = dim % (len(input.shape) + 1) - 1
    half = input.shape[axis] // 2
    value, gate = (shaping.sliced(growth, call, input, axis, start, start + half) for start in (0, half))
    return growth.together(call, Multiply(), value, growth.elementwise(call, Activation("sigmoid"), gate))


@reads(operator.getitem)
def _getitem(growth: Growth, call: Call, value: Any, index: Any) -> Any:
    if not isinstance(value, Held):
        return value[index]
    given = list(index) if isinstance(index, tuple) else [index]
    missing = len(value.shape) + 1 - sum(each is not None and each is not Ellipsis for each in given)
    at = given.index(Ellipsis) if Ellipsis in given else len(given)
    whole = [*given[:at], *[slice(None)] * missing, *given[at + 1 :]]
    kinds = (int, slice, type(None))
    if whole[0] != slice(None) or not all(isinstance(each, kinds) for each in whole):
        call.refuse(
            f"{call.words} [{', '.join(map(str, given))}]", "take all examples, x[:, ...], by numbers and slices"
        )
    axes = [each for each in whole[1:] if each is not None]
    cut: dict[int, tuple[int, int]] = {}
    steps: dict[int, int] = {}
    for axis, (each, size) in enumerate(zip(axes, value.shape, strict=True)):
        start, stop, step = (each % size, each % size + 1, 1) if isinstance(each, int) else each.indices(size)
        cut[axis], steps[axis] = (-start, min(stop, size) - size), step
    held = shaping.padded(growth, call, value, cut)
    if any(step != 1 for step in steps.values()):
        if len(axes) != 3 or steps[0] != 1:
            call.refuse(f"{call.words} with steps", "steps along height and width, x[:, :, ::2, ::2], would do")
        held = shaping.strided(growth, call, held, (steps[1], steps[2]))
    return shaping.viewed(growth, call, held, call.shape)


@reads(torch.cat, torch.concat, torch.concatenate)
def _cat(growth: Growth, call: Call, tensors: Sequence[Any], dim: int = 0) -> Held:
    ranks = {len(each.shape) + 1 for each in tensors if isinstance(each, Held)}
    axis = dim % ranks.copy().pop()
    if axis == 0 or len(ranks) > 1:
        call.refuse(f"{call.words} along axis {dim}", "dim=1 is along the channels")
    if axis > 1 or ranks == {3}:
        return _joined(growth, call, tensors, axis - 1)
    zeros = [each.shape[1] if isinstance(each, torch.Tensor) else 0 for each in tensors]
    inner = [number for number, each in enumerate(tensors) if isinstance(each, Held)]
    first, last = inner[0], inner[-1]
    if any(isinstance(each, torch.Tensor) and bool(each.any()) for each in tensors) or len(inner) != last - first + 1:
        call.refuse(f"{call.words} with constants", "zeros before or behind the channels would do")
    parts = [each for each in tensors if isinstance(each, Held)]
    _check_alike(call, parts, 0)
    held = shaping.concatenated(growth, call, parts, 0)
    return shaping.padded(growth, call, held, {0: (sum(zeros[:first]), sum(zeros[last:]))})


def _check_alike(call: Call, parts: Sequence[Held], axis: int) -> None:
    """Raise for tensors that an expansion, which moves nothing here, has left smaller than they are in PyTorch."""
    if len({(*part.shape[:axis], *part.shape[axis + 1 :]) for part in parts}) > 1:
        call.refuse(f"{call.words} of maps that are expanded", "upsample the smaller one, F.interpolate(x, size=...)")


def _joined(growth: Growth, call: Call, tensors: Sequence[Any], axis: int) -> Held:
    """Tensors one after the other along an axis (counted without the batch), which becomes that of the features."""
    if not all(isinstance(each, Held) for each in tensors):
        call.refuse(f"{call.words} with constants or parameters along axis {axis + 1}", "along the channels would do")
    _check_alike(call, tensors, axis)
    parts = []
    for each in tensors:
        axes = each.layout.axes
        others = atoms_of(other for number, other in enumerate(axes) if number != axis)
        parts.append(growth.with_base(call, each, (axes[axis], others, ())))
    value = growth.add(call, Concat(), *parts)
    made = fresh([value.shape[-1]])[0]
    first = parts[0].layout
    return Held(value, Layout((made, *first.base[1:]), (*first.axes[:axis], made, *first.axes[axis + 1 :])))


@reads(torch.stack)
def _stack(growth: Growth, call: Call, tensors: Sequence[Any], dim: int = 0) -> Held:
    if not all(isinstance(each, Held) for each in tensors):
        call.refuse(f"{call.words} with constants or parameters", "tensors of the network would do")
    axis = dim % (len(tensors[0].shape) + 2)
    if axis == 0:
        call.refuse(f"{call.words} along the examples (dim={dim})", "dim=1 stacks along a new axis of each example")
    apart = [
        Held(each.value, Layout(each.layout.base, (*each.layout.axes[: axis - 1], (), *each.layout.axes[axis - 1 :])))
        for each in tensors
    ]
    return _joined(growth, call, apart, axis - 1)
