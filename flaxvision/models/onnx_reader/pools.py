"""How ONNX's pools, reductions and upsampling are read."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flaxvision.layers import GlobalAvgPool, GlobalMaxPool
from flaxvision.models.onnx_reader.table import At, Handler, reads
from flaxvision.models.onnx_reader.weighted import padding_of, pair
from flaxvision.models.reading import shaping
from flaxvision.models.reading.axes import Layout
from flaxvision.models.reading.graph import Held


@reads("MaxPool", "AveragePool")
def _pool(at: At) -> Held:
    largest = at.node.op == "MaxPool"
    if len([each for each in at.node.outputs if each]) > 1 or len(at.held().shape) != 3:
        at.call.refuse(f"{at.call.words} with indices, or not over height and width", "a plain one would do")
    if pair(at, "dilations") != (1, 1):
        at.call.refuse(f"{at.call.words} with dilations", "one without would do")
    window, strides = pair(at, "kernel_shape"), pair(at, "strides")
    counts = bool(at.node.whole("count_include_pad", 0))
    padding = padding_of(at, window, strides)
    if at.node.whole("ceil_mode", 0) and not isinstance(padding, str):
        wider = []
        for side, (low, high), k, stride in zip(at.held().shape[1:], padding, window, strides, strict=True):
            outputs = math.ceil((side + low + high - k) / stride) + 1
            outputs -= (outputs - 1) * stride >= side + low  # a window must begin on the map or before it
            wider.append((low, max(high, (outputs - 1) * stride + k - side - low)))
        if tuple(wider) != padding and not largest:
            at.call.refuse(f"{at.call.words} with ceil_mode", "ceil_mode=0 would do")
        padding = wider[0], wider[1]
    return shaping.pooled(at.reader, at.call, at.held(), window, strides, padding, largest=largest, counts=counts)


def _global(layer: type[GlobalAvgPool | GlobalMaxPool]) -> Handler:
    return lambda at: at.reader.on_map(at.call, layer(), at.held())


reads("GlobalAveragePool")(_global(GlobalAvgPool))
reads("GlobalMaxPool")(_global(GlobalMaxPool))


@reads("ReduceMean", "ReduceMax", "ReduceSum")
def _reduce(at: At) -> Held:
    held = at.held()
    axes = shaping.inner_axes(at.call, held, at.axes(len(held.shape) + 1) or ())
    keep = bool(at.node.whole("keepdims", 1))
    if at.node.op == "ReduceSum":
        return shaping.total(at.reader, at.call, held, axes, keep)
    return at.reader.reduce(at.call, held, axes, keep, largest=at.node.op == "ReduceMax")


@reads("Resize", "Upsample")
def _resize(at: At) -> Held:
    held = at.held()
    mode = at.node.text("mode", "nearest")
    scales = next((at.constant(n) for n in (2, 1) if at.node.has(n) and at.constant(n).dtype.kind == "f"), None)
    if scales is not None and scales.size:
        scale = [float(each) for each in scales.ravel()]
    elif at.node.has(3):
        sizes = at.constant(3).ravel().tolist()
        scale = [size / given for size, given in zip(sizes, (at.examples, *held.shape), strict=True)]
    else:
        at.call.refuse(f"{at.call.words} without scales and sizes", "constants there would do")
    if mode == "linear" and len(scale) == len(held.shape) + 1 == 4 and "axes" not in at.node.attributes:
        return _interpolated(at, held, scale)
    whole = [round(each) for each in scale]
    plain = len(whole) == len(held.shape) + 1 == 4 and whole[:1] == [1] and "axes" not in at.node.attributes
    if mode != "nearest" or not plain or any(a != b or a < 1 for a, b in zip(whole, scale, strict=True)):
        at.call.refuse(
            f"{at.call.words} by {scale} with mode={mode}", "mode=nearest to a whole multiple, or mode=linear would do"
        )
    order = held.layout.permutation
    if order is None or whole[1 + order.index(0)] != 1:
        at.call.refuse(f"{at.call.words} of the channels", "one of height and width would do")
    if not _repeats(at, max(whole)):
        at.call.refuse(f"{at.call.words} between pixels", "nearest_mode=floor with asymmetric coordinates would do")
    whole_map = Held(held.value, Layout.plain(held.value.shape))
    scales_of = whole[1 + order.index(1)], whole[1 + order.index(2)]
    return shaping.in_order_of(shaping.upsampled(at.reader, at.call, whole_map, scales_of), order)


def _interpolated(at: At, held: Held, scale: Sequence[float]) -> Held:
    """Bilinear interpolation of height and width."""
    way = at.node.text("coordinate_transformation_mode", "half_pixel")
    order = held.layout.permutation
    known = ("half_pixel", "pytorch_half_pixel", "align_corners")
    if order is None or scale[0] != 1 or scale[1 + order.index(0)] != 1 or way not in known or at.node.op == "Upsample":
        at.call.refuse(
            f"{at.call.words} by {list(scale)} with {way} coordinates", "half_pixel on height and width would do"
        )
    sides = [math.floor(held.shape[axis] * scale[1 + axis] + 1e-5) for axis in map(order.index, (1, 2))]
    plain = Held(held.value, Layout.plain(held.value.shape))
    made = shaping.resized(at.reader, at.call, plain, (sides[0], sides[1]), align_corners=way == "align_corners")
    return Held(made.value, Layout(made.layout.base, tuple(made.layout.base[axis] for axis in order)))


def _repeats(at: At, scale: int) -> bool:
    """Whether the nearest pixels of a map, `scale` times as large, are each pixel repeated."""
    if at.node.op == "Upsample":
        return True
    way, nearest = (
        at.node.text(name, default)
        for name, default in (("coordinate_transformation_mode", "half_pixel"), ("nearest_mode", "round_prefer_floor"))
    )
    if way in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric"):
        return nearest.startswith("round")  # a pixel's parts lie less than half a pixel from its middle
    return (way == "asymmetric" and nearest == "floor") or (scale == 2 and nearest == "round_prefer_floor")
