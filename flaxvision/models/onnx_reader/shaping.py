"""How ONNX's reshapes, transpositions, pads, slices and concatenations are read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from flaxvision.layers.moving import MODES
from flaxvision.models.onnx_reader.table import At, reads
from flaxvision.models.reading import shaping
from flaxvision.models.reading.graph import Held
from flaxvision.ops.windows import Pair

FAR = 2**31  # ends of slices beyond it mean all


@reads("Shape")
def _shape(at: At) -> np.ndarray:
    """A constant, in which a prime stands for the number of examples where the file leaves that open."""
    sizes = (at.examples, *at.held().shape)
    end = at.node.attributes.get("end")
    return np.asarray(sizes[at.node.whole("start", 0) : end if isinstance(end, int) else None], np.int64)


def _kept(at: At, shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without the batch, if examples stay what they are."""
    held, sizes = at.held(), [int(size) for size in shape]
    total = math.prod(held.shape)
    if sizes and -1 in sizes[1:]:
        known = math.prod(size for size in sizes[1:] if size != -1)
        sizes[sizes.index(-1, 1)] = total // known if known else 0
    first_is_batch = bool(sizes) and (sizes[0] in (-1, at.examples)) and sizes.count(-1) <= 1
    if not first_is_batch or math.prod(sizes[1:]) != total:
        at.call.refuse(
            f"{at.call.words} from {('N', *held.shape)} to {tuple(shape)}", "keep examples on the first axis"
        )
    return tuple(sizes[1:])


@reads("Reshape")
def _reshape(at: At) -> Held:
    wanted = at.wholes("shape", 1) or ()
    given = (at.examples, *at.held().shape)
    copies = not at.node.whole("allowzero", 0)
    sizes = [given[n] if size == 0 and copies and n < len(given) else size for n, size in enumerate(wanted)]
    return shaping.viewed(at.reader, at.call, at.held(), _kept(at, sizes))


@reads("Flatten")
def _flatten(at: At) -> Held:
    axis = at.node.whole("axis", 1)
    if axis % (len(at.held().shape) + 1) != 1:
        at.call.refuse(f"{at.call.words} from axis {axis}", "one from axis 1 would do")
    return shaping.viewed(at.reader, at.call, at.held(), (math.prod(at.held().shape),))


@reads("Squeeze")
def _squeeze(at: At) -> Held:
    sizes = (at.examples, *at.held().shape)
    axes = at.axes(len(sizes))
    if axes is None:
        axes = tuple(n for n, size in enumerate(sizes) if size == 1)
    if any(sizes[axis] != 1 for axis in axes):
        at.call.refuse(f"{at.call.words} of {('N', *sizes[1:])} along {axes}", "leave out axes of size 1 only")
    return shaping.viewed(at.reader, at.call, at.held(), _kept(at, [s for n, s in enumerate(sizes) if n not in axes]))


@reads("Unsqueeze")
def _unsqueeze(at: At) -> Held:
    sizes = [at.examples, *at.held().shape]
    given = at.wholes("axes", 1) or ()
    for axis in at.axes(len(sizes) + len(given)) or ():
        sizes.insert(axis, 1)
    return shaping.viewed(at.reader, at.call, at.held(), _kept(at, sizes))


@reads("Transpose")
def _transpose(at: At) -> Held:
    order = at.node.wholes("perm", tuple(reversed(range(len(at.held().shape) + 1))))
    if order[:1] != (0,):
        at.call.refuse(f"{at.call.words} that moves the examples, by {order}", "keep them along the first axis")
    return shaping.permuted(at.call, at.held(), [axis - 1 for axis in order[1:]])


@reads("Expand")
def _expand(at: At) -> Held:
    wanted = [int(size) for size in at.constant(1).ravel()]
    held, given = at.held(), [at.examples, *at.held().shape]
    wanted = [1] * (len(given) - len(wanted)) + wanted
    if len(wanted) != len(given) or any(a not in (1, b) and b != 1 for a, b in zip(wanted, given, strict=True)):
        at.call.refuse(f"{at.call.words} from {('N', *held.shape)}", "keep the number of axes")
    return held  # what takes it broadcasts an axis of 1


@reads("Pad")
def _pad(at: At) -> Held:
    given, held = at.node.text("mode", "constant"), at.held()
    mode = next((ours for ours, theirs in MODES.items() if theirs == given), "")
    pads = at.wholes("pads", 1) or ()
    filled = float(at.constant(2).item()) if at.node.has(2) else at.node.number("value", 0.0)
    rank = len(held.shape) + 1
    axes = [axis % rank for axis in at.constant(3).ravel().tolist()] if at.node.has(3) else list(range(rank))
    if not mode or len(pads) != 2 * len(axes):
        at.call.refuse(f"{at.call.words} with mode={given}", "mode=constant, reflect or edge would do")
    sides = {axis: (pads[n], pads[n + len(axes)]) for n, axis in enumerate(axes)}
    if any(sides.pop(0, (0, 0))):
        at.call.refuse(f"{at.call.words} of the examples", "pad maps and channels only")
    return shaping.padded(at.reader, at.call, held, {axis - 1: each for axis, each in sides.items()}, filled, mode)


