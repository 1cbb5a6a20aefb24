"""How Keras's reshapes, pads, crops, concatenations, pools and reductions are read."""

from __future__ import annotations

import math

import numpy as np

from flaxvision.layers import ConvTranspose
from flaxvision.layers.moving import MODES
from flaxvision.layers.network import fitted
from flaxvision.layers.pooling import as_pair
from flaxvision.models.keras_reader.table import At, Handler, reads
from flaxvision.models.keras_reader.weighted import pair
from flaxvision.models.reading import shaping, weighted
from flaxvision.models.reading.axes import Layout
from flaxvision.models.reading.graph import Held, Value
from flaxvision.models.reading.shaping import channels_first, channels_last
from flaxvision.ops.windows import Pair


@reads("Flatten")
def _flatten(at: At) -> Held:
    return shaping.viewed(at.reader, at.call, at.held(), (math.prod(at.held().shape),))


@reads("Reshape")
def _reshape(at: At) -> Held:
    held = at.held()
    with_batch = getattr(at.layer, "newshape", None)  # of keras.ops
    shape = [-1 if size is None else int(size) for size in (with_batch[1:] if with_batch else at.layer.target_shape)]
    if -1 in shape:
        shape[shape.index(-1)] = math.prod(held.shape) // math.prod(size for size in shape if size != -1)
    entry = held.value.name is None and not at.reader.nodes and None not in at.reader.shared
    if entry and len(shape) == 3 and len(held.shape) == 1 and isinstance(at.reader.preprocess.scale, float):
        return _image(at, (shape[0], shape[1], shape[2]))
    return shaping.viewed(at.reader, at.call, held, tuple(shape))


def _image(at: At, shape: tuple[int, int, int]) -> Held:
    """The network's input, which its first layer makes an image, as such."""
    at.reader.say(f"it takes examples of shape {shape} here, not {at.reader.input_shape}")
    at.reader.input_shape = shape
    return channels_last(at.call, Held(Value(None, shape), Layout.plain(shape)))


@reads("Permute")
def _permute(at: At) -> Held:
    return shaping.permuted(at.call, at.held(), [axis - 1 for axis in at.layer.dims])


@reads("Transpose")
def _transpose(at: At) -> Held:
    axes = tuple(at.layer.axes or ())
    if axes[:1] != (0,):
        at.call.refuse(f"{at.call.words} that moves the examples", "keep them along the first axis")
    return shaping.permuted(at.call, at.held(), [axis - 1 for axis in axes[1:]])


@reads("ZeroPadding2D")
def _zero_padding(at: At) -> Held:
    rows, columns = at.layer.padding
    return shaping.padded(at.reader, at.call, at.held(), {0: tuple(rows), 1: tuple(columns)})


@reads("Pad")
def _pad(at: At) -> Held:
    mode = next((ours for ours, theirs in MODES.items() if theirs == at.layer.mode), "")
    if not mode or any(at.layer.pad_width[0]):
        words = "mode='constant', 'reflect' or 'edge' around maps would do"
        at.call.refuse(f"{at.call.words} with mode={at.layer.mode!r}", words)
    number = at.named.get("constant_values", at.layer.constant_values if hasattr(at.layer, "constant_values") else 0)
    sides = {axis: (int(low), int(high)) for axis, (low, high) in enumerate(at.layer.pad_width[1:])}
    return shaping.padded(at.reader, at.call, at.held(), sides, float(number or 0), mode)


@reads("Cropping2D")
def _cropping(at: At) -> Held:
    crop = tuple((int(low), int(high)) for low, high in at.layer.cropping)
    held = at.held()
    if _cut(at, held, crop):
        return channels_last(at.call, Held(held.value, Layout.plain(held.value.shape)))
    (above, below), (left, right) = crop
    return shaping.padded(at.reader, at.call, held, {0: (-above, -below), 1: (-left, -right)})


def _cut(at: At, held: Held, crop: tuple[Pair, ...]) -> bool:
    """Whether the transposed convolution before it now gives what is left, as `to_keras` writes it."""
    reader, nodes = at.reader, at.reader.nodes
    if not nodes or nodes[-1].name != held.value.name or held.value.name in reader.shared:
        return False
    layer = reader.layers[nodes[-1].layer]
    if not isinstance(layer, ConvTranspose) or layer.padding != "VALID":
        return False
    if sum(node.layer == nodes[-1].layer for node in nodes) > 1:
        return False
    strides = as_pair(layer.strides or 1)
    sizes = tuple(zip(layer.kernel_size, strides, crop, strict=True))
    explicit = tuple((k - 1 - low, k - 1 - high + max(s - k, 0)) for k, s, (low, high) in sizes)
    if min(map(min, explicit)) < 0:
        return False
    same = tuple(weighted.same_transposed(k, s) for k, s, _ in sizes)
    layer.padding = "SAME" if explicit == same else explicit  # not every explicit padding can be exported
    before = reader.shapes[nodes[-1].takes[0]]
    held.value.shape = fitted(at.name, layer, (before,), reader.kind, reader.input_shape)
    reader.shapes[held.value.name] = held.value.shape
    return True


@reads("Concatenate")
def _concatenate(at: At) -> Held:
    values = at.values()
    axis = int(at.layer.axis) % (len(values[0].shape) + 1) - 1
    return shaping.concatenated(at.reader, at.call, values, axis)


# Pools, reductions and upsampling.


def _pool(largest: bool) -> Handler:
    def read(at: At) -> Held:
        held = channels_first(at.call, at.held())
        window, strides, padding = pair(at, "pool_size"), pair(at, "strides"), at.config["padding"].upper()
        made = shaping.pooled(at.reader, at.call, held, window, strides, padding, largest=largest)
        return channels_last(at.call, made)

    return read


reads("MaxPooling2D")(_pool(True))
reads("AveragePooling2D")(_pool(False))


def _global(largest: bool) -> Handler:
    def read(at: At) -> Held:
        keeps = bool(at.config.get("keepdims"))
        return at.reader.reduce(at.call, at.held(), (0, 1), keeps, largest)

    return read


reads("GlobalMaxPooling2D")(_global(True))
reads("GlobalAveragePooling2D")(_global(False))


@reads("Mean", "Max", "Amax")
def _reduction(at: At) -> Held:
    axes = shaping.inner_axes(at.call, at.held(), np.ravel(at.layer.axis if at.layer.axis is not None else 0))
    return at.reader.reduce(at.call, at.held(), axes, bool(at.layer.keepdims), type(at.layer).__name__ != "Mean")


@reads("UpSampling2D")
def _upsampling(at: At) -> Held:
    way = at.config.get("interpolation", "nearest")
    if way not in ("nearest", "bilinear"):
        at.call.refuse(f"{at.call.words} with interpolation={way!r}", "'nearest' or 'bilinear' would do")
    held = channels_first(at.call, at.held())
    if way == "bilinear":
        rows, columns = pair(at, "size")
        size = held.shape[1] * rows, held.shape[2] * columns
        return channels_last(at.call, shaping.resized(at.reader, at.call, held, size))
    return channels_last(at.call, shaping.upsampled(at.reader, at.call, held, pair(at, "size")))
