"""Convolutions and transposed convolutions: Flax's layers, computed in the form that is fastest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import jax.numpy as jnp
from flax.nnx import Conv, ConvTranspose
from jax import lax

from flaxvision.layers.context import Context
from flaxvision.layers.kinds import Kind, MisfitError, Shape, Tensor, non_empty, placeholders, register
from flaxvision.layers.linear import biased, is_plain
from flaxvision.ops.convolution import convolve, convolve_transpose, form_of, patch_bytes
from flaxvision.ops.maps import Maps
from flaxvision.ops.policy import Form, Policy
from flaxvision.ops.windows import FEW_CHANNELS, Pair, Window

__all__ = ["Conv", "ConvTranspose"]

NO_DILATION = (None, 1, (1, 1))  # a dilation of 1, as Flax has it


def pads_of(layer: Conv, sides: Sequence[int]) -> list[tuple[int, int]]:
    """(before, after) of each axis that a convolution of a map with such sides pads.

    Raises:
        MisfitError: For padding that is not a number of pixels, "SAME" or "VALID".
    """
    if layer.padding in ("SAME", "VALID"):
        return list(lax.padtype_to_pads(tuple(sides), _reach(layer), _each(layer.strides, len(sides)), layer.padding))
    if isinstance(layer.padding, str):
        raise MisfitError(f"has padding={layer.padding!r}: allowed are SAME, VALID, pixels")
    if isinstance(layer.padding, int):
        return [(layer.padding, layer.padding)] * len(sides)
    return [(side, side) if isinstance(side, int) else (int(side[0]), int(side[1])) for side in layer.padding]


def _pads(layer: Conv, sides: Sequence[int]) -> list[tuple[int, int]]:
    """As `pads_of`, and of the paddings that only Flax has."""
    if layer.padding == "CAUSAL":
        return [(_reach(layer)[0] - 1, 0)]
    if layer.padding in ("CIRCULAR", "REFLECT"):
        return list(lax.padtype_to_pads(tuple(sides), _reach(layer), _each(layer.strides, len(sides)), "SAME"))
    return pads_of(layer, sides)


def _reach(layer: Conv | ConvTranspose) -> tuple[int, ...]:
    """How much of a map the kernel spans along each axis."""
    dilation = _each(layer.kernel_dilation, len(layer.kernel_size))
    return tuple((k - 1) * d + 1 for k, d in zip(layer.kernel_size, dilation, strict=True))


def _output(
    layer: Conv | ConvTranspose, shape: Shape, sides: Callable[[tuple[int, ...], tuple[int, ...]], Iterable[int]]
) -> Shape:
    """The output's shape, its map's sides from the input's and the strides."""
    axes = len(layer.kernel_size)
    if len(shape) <= axes:
        raise MisfitError("needs a map (H, W, C)" if axes == 2 else f"does not fit shape {shape}")
    if shape[-1] != layer.in_features:
        raise MisfitError(f"takes {layer.in_features} channels, not {shape[-1]} (shape {shape})")
    before = shape[: -axes - 1]  # Flax takes any axes before the map as a batch
    return non_empty(shape, (*before, *sides(shape[-axes - 1 : -1], _each(layer.strides, axes)), layer.out_features))