@reads("Slice")
def _slice(at: At) -> Held:
    held = at.held()
    starts, ends = at.wholes("starts", 1) or (), at.wholes("ends", 2) or ()
    axes = at.wholes("axes", 3) or tuple(range(len(starts)))
    steps = at.wholes("steps", 4) or (1,) * len(starts)
    strides = {1: 1, 2: 1}
    cut: dict[int, Pair] = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if axis % (len(held.shape) + 1) == 0 and start == 0 and end >= min(at.examples, FAR) and step == 1:
            continue
        inner = at.axis(axis)
        size = held.shape[inner]
        low, high, step = slice(start, min(end, FAR), step).indices(size)
        if inner in cut or step < 1 or high <= low or (step > 1 and (inner not in strides or len(held.shape) != 3)):
            at.call.refuse(
                f"{at.call.words} from {start} to {end} by {step}", "one forward, by 1 along channels, would do"
            )
        cut[inner] = (-low, high - size)
        if step > 1:
            strides[inner] = step
    held = shaping.padded(at.reader, at.call, held, cut)
    return shaping.strided(at.reader, at.call, held, (strides[1], strides[2]))


@reads("Split")
def _split(at: At) -> tuple[Held, ...]:
    axis, held = at.axis(at.node.whole("axis", 0)), at.held()
    sizes = at.wholes("split", 1)
    if sizes is None:
        each = -(-held.shape[axis] // len(at.node.outputs))
        sizes = (*(each,) * (len(at.node.outputs) - 1), held.shape[axis] - each * (len(at.node.outputs) - 1))
    ends = np.cumsum(sizes).tolist()
    return tuple(
        shaping.sliced(at.reader, at.call, held, axis, end - size, end) for size, end in zip(sizes, ends, strict=True)
    )


@reads("Gather")
def _gather(at: At) -> Held:
    axis, held, index = at.axis(at.node.whole("axis", 0)), at.held(), at.constant(1)
    if index.size != 1 or index.ndim > 1:
        at.call.refuse(f"{at.call.words} of {index.size} indices", "a Slice would do")
    start = int(index.item()) % held.shape[axis]
    part = shaping.sliced(at.reader, at.call, held, axis, start, start + 1)
    if index.ndim:
        return part
    return shaping.viewed(at.reader, at.call, part, (*held.shape[:axis], *held.shape[axis + 1 :]))


@reads("Concat")
def _concat(at: At) -> Held:
    zeros = [isinstance(each, np.ndarray) and not each.any() for each in at.inputs]
    parts = [each for each in at.inputs if isinstance(each, Held)]
    first, last = (order.index(False) for order in (zeros, zeros[::-1]))
    if len(parts) + sum(zeros) != len(at.inputs) or any(zeros[first : len(zeros) - last]):
        at.call.refuse(f"{at.call.words} with constants", "zeros before or behind the channels would do")
    rank = len(parts[0].shape) + 1
    axis = at.node.whole("axis", 1) % rank - 1
    held = shaping.concatenated(at.reader, at.call, parts, axis)
    sizes = [each.shape[axis + 1] if isinstance(each, np.ndarray) else 0 for each in at.inputs]
    return shaping.padded(at.reader, at.call, held, {axis: (sum(sizes[:first]), sum(sizes[len(sizes) - last :]))})


@reads("DepthToSpace")
def _depth_to_space(at: At) -> Held:
    block, (channels, height, width) = at.node.whole("blocksize", 1), at.held().shape
    fewer, shape = channels // block**2, (channels // block**2, height * block, width * block)
    if at.node.text("mode", "DCR") == "DCR":
        split, order = (block, block, fewer, height, width), (2, 3, 0, 4, 1)
    else:
        split, order = (fewer, block, block, height, width), (0, 3, 1, 4, 2)
    return shaping.folded(at.reader, at.call, at.held(), split, order, shape)


@reads("SpaceToDepth")
def _space_to_depth(at: At) -> Held:
    block, (channels, height, width) = at.node.whole("blocksize", 1), at.held().shape
    split = (channels, height // block, block, width // block, block)
    shape = (channels * block**2, height // block, width // block)
    return shaping.folded(at.reader, at.call, at.held(), split, (2, 4, 0, 1, 3), shape)
