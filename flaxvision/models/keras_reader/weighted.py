"""How Keras's layers with weights are read."""

from __future__ import annotations

import numpy as np

from flaxvision.models.keras_reader.pointwise import activated
from flaxvision.models.keras_reader.table import At, reads
from flaxvision.models.reading import arithmetic, weighted
from flaxvision.models.reading.graph import Held
from flaxvision.models.reading.reader import Operation
from flaxvision.models.reading.shaping import channels_first, channels_last
from flaxvision.models.reading.weighted import Window
from flaxvision.ops.windows import Pair


def pair(at: At, name: str) -> Pair:
    """A setting of height and width."""
    value = at.config[name]
    first, second = (value, value) if isinstance(value, int) else value
    return int(first), int(second)


def _window(at: At, groups: int = 1) -> Window:
    if at.config["padding"] not in ("same", "valid"):
        at.call.refuse(f"{at.call.words} with padding={at.config['padding']!r}", "'same' or 'valid' would do")
    return Window(pair(at, "strides"), at.config["padding"].upper(), pair(at, "dilation_rate"), groups)


def _map(at: At) -> Held:
    if len(at.held().shape) != 3:
        at.call.refuse(f"{at.call.words} on {('N', *at.held().shape)}", "give it images (N, H, W, C)")
    return channels_first(at.call, at.held())


@reads("Dense")
def _dense(at: At) -> Held:
    axis = len(at.held().shape) - 1
    made = weighted.linear(at.reader, at.call, at.key, at.held(), axis, at.needed("kernel"), at.weight("bias"))
    return activated(at, made)


@reads("EinsumDense")
def _einsum(at: At) -> Held:
    """A number for each channel, as `to_keras` writes a Scale."""
    axes = {1: "", 3: "hw"}.get(len(at.held().shape), "?")
    if at.config["equation"] != f"b{axes}c,c->b{axes}c":
        at.call.refuse(f"{at.call.words} of the equation {at.config['equation']}", "a Dense would do")
    bias = at.weight("bias")
    nothing = np.zeros(1) if bias is None else bias
    return activated(at, arithmetic.affine(at.reader, at.call, at.held(), at.needed("kernel"), nothing, learns=True))


@reads("Conv2D")
def _conv(at: At) -> Held:
    window = _window(at, int(at.config["groups"]))
    made = weighted.conv(at.reader, at.call, at.key, _map(at), at.needed("kernel"), at.weight("bias"), window)
    return activated(at, channels_last(at.call, made))


@reads("DepthwiseConv2D")
def _depthwise(at: At) -> Held:
    made = _by_channel(at, at.call, "kernel", at.weight("bias"))
    return activated(at, channels_last(at.call, made))


@reads("SeparableConv2D")
def _separable(at: At) -> Held:
    made = _by_channel(at, at.part("depthwise"), "depthwise_kernel", None)
    key = at.key, "pointwise"
    kernel, bias = at.needed("pointwise_kernel"), at.weight("bias")
    made = weighted.conv(at.reader, at.part("pointwise"), key, made, kernel, bias, Window())
    return activated(at, channels_last(at.call, made))


def _by_channel(at: At, call: Operation, name: str, bias: np.ndarray | None) -> Held:
    kernel = at.needed(name)  # (H, W, channels, multiplier)
    height, width, channels, each = kernel.shape
    ours = kernel.reshape(height, width, 1, channels * each)
    return weighted.conv(at.reader, call, at.key, _map(at), ours, bias, _window(at, channels))


@reads("Conv2DTranspose")
def _conv_transpose(at: At) -> Held:
    if pair(at, "dilation_rate") != (1, 1):
        at.call.refuse(f"{at.call.words} with dilation_rate", "one without would do")
    kernel, bias = at.needed("kernel"), at.weight("bias")
    made = weighted.conv_transpose(at.reader, at.call, at.key, _map(at), kernel, bias, _window(at))
    return activated(at, channels_last(at.call, made))


@reads("BatchNormalization")
def _batch_norm(at: At) -> Held:
    if at.config.get("renorm"):
        at.call.refuse(f"{at.call.words} with renorm", "one without would do")
    axis = at.axis(at.config["axis"])
    numbers = {
        ours: _or(at, theirs, at.held().shape[axis], nothing)
        for ours, theirs, nothing in (
            ("scale", "gamma", 1.0),
            ("bias", "beta", 0.0),
            ("mean", "moving_mean", 0.0),
            ("var", "moving_variance", 1.0),
        )
    }
    momentum, epsilon = float(at.config["momentum"]), float(at.config["epsilon"])
    return weighted.batch_norm(at.reader, at.call, at.key, at.held(), axis, numbers, momentum, epsilon)


@reads("LayerNormalization")
def _layer_norm(at: At) -> Held:
    axis = at.axis(at.config["axis"])
    if at.config.get("rms_scaling"):
        at.call.refuse(f"{at.call.words} with rms_scaling", "one without would do")
    size = at.held().shape[axis]
    scale, bias = _or(at, "gamma", size, 1.0), _or(at, "beta", size, 0.0)
    return weighted.layer_norm(*(at.reader, at.call, at.key, at.held(), axis, scale, bias), float(at.config["epsilon"]))


@reads("GroupNormalization")
def _group_norm(at: At) -> Held:
    held = channels_first(at.call, at.held())
    if at.axis(at.config["axis"]) != len(held.shape) - 1:
        at.call.refuse(f"{at.call.words} with axis={at.config['axis']}", "axis=-1 would do")
    channels = held.shape[0]
    groups = channels if at.config["groups"] == -1 else int(at.config["groups"])
    scale, bias = _or(at, "gamma", channels, 1.0), _or(at, "beta", channels, 0.0)
    epsilon = float(at.config["epsilon"])
    made = weighted.group_norm(at.reader, at.call, at.key, held, groups, scale, bias, epsilon)
    return channels_last(at.call, made)


def _or(at: At, name: str, size: int, nothing: float) -> np.ndarray:
    array = at.weight(name)
    if array is None and at.layer.trainable:
        at.reader.say(f"{at.name!r} has no {name} there, and learns one here")
    return np.full(size, nothing, np.float32) if array is None else array.ravel()


@reads("PReLU")
def _prelu(at: At) -> Held:
    slopes = at.needed("alpha")
    wide = [axis for axis, size in enumerate(slopes.shape) if size > 1]
    if len(wide) > 1:
        shared = list(range(1, len(at.held().shape)))
        at.call.refuse(f"{at.call.words} with a slope for each place", f"shared_axes={shared} would do")
    axis = wide[0] if wide else 0
    return weighted.prelu(at.reader, at.call, at.key, at.held(), axis, slopes)
