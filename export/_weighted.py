"""The rows of the layers that have weights: linear ones, convolutions and normalisations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from export._place import Place, keras_crop, pair, pairs, transpose_cuts
from export._rows import (
    Row,
    any_place,
    in_order,
    keras_layer,
    on_maps,
    on_maps_and_vectors,
    own_torch_layer,
    register,
    torch_layer,
)
from flaxvision.layers import BatchNorm, Conv, ConvTranspose, GroupNorm, LayerNorm, Linear, PReLU
from flaxvision.layers.kinds import MisfitError

if TYPE_CHECKING:
    from export._onnx import Graph

NORM = ("weight", "bias", "running_mean", "running_var")  # a BatchNorm's tensors in ONNX's order


def _weighted(
    op: str, attributes: Callable[[Place], dict[str, Any]], *order: str
) -> Callable[[Graph, Place, Sequence[str]], str]:
    """A node that takes the layer's tensors after its input, in `order`, where there are such."""

    def emit(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
        return graph.add(op, [*inputs, *graph.weights(place, order)], place.name, **attributes(place))

    return emit


def onnx_pads(pads: Sequence[tuple[int, int]]) -> list[int]:
    """Padding as ONNX lists it: before every axis, then after."""
    return [low for low, _ in pads] + [high for _, high in pads]


# Linear layers.


def _check_linear(place: Place) -> None:
    if len(place.shape) > 1:
        raise MisfitError(f"is a Linear on maps of shape {place.shape}: it cannot be exported; put a Flatten before it")


register(
    Linear,
    Row(
        onnx=_weighted("Gemm", lambda place: {"transB": 1}, "weight", "bias"),
        torch=torch_layer("Linear", lambda p: (p.layer.in_features, p.layer.out_features, p.layer.use_bias)),
        keras=keras_layer("Dense", lambda p: {"units": p.layer.out_features, "use_bias": p.layer.use_bias}),
        weights=in_order("kernel", "bias"),
        check=_check_linear,
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
    attributes: dict[str, Any] = {
        "kernel_shape": list(layer.kernel_size),
        "strides": list(pair(layer.strides)),
        "pads": onnx_pads(place.pads),
    }
    if layer.feature_group_count != 1:
        attributes["group"] = layer.feature_group_count
    if _dilation(layer) != (1, 1):
        attributes["dilations"] = list(_dilation(layer))
    return attributes


def _conv_transpose(place: Place) -> dict[str, Any]:
    layer = place.layer
    cuts, spare = transpose_cuts(place)
    attributes = {
        "kernel_shape": list(layer.kernel_size),
        "strides": list(pair(layer.strides)),
        "pads": onnx_pads(cuts),
    }
    return attributes | ({"output_padding": spare} if any(spare) else {})


def _torch_conv(place: Place) -> Any:
    layer, pads = place.layer, place.pads
    if any(low != high for low, high in pads):
        return own_torch_layer("PaddedConv2d")(place)
    arguments = (
        *(layer.in_features, layer.out_features, layer.kernel_size, pair(layer.strides)),
        *(tuple(low for low, _ in pads), _dilation(layer), layer.feature_group_count, layer.use_bias),
    )
    return torch_layer("Conv2d", lambda _: arguments)(place)


def _keras_conv(place: Place, inputs: Sequence[Any]) -> Any:
    import keras

    layer, (x,) = place.layer, inputs
    dilated = _dilation(layer) != (1, 1)
    strided = pair(layer.strides) != (1, 1)
    as_named = isinstance(layer.padding, str) and not (dilated and strided)  # which Keras does not take together
    padding = layer.padding.lower() if as_named else "valid"
    if not as_named and any(map(any, place.pads)):
        x = keras.layers.ZeroPadding2D(tuple(place.pads), name=f"{place.keras_name}_padding")(x)
    if dilated and strided:
        raise MisfitError("has both strides and dilation, which Keras does not take together")
    settings = {
        "filters": layer.out_features,
        "kernel_size": layer.kernel_size,
        "strides": pair(layer.strides),
        "padding": padding,
        "dilation_rate": _dilation(layer),
        "groups": layer.feature_group_count,
        "use_bias": layer.use_bias,
    }
    return keras_layer("Conv2D", lambda _: settings)(place, [x])


def _keras_conv_transpose(place: Place, inputs: Sequence[Any]) -> Any:
    import keras

    layer = place.layer
    settings = {
        "filters": layer.out_features,
        "kernel_size": layer.kernel_size,
        "strides": pair(layer.strides),
        "use_bias": layer.use_bias,
    }
    x = keras_layer("Conv2DTranspose", lambda _: settings)(place, inputs)
    crop = keras_crop(place)
    return keras.layers.Cropping2D(crop, name=f"{place.keras_name}_crop")(x) if any(map(any, crop)) else x


def _keras_transposed_weights(layer: ConvTranspose, ours: Any) -> list[np.ndarray]:
    kernel, *bias = in_order("kernel", "bias")(layer, ours)
    if not layer.transpose_kernel:
        kernel = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    return [kernel, *bias]


register(
    Conv,
    Row(
        onnx=_weighted("Conv", _conv, "weight", "bias"),
        torch=_torch_conv,
        keras=_keras_conv,
        weights=in_order("kernel", "bias"),
        check=_check_conv,
    ),
)
register(
    ConvTranspose,
    Row(
        onnx=_weighted("ConvTranspose", _conv_transpose, "weight", "bias"),
        torch=own_torch_layer("ConvTranspose2d"),
        keras=_keras_conv_transpose,
        weights=_keras_transposed_weights,
        check=_check_transpose,
    ),
)


# Normalization.


def _batch_norm(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
    """BatchNormalization wants channels on the second axis, where flat features and maps of an NCHW graph have them."""
    axes = len(place.shape) + 1
    emit = _weighted("BatchNormalization", lambda p: {"epsilon": p.layer.epsilon}, *NORM)
    if axes in (2, 4):
        return emit(graph, place, inputs)
    moved = graph.add("Transpose", inputs, perm=[0, axes - 1, *range(1, axes - 1)])
    return graph.add("Transpose", [emit(graph, place, [moved])], perm=[0, *range(2, axes), 1])


def _torch_batch_norm(place: Place) -> Any:
    layer, axes = place.layer, len(place.shape)
    settings = (layer.num_features, layer.epsilon, 1 - layer.momentum)
    if axes not in (1, 3):
        from export._torch_layers import LastAxisBatchNorm

        return LastAxisBatchNorm(*settings)
    return torch_layer("BatchNorm2d" if axes == 3 else "BatchNorm1d", lambda _: settings)(place)


def standardized(graph: Graph, place: Place, x: str, axes: Sequence[int]) -> str:
    """`x` less its mean, by its deviation, over `axes`."""
    mean = graph.mean(x, axes, place.opset)
    centred = graph.add("Sub", [x, mean])
    variance = graph.mean(graph.add("Mul", [centred, centred]), axes, place.opset)
    epsilon = graph.constant(f"{place.name}.epsilon", np.asarray(place.layer.epsilon, place.dtype))
    deviation = graph.add("Sqrt", [graph.add("Add", [variance, epsilon])])
    return graph.add("Div", [centred, deviation])


def scaled_by_channel(graph: Graph, place: Place, x: str) -> str:
    """`x` times the layer's weight plus its bias, each one number per channel."""
    along = (-1, 1, 1) if len(place.shape) == 3 else (-1,)
    weight, bias = (
        graph.initializer(f"{place.layer_name}.{part}", place.tensors[part].reshape(along))
        for part in ("weight", "bias")
    )
    return graph.add("Add", [graph.add("Mul", [x, weight]), bias], place.name)


def _group_norm(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
    *sides, channels = place.shape
    grouped = graph.integers(f"{place.name}.grouped", [0, place.layer.num_groups, -1])
    whole = graph.integers(f"{place.name}.whole", [0, channels, *sides])
    flat = standardized(graph, place, graph.add("Reshape", [*inputs, grouped]), [2])
    return scaled_by_channel(graph, place, graph.add("Reshape", [flat, whole]))


register(
    BatchNorm,
    Row(
        onnx=_batch_norm,
        torch=_torch_batch_norm,
        keras=keras_layer("BatchNormalization", lambda p: {"momentum": p.layer.momentum, "epsilon": p.layer.epsilon}),
        weights=in_order("scale", "bias", "mean", "var"),
        check=any_place,
    ),
)
register(
    GroupNorm,
    Row(
        onnx=_group_norm,
        torch=torch_layer("GroupNorm", lambda p: (p.layer.num_groups, p.layer.num_channels, p.layer.epsilon)),
        keras=keras_layer("GroupNormalization", lambda p: {"groups": p.layer.num_groups, "epsilon": p.layer.epsilon}),
        weights=in_order("scale", "bias"),
        check=on_maps_and_vectors,
    ),
)


def _layer_norm(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
    if len(place.shape) != 3 and place.opset >= 17:
        names = graph.weights(place, ("weight", "bias"))
        settings = {"axis": -1, "epsilon": place.layer.epsilon}
        return graph.add("LayerNormalization", [*inputs, *names], place.name, **settings)
    return scaled_by_channel(graph, place, standardized(graph, place, inputs[0], [place.channels]))


def _torch_layer_norm(place: Place) -> Any:
    if len(place.shape) == 3:
        return own_torch_layer("LayerNorm2d")(place)
    return torch_layer("LayerNorm", lambda _: (place.layer.num_features, place.layer.epsilon))(place)


register(
    LayerNorm,
    Row(
        onnx=_layer_norm,
        torch=_torch_layer_norm,
        keras=keras_layer("LayerNormalization", lambda p: {"epsilon": p.layer.epsilon}),
        weights=in_order("scale", "bias"),
        check=any_place,
    ),
)


# PReLU.


def _prelu(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
    slope = place.tensors["weight"]
    slope = slope.reshape(-1, 1, 1) if len(place.shape) == 3 else slope
    return graph.add("PRelu", [*inputs, graph.initializer(f"{place.layer_name}.weight", slope)], place.name)


def _keras_prelu(place: Place) -> dict[str, Any]:
    axes = len(place.shape)
    return {"shared_axes": list(range(1, axes + 1 if place.layer.num_parameters == 1 else axes)) or None}


def _keras_slopes(layer: PReLU, ours: Any) -> list[np.ndarray]:
    return [ours["slope"]]


register(
    PReLU,
    Row(
        onnx=_prelu,
        torch=torch_layer("PReLU", lambda p: (p.layer.num_parameters,)),
        keras=keras_layer("PReLU", _keras_prelu),
        weights=_keras_slopes,
        check=on_maps_and_vectors,
    ),
)