def _shape(layer: Conv, shapes: Sequence[Shape]) -> Shape:
    def sides(given: tuple[int, ...], strides: tuple[int, ...]) -> Iterable[int]:
        dilated = [(n - 1) * d + 1 for n, d in zip(given, _each(layer.input_dilation, len(given)), strict=True)]
        axes = zip(dilated, _pads(layer, dilated), _reach(layer), strides, strict=True)
        return [(side + low + high - reach) // stride + 1 for side, (low, high), reach, stride in axes]

    return _output(layer, shapes[0], sides)


def _window(layer: Conv, shape: Shape) -> Window | None:
    """The window of a layer on inputs (N, H, W, C); None for a layer that has no form but XLA's own."""
    if not _is_plain(layer) or len(shape) != 4 or layer.input_dilation not in NO_DILATION:
        return None
    if isinstance(layer.padding, str) and layer.padding not in ("SAME", "VALID"):
        return None
    above, left = pads_of(layer, shape[1:3])
    if min(*above, *left) < 0:
        return None
    kernel, strides, dilation = map(_pair, (layer.kernel.shape[:2], layer.strides, layer.kernel_dilation))
    return Window((shape[1], shape[2]), kernel, strides, (above, left), dilation)


def _form(layer: Conv, shape: Shape, dtype: jnp.dtype, policy: Policy) -> tuple[Form | None, int]:
    window = _window(layer, shape)
    if window is None:
        return Form.NATIVE, 0
    form = form_of(shape, layer.kernel.shape, window, dtype, policy)
    none = form in (Form.NATIVE, Form.WINOGRAD, Form.COMPILED) or (form is Form.GROUPS and layer.kernel.shape[2] == 1)
    return form, 0 if none else patch_bytes(shape[0], layer.kernel.shape, window, layer.feature_group_count)


def _apply(layer: Conv, maps: Sequence[Maps], context: Context) -> Maps:
    x, kernel = maps[0], layer.kernel[...]
    window = _window(layer, x.shape)
    if window is not None and x.array.dtype == kernel.dtype:
        form = form_of(x.shape, kernel.shape, window, kernel.dtype, context.policy)
        if form is not Form.NATIVE:
            return biased(layer, convolve(x, kernel, window, form))
    return Maps(layer(x.first()))


def _transposed_shape(layer: ConvTranspose, shapes: Sequence[Shape]) -> Shape:
    def sides(given: tuple[int, ...], strides: tuple[int, ...]) -> Iterable[int]:
        for axis, (side, reach, stride) in enumerate(zip(given, _reach(layer), strides, strict=True)):
            if layer.padding in ("SAME", "CIRCULAR"):
                yield side * stride
            elif layer.padding == "VALID":
                yield (side - 1) * stride + max(reach, stride)
            elif isinstance(layer.padding, str):
                raise MisfitError(f"has padding={layer.padding!r}: allowed are SAME, VALID, pixels")
            else:
                pad = layer.padding if isinstance(layer.padding, int) else layer.padding[axis]
                low, high = (pad, pad) if isinstance(pad, int) else pad
                yield (side - 1) * stride + 1 + low + high - reach + 1

    output = _output(layer, shapes[0], sides)
    if aborts_xla(layer, shapes[0]):
        raise MisfitError(
            f"has kernel={layer.kernel_size}, strides={layer.strides}, padding={layer.padding} for {shapes[0]}, "
            "on which XLA's compiler aborts: pad the axis whose kernel and stride are 2, or use larger images"
        )
    return output


def aborts_xla(layer: ConvTranspose, shape: Shape) -> bool:
    """Whether compiling ends the process, in XLA's algebraic simplifier for CPUs (jaxlib 0.10.2).

    With more weights than pixels it swaps the two, and takes an axis of kernel 2, stride 2 and no padding for one of
    groups, although the map has not 2 pixels along it.
    """
    axes = len(layer.kernel_size)
    sides, strides = shape[-axes - 1 : -1], _each(layer.strides, axes)
    if isinstance(layer.padding, str):
        return False
    pads = [layer.padding] * axes if isinstance(layer.padding, int) else layer.padding
    groups = [
        k == stride == reach == 2 and pad in (0, (0, 0))
        for k, stride, reach, pad in zip(layer.kernel_size, strides, _reach(layer), pads, strict=True)
    ]
    weights, pixels = (
        math.prod(size for size, group in zip(sizes, groups, strict=True) if not group)
        for sizes in (layer.kernel_size, sides)
    )
    mistaken = any(group and side != 2 for group, side in zip(groups, sides, strict=True))
    return mistaken and weights > pixels


def _transposed_form(layer: ConvTranspose, shape: Shape, dtype: jnp.dtype, policy: Policy) -> tuple[Form | None, int]:
    spread = math.prod(shape[:3]) * math.prod(layer.kernel.shape[:3]) * 4  # bytes of what is overlapped and added
    plain = _is_plain(layer) and layer.kernel_dilation in NO_DILATION
    if not plain or len(shape) != 4 or layer.padding != "VALID" or not layer.transpose_kernel:
        return Form.NATIVE, 0
    overlapping = all(k >= s for k, s in zip(layer.kernel.shape[:2], _pair(layer.strides), strict=True))
    many = min(layer.kernel.shape[2:]) >= FEW_CHANNELS
    spreads = (policy.many_channels if many else policy.few_channels) is not Form.NATIVE
    if not overlapping or not spreads or spread > policy.patch_bytes:
        return Form.NATIVE, 0
    return Form.BATCH_LAST, spread


def _transposed_apply(layer: ConvTranspose, maps: Sequence[Maps], context: Context) -> Maps:
    x, kernel = maps[0], layer.kernel[...]
    form, _ = _transposed_form(layer, x.shape, kernel.dtype, context.policy)
    if form is Form.NATIVE or x.array.dtype != kernel.dtype:
        return Maps(layer(x.first()))
    return biased(layer, Maps(convolve_transpose(x.last(), kernel, _pair(layer.strides)), True))


def _is_plain(layer: Conv | ConvTranspose) -> bool:
    """Whether a layer is one that has other forms than XLA's own: two axes, no settings beyond its shape."""
    own = getattr(layer, "conv_general_dilated", lax.conv_general_dilated)
    plain = is_plain(layer) and own is lax.conv_general_dilated and layer.mask is None
    return plain and len(layer.kernel.shape) == 4


def _each(value: int | Sequence[int] | None, axes: int) -> tuple[int, ...]:
    return (1,) * axes if value is None else (value,) * axes if isinstance(value, int) else tuple(map(int, value))


def _pair(value: int | Sequence[int] | None) -> Pair:
    height, width = _each(value, 2)
    return height, width


def _transposed_tensors(layer: ConvTranspose) -> Sequence[Tensor]:
    # kernel (H, W, out, in), as in PyTorch; or (H, W, in, out) of the flipped correlation
    axes, flipped = ((3, 2, 0, 1), False) if layer.transpose_kernel else ((2, 3, 0, 1), True)
    return Tensor("weight", "kernel", axes, flipped), Tensor("bias", "bias")


SETTINGS = ("in_features", "out_features", "kernel_size", "strides", "padding", "use_bias")

register(
    Kind(
        layer=Conv,
        settings=SETTINGS,
        make=placeholders(Conv),
        shape=_shape,
        apply=_apply,
        tensors=lambda layer: (Tensor("weight", "kernel", (3, 2, 0, 1)), Tensor("bias", "bias")),
        multiply_adds=lambda layer, shapes, output: math.prod(output[:-1]) * math.prod(layer.kernel.shape),
        form=_form,
    )
)
register(
    Kind(
        layer=ConvTranspose,
        settings=(*SETTINGS, "transpose_kernel"),
        make=placeholders(ConvTranspose),
        shape=_transposed_shape,
        apply=_transposed_apply,
        tensors=_transposed_tensors,
        multiply_adds=lambda layer, shapes, output: math.prod(shapes[0][:-1]) * math.prod(layer.kernel.shape),
        form=_transposed_form,
    )
)
