"""The rows of the layers that have weights: linear ones, convolutions and normalisations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from export._place import Place, keras_crop, pair, pairs, transpose_cuts
from export._rows import (
    Emit,
    Row,
    Settings,
    any_place,
    in_keras,
    keras_layer,
    number_of,
    on_maps,
    on_maps_and_vectors,
    ours_in_order,
    own_torch_layer,
    register,
    torch_layer,
)
from flaxvision.layers import BatchNorm, Conv, ConvTranspose, GroupNorm, LayerNorm, Linear, PReLU
from flaxvision.layers.kinds import MisfitError

if TYPE_CHECKING:
    from export._onnx import Graph

NORM = ("weight", "bias", "running_mean", "running_var")  # a BatchNorm's tensors in ONNX's order


def _weighted(op: str, attributes: Settings, *order: str) -> Emit:
    """A node that takes the layer's tensors after its input, in `order`, where there are such."""

    def emit(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
        return graph.add(op, [*inputs, *graph.weights(place, order)], place.name, **attributes(place))

    return emit


def onnx_window(kernel: Sequence[int], strides: Sequence[int], pads: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Attributes of a convolution or pool: padding is listed before every axis, then after."""
    listed = [low for low, _ in pads] + [high for _, high in pads]
    return {"kernel_shape": list(kernel), "strides": list(strides), "pads": listed}


# Linear layers.


def _linear(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
    """A Gemm; on maps, which an NCHW graph has channels first, a convolution of one pixel."""
    if len(place.shape) == 1:
        return _weighted("Gemm", lambda place: {"transB": 1}, "weight", "bias")(graph, place, inputs)
    kernel = graph.initializer(f"{place.layer_name}.weight", place.tensors["weight"][:, :, None, None])
    return graph.add("Conv", [*inputs, kernel, *graph.weights(place, ("bias",))], place.name, kernel_shape=[1, 1])


def _torch_linear(place: Place) -> Any:
    layer = place.layer
    if len(place.shape) == 3:
        from export._torch_moving import LinearOfChannels

        return LinearOfChannels(layer.in_features, layer.out_features, layer.use_bias)
    return torch_layer("Linear", lambda _: (layer.in_features, layer.out_features, layer.use_bias))(place)


register(
    Linear,
    Row(
        onnx=_linear,
        torch=_torch_linear,
        keras=keras_layer("Dense", lambda p: {"units": p.layer.out_features, "use_bias": p.layer.use_bias}),
        check=on_maps_and_vectors,
    ),
)


# Convolutions.


def _dilation(layer: Any) -> tuple[int, int]:
    return pair(layer.kernel_dilation or 1)


def _check_conv(place: Place) -> None:
    layer = place.layer
    for setting in ("input_dilation", "mask"):
        value = getattr(layer, setting, None)
        if value is not None and (setting == "mask" or np.any(np.asarray(value) != 1)):
            raise MisfitError(f"sets {setting}: it cannot be exported")
    if len(layer.kernel_size) != 2:
        raise MisfitError("is no 2-D convolution: it cannot be exported")
    on_maps(place)
    if isinstance(layer.padding, str):
        if layer.padding not in ("SAME", "VALID"):
            raise MisfitError(f"has padding={layer.padding!r}: allowed are SAME, VALID, pixels")
        return
    sides = pairs(layer.padding)
    if isinstance(layer, Conv) and any(np.min(side) < 0 for side in sides):
        raise MisfitError(f"has padding={layer.padding}, less than 0: it cannot be exported")


def _check_transpose(place: Place) -> None:
    _check_conv(place)
    layer = place.layer
    if np.any(np.asarray(layer.kernel_dilation or 1) != 1):
        raise MisfitError("sets kernel_dilation: it cannot be exported")
    if isinstance(layer.padding, str):
        return
    if any(np.max(side) >= size for side, size in zip(pairs(layer.padding), layer.kernel_size, strict=True)):
        raise MisfitError(f"has padding={layer.padding}, more than its kernel reaches: it cannot be exported")


def _conv(place: Place) -> dict[str, Any]:
    layer = place.layer
    attributes = onnx_window(layer.kernel_size, pair(layer.strides), place.pads)
    if layer.feature_group_count != 1:
        attributes["group"] = layer.feature_group_count
    if _dilation(layer) != (1, 1):
        attributes["dilations"] = list(_dilation(layer))
    return attributes


def _conv_transpose(place: Place) -> dict[str, Any]:
    cuts, spare = transpose_cuts(place)
    attributes = onnx_window(place.layer.kernel_size, pair(place.layer.strides), cuts)
    return attributes | ({"output_padding": spare} if any(spare) else {})


def _torch_conv(place: Place) -> Any:
    from torch import nn

    from export._torch_layers import PaddedConv2d

    layer, uneven = place.layer, any(low != high for low, high in place.pads)
    arguments: tuple[Any, ...] = (
        *(layer.in_features, layer.out_features, layer.kernel_size, pair(layer.strides)),
        *(0 if uneven else tuple(low for low, _ in place.pads), _dilation(layer)),
        *(layer.feature_group_count, layer.use_bias),
    )
    return PaddedConv2d(place.pads, *arguments) if uneven else nn.Conv2d(*arguments)


def _keras_sizes(layer: Any) -> dict[str, Any]:
    sizes = {"filters": layer.out_features, "kernel_size": layer.kernel_size, "strides": pair(layer.strides)}
    return sizes | {"use_bias": layer.use_bias}


def _keras_conv(place: Place, inputs: Sequence[Any]) -> Any:
    import keras

    layer, (x,) = place.layer, inputs
    dilation = _dilation(layer)
    if dilation != (1, 1) and pair(layer.strides) != (1, 1):
        raise MisfitError("has both strides and dilation, which Keras does not take together")
    padding = layer.padding.lower() if isinstance(layer.padding, str) else "valid"
    if not isinstance(layer.padding, str) and any(map(any, place.pads)):
        x = keras.layers.ZeroPadding2D(tuple(place.pads), name=f"{place.keras_name}_padding")(x)
    settings = {"padding": padding, "dilation_rate": dilation, "groups": layer.feature_group_count}
    return in_keras(place, [x], "Conv2D", **_keras_sizes(layer), **settings)


def _keras_conv_transpose(place: Place, inputs: Sequence[Any]) -> Any:
    import keras

    x = in_keras(place, inputs, "Conv2DTranspose", **_keras_sizes(place.layer))
    crop = keras_crop(place)
    return keras.layers.Cropping2D(crop, name=f"{place.keras_name}_crop")(x) if any(map(any, crop)) else x


def _keras_transposed_weights(layer: ConvTranspose, ours: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    kernel, *bias = ours_in_order(layer, ours)
    return [kernel if layer.transpose_kernel else kernel[::-1, ::-1].transpose(0, 1, 3, 2), *bias]


register(Conv, Row(_weighted("Conv", _conv, "weight", "bias"), _torch_conv, _keras_conv, _check_conv))
register(
    ConvTranspose,
    Row(
        onnx=_weighted("ConvTranspose", _conv_transpose, "weight", "bias"),
        torch=own_torch_layer("ConvTranspose2d"),
        keras=_keras_conv_transpose,
        check=_check_transpose,
        weights=_keras_transposed_weights,
    ),
)


# Normalization.


def _batch_norm(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
    """BatchNormalization wants channels on the second axis, where flat features and maps of an NCHW graph have them."""
    axes = len(place.shape) + 1
    plain = () if place.layer.affine else _ones_and_zeros(graph, place, place.layer.num_features)
    numbers = [*plain, *graph.weights(place, NORM)]

    def normalized(value: str, name: str | None) -> str:
        return graph.add("BatchNormalization", [value, *numbers], name, epsilon=place.layer.epsilon)

    if axes in (2, 4):
        return normalized(inputs[0], place.name)
    moved = graph.add("Transpose", inputs, perm=[0, axes - 1, *range(1, axes - 1)])
    return graph.add("Transpose", [normalized(moved, None)], perm=[0, *range(2, axes), 1])


def _ones_and_zeros(graph: Graph, place: Place, size: int) -> list[str]:
    """Scale and bias for an operator that must have them."""
    return [number_of(graph, place, name, np.full(size, value)) for name, value in (("ones", 1), ("zeros", 0))]


def _torch_batch_norm(place: Place) -> Any:
    from torch import nn

    from export._torch_layers import LastAxisBatchNorm

    layer = place.layer
    norm = {1: nn.BatchNorm1d, 3: nn.BatchNorm2d}.get(len(place.shape), LastAxisBatchNorm)
    return norm(layer.num_features, layer.epsilon, 1 - layer.momentum, layer.affine)


def standardized(graph: Graph, place: Place, x: str, axes: Sequence[int], name: str | None = None) -> str:
    """`x` less its mean, by its deviation, over `axes`; the last node has the name, if one is given."""
    mean = graph.mean(x, axes, place.opset)
    centred = graph.add("Sub", [x, mean])
    variance = graph.mean(graph.add("Mul", [centred, centred]), axes, place.opset)
    epsilon = number_of(graph, place, "epsilon", place.layer.epsilon)
    deviation = graph.add("Sqrt", [graph.add("Add", [variance, epsilon])])
    return graph.add("Div", [centred, deviation], name)


def scaled_by_channel(graph: Graph, place: Place, x: str) -> str:
    """`x` times the layer's weight plus its bias, each one number per channel, as far as it has them."""
    steps = [(op, name) for op, name in (("Mul", "weight"), ("Add", "bias")) if name in place.tensors]
    for number, (op, name) in enumerate(steps, 1):
        value = graph.initializer(f"{place.layer_name}.{name}", place.tensors[name].reshape(place.along))
        x = graph.add(op, [x, value], place.name if number == len(steps) else None)
    return x


def _last(place: Place) -> tuple[str, ...]:
    """The name of the node that ends a normalization, where no scale follows."""
    return () if place.layer.affine else (place.name,)


def _group_norm(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
    *sides, channels = place.shape
    grouped = graph.integers(f"{place.name}.grouped", [0, place.layer.num_groups, -1])
    whole = graph.integers(f"{place.name}.whole", [0, channels, *sides])
    flat = standardized(graph, place, graph.add("Reshape", [*inputs, grouped]), [2])
    return scaled_by_channel(graph, place, graph.add("Reshape", [flat, whole], *_last(place)))


def _layer_norm(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
    if len(place.shape) != 3 and place.opset >= 17:
        ones = [] if place.layer.affine else _ones_and_zeros(graph, place, place.layer.num_features)[:1]
        names = [*ones, *graph.weights(place, ("weight", "bias"))]
        settings = {"axis": -1, "epsilon": place.layer.epsilon}
        return graph.add("LayerNormalization", [*inputs, *names], place.name, **settings)
    normal = standardized(graph, place, inputs[0], [place.channels], *_last(place))
    return scaled_by_channel(graph, place, normal)


def _torch_layer_norm(place: Place) -> Any:
    from torch import nn

    from export._torch_layers import LayerNorm2d

    norm = LayerNorm2d if len(place.shape) == 3 else nn.LayerNorm
    layer = place.layer
    return norm(layer.num_features, layer.epsilon, elementwise_affine=layer.affine, bias=layer.use_bias)


def _keras_norm(place: Place) -> dict[str, Any]:
    layer = place.layer
    return {"epsilon": layer.epsilon, "scale": layer.affine, "center": layer.bias is not None}


register(
    BatchNorm,
    Row(
        onnx=_batch_norm,
        torch=_torch_batch_norm,
        keras=keras_layer("BatchNormalization", lambda p: {"momentum": p.layer.momentum, **_keras_norm(p)}),
        check=any_place,
    ),
)
register(
    GroupNorm,
    Row(
        onnx=_group_norm,
        torch=torch_layer(
            "GroupNorm", lambda p: (p.layer.num_groups, p.layer.num_channels, p.layer.epsilon, p.layer.affine)
        ),
        keras=keras_layer("GroupNormalization", lambda p: {"groups": p.layer.num_groups, **_keras_norm(p)}),
        check=on_maps_and_vectors,
    ),
)
_keras_layer_norm = keras_layer("LayerNormalization", _keras_norm)
register(LayerNorm, Row(_layer_norm, _torch_layer_norm, _keras_layer_norm, any_place))


# PReLU.


def _prelu(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
    slope = place.tensors["weight"].reshape(place.along)
    return graph.add("PRelu", [*inputs, graph.initializer(f"{place.layer_name}.weight", slope)], place.name)


def _keras_prelu(place: Place) -> dict[str, Any]:
    axes = len(place.shape)
    return {"shared_axes": list(range(1, axes + 1 if place.layer.num_parameters == 1 else axes)) or None}


_torch_prelu = torch_layer("PReLU", lambda place: (place.layer.num_parameters,))
register(PReLU, Row(_prelu, _torch_prelu, keras_layer("PReLU", _keras_prelu), on_maps_and_vectors))
