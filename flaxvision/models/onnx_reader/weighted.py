"""How ONNX's operators with weights are read."""

from __future__ import annotations

import numpy as np
from jax import lax

from flaxvision.models.onnx_reader.patterns import NORMALIZED
from flaxvision.models.onnx_reader.table import At, reads
from flaxvision.models.reading import weighted
from flaxvision.models.reading.axes import Layout, atoms_of
from flaxvision.models.reading.graph import Held
from flaxvision.models.reading.weighted import Padding, Window, transposed_padding
from flaxvision.ops.windows import Pair


def pair(at: At, name: str, default: Pair = (1, 1)) -> Pair:
    """An attribute of height and width."""
    first, second = at.node.wholes(name, default, 2)
    return first, second


def padding_of(at: At, kernel: Pair, strides: Pair, dilation: Pair = (1, 1)) -> Padding:
    """The padding of a convolution or pool, by `pads` or `auto_pad`."""
    auto = at.node.text("auto_pad", "NOTSET")
    if auto == "NOTSET":
        above, left, below, right = at.node.wholes("pads", (0, 0, 0, 0), 4)
        return (above, below), (left, right)
    if auto in ("VALID", "SAME_UPPER"):
        return "VALID" if auto == "VALID" else "SAME"
    if auto != "SAME_LOWER":
        at.call.refuse(f"{at.call.words} with auto_pad={auto}", "pads would do")
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    rows, columns = lax.padtype_to_pads(at.held().shape[1:], reach, strides, "SAME")
    return (int(rows[1]), int(rows[0])), (int(columns[1]), int(columns[0]))


def _kernel(at: At) -> np.ndarray:
    kernel = at.weight(1)
    if kernel.ndim != 4 or len(at.held().shape) != 3:
        at.call.refuse(f"{at.call.words} over {kernel.ndim - 2} axes", "one over height and width would do")
    if at.node.wholes("kernel_shape", kernel.shape[2:], 2) != kernel.shape[2:]:
        at.call.refuse(f"{at.call.words} whose kernel_shape is not its weight's", "export the model again")
    return kernel


@reads("Conv")
def _conv(at: At) -> Held:
    kernel = _kernel(at)
    strides, dilation, groups = pair(at, "strides"), pair(at, "dilations"), at.node.whole("group", 1)
    if groups < 1 or kernel.shape[0] % groups:
        at.call.refuse(f"{at.call.words} with {groups} groups", "a divisor of the channels would do")
    padding = padding_of(at, kernel.shape[2:], strides, dilation)
    window = Window(strides, padding, dilation, groups)
    return weighted.conv(*(at.reader, at.call, at.key, at.held()), kernel.transpose(2, 3, 1, 0), at.optional(2), window)


@reads("ConvTranspose")
def _conv_transpose(at: At) -> Held:
    kernel = _kernel(at)
    if at.node.whole("group", 1) != 1 or pair(at, "dilations") != (1, 1):
        at.call.refuse(f"{at.call.words} with groups or dilations", "one without would do")
    if "output_shape" in at.node.attributes or at.node.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        at.call.refuse(f"{at.call.words} with output_shape or auto_pad", "pads and output_padding would do")
    above, left, below, right = at.node.wholes("pads", (0, 0, 0, 0), 4)
    sides: Pair = kernel.shape[2:]
    padding = transposed_padding(sides, ((above, below), (left, right)), pair(at, "output_padding", (0, 0)))
    window = Window(pair(at, "strides"), padding)
    ours = kernel.transpose(2, 3, 1, 0)
    return weighted.conv_transpose(at.reader, at.call, at.key, at.held(), ours, at.optional(2), window)


@reads("Gemm")
def _gemm(at: At) -> Held:
    if at.node.whole("transA", 0):
        at.call.refuse(f"{at.call.words} with transA", "keep the examples along the first axis")
    kernel = at.weight(1).T if at.node.whole("transB", 0) else at.weight(1)
    bias = at.optional(2)
    alpha, beta = at.node.number("alpha", 1.0), at.node.number("beta", 1.0)
    kernel = kernel if alpha == 1 else kernel * np.asarray(alpha, kernel.dtype)
    if bias is not None:
        bias = np.broadcast_to(bias * np.asarray(beta, bias.dtype), (1, kernel.shape[1]))[0]
    return weighted.linear(at.reader, at.call, at.key, at.held(), 0, kernel, bias)


@reads("MatMul")
def _matmul(at: At) -> Held:
    if not isinstance(at.inputs[1], np.ndarray):
        at.call.refuse(f"{at.call.words} of two values", "a product with a constant weight would do")
    kernel = at.weight(1)
    if kernel.ndim != 2:
        at.call.refuse(f"{at.call.words} with a weight of shape {kernel.shape}", "one of two axes would do")
    return weighted.linear(at.reader, at.call, at.key, at.held(), len(at.held().shape) - 1, kernel, None)


@reads("BatchNormalization")
def _batch_norm(at: At) -> Held:
    if at.node.whole("training_mode", 0) or len([each for each in at.node.outputs if each]) > 1:
        at.call.refuse(f"{at.call.words} in training mode", "export the model in evaluation mode")
    numbers = dict(zip(("scale", "bias", "mean", "var"), map(at.weight, (1, 2, 3, 4)), strict=True))
    momentum, epsilon = at.node.number("momentum", 0.9), at.node.number("epsilon", 1e-5)
    return weighted.batch_norm(at.reader, at.call, at.key, at.held(), 0, numbers, momentum, epsilon)


@reads("InstanceNormalization")
def _instance_norm(at: At) -> Held:
    """Over all but the channels; of groups of channels, where they were reshaped to those, a GroupNorm."""
    return _of_groups(at, at.held().shape[0], at.weight(1), at.weight(2), at.node.number("epsilon", 1e-5))


def _of_groups(at: At, groups: int, scale: np.ndarray | None, bias: np.ndarray | None, epsilon: float) -> Held:
    held = at.held()
    base = held.layout.base
    if len(base) != 3 or atoms_of(held.layout.axes) != atoms_of(base):
        held = at.reader.plain(at.call, held)
        base = held.layout.base
    channels = held.value.shape[-1]
    if channels % groups:
        at.call.refuse(f"{at.call.words} of {groups} groups of {channels} channels", "whole channels would do")
    each = channels // groups
    scale, bias = (None if part is None else np.repeat(part, each) for part in (scale, bias))
    plain = Held(held.value, Layout(base, base))
    key = at.key, channels, at.node.name if scale is None else ""
    made = weighted.group_norm(at.reader, at.call, key, plain, groups, scale, bias, epsilon)
    return Held(made.value, held.layout)


@reads("GroupNormalization")
def _group_norm(at: At) -> Held:
    groups, scale, bias = at.node.whole("num_groups", 1), at.weight(1), at.weight(2)
    epsilon = at.node.number("epsilon", 1e-5)
    return weighted.group_norm(at.reader, at.call, at.key, at.held(), groups, scale, bias, epsilon)


@reads("LayerNormalization")
def _layer_norm(at: At) -> Held:
    axis, held, scale = at.axis(at.node.whole("axis", -1)), at.held(), at.optional(1)
    bias, epsilon = at.optional(2), at.node.number("epsilon", 1e-5)
    if axis == 0 and len(held.shape) == 3:  # over whole maps
        scale, bias = (_by_channel(at, each, held.shape) for each in (scale, bias))
        return weighted.group_norm(at.reader, at.call, at.key, held, 1, scale, bias, epsilon)
    if axis != len(held.shape) - 1:
        at.call.refuse(f"{at.call.words} over several axes", "one over the channels, or over whole maps, would do")
    return weighted.layer_norm(at.reader, at.call, at.key, held, axis, scale, bias, epsilon)


def _by_channel(at: At, numbers: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """Numbers for each value of a map (C, H, W), as one for each channel."""
    if numbers is None:
        return None
    whole = np.broadcast_to(numbers, shape)
    if (whole != whole[:, :1, :1]).any():
        at.call.refuse(f"{at.call.words} with other numbers at every place", "one number for each channel would do")
    return whole[:, 0, 0]


@reads("PRelu")
def _prelu(at: At) -> Held:
    slope, held = at.weight(1), at.held()
    shape = (1,) * (len(held.shape) - slope.ndim) + slope.shape
    wide = [axis for axis, size in enumerate(shape) if size > 1]
    if len(wide) > 1 or len(shape) > len(held.shape) + 1:
        at.call.refuse(f"{at.call.words} of slopes of shape {slope.shape}", "one slope, or one a channel, would do")
    return weighted.prelu(at.reader, at.call, at.key, held, wide[0] if wide else 0, slope)


@reads(NORMALIZED)
def _normalization(at: At) -> Held:
    """Written out: over the channels at each place, or over whole maps; what multiplies it comes after it."""
    held, rank = at.held(), len(at.held().shape) + 1
    axes = at.axes(rank) or ()
    epsilon = at.node.number("epsilon", 1e-5)
    if len(axes) == 1 and axes[0] > 0:
        return weighted.layer_norm(at.reader, at.call, at.node.name, held, axes[0] - 1, None, None, epsilon)
    if axes == (1, 2, 3):
        return weighted.group_norm(at.reader, at.call, at.node.name, held, 1, None, None, epsilon)
    if rank == 3 and axes == (2,):
        return _of_groups(at, held.shape[0], None, None, epsilon)
    at.call.refuse(f"a normalization over the axes {axes}", "one over the channels, groups of them or maps would do")
