"""Each layer of a chain in the form in which it is computed fastest, on maps with the batch first or last.

Where channels are few the batch is the better axis to vectorise over. Layers hand such maps on with the batch last, and
the next ones take them so, as long as they can: between two transpositions XLA computes in either order, and stores
both. In mnist_net at batch 1024 those copies took 270 of 390 us an example. Maps of many channels that come batch last
stay so: a network of one convolution from 16 to 64 channels, BatchNorm, ReLU, dropout, max-pool and a linear layer took
200 us an example for 300 at batch 32, and was not slower at 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from flaxvision.layers.basic import Activation
from flaxvision.layers.context import Context, ContextLayer
from flaxvision.layers.convolution import (
    NARROW,
    PATCH_BYTES,
    convolve,
    convolve_batch_last,
    convolve_transpose,
    form_of,
    narrow_product,
)
from flaxvision.layers.patches import FEW, Pair, Window, batch_first, batch_last
from flaxvision.layers.pooling import AvgPool, GlobalAvgPool, GlobalMaxPool, MaxPool
from flaxvision.layers.stochastic import BatchNorm, Dropout

IN_CACHE = 5 * 2**18  # bytes of a layer's patches that stay in the cache of two cores
SINGLE = (None, 1, (1, 1))  # a dilation of one
LEAST = 4  # 2**LEAST examples fill the vectors that lie along the batch


class Maps(NamedTuple):
    """A batch of maps, (N, H, W, C) with the batch first or (C, H, W, N) with it last; of vectors, (N, D)."""

    array: jax.Array
    batch_is_last: bool = False

    def first(self) -> jax.Array:
        """The array with the batch first."""
        return batch_first(self.array) if self.batch_is_last else self.array

    def last(self) -> jax.Array:
        """The array with the batch last."""
        return self.array if self.batch_is_last else batch_last(self.array)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, C), wherever the batch lies."""
        shape = self.array.shape
        return (shape[3], shape[1], shape[2], shape[0]) if self.batch_is_last else shape

    @property
    def are_few(self) -> bool:
        """Whether these are maps of few channels."""
        return self.array.ndim == 4 and self.shape[3] < FEW


def apply(layer: nnx.Module, maps: Maps, context: Context) -> Maps:
    """The output of a layer."""
    if context.conv != "native" and type(layer) in FORMS:
        return FORMS[type(layer)](layer, maps, context)
    x = maps.first()
    return Maps(layer(x, context) if isinstance(layer, ContextLayer) else layer(x))


def _linear(layer: nnx.Linear, maps: Maps, context: Context) -> Maps:
    x, kernel = maps.first(), layer.kernel[...]
    inputs, outputs = kernel.shape
    plain = _is_plain(layer) and x.dtype == kernel.dtype
    if context.conv != "fast" or not plain or x.ndim != 2 or outputs > min(NARROW, inputs // 2):
        return Maps(layer(x))
    return _biased(layer, Maps(narrow_product(x, kernel)))


def _conv(layer: nnx.Conv, maps: Maps, context: Context) -> Maps:
    window, kernel, dtype = _window(layer, maps.shape), layer.kernel[...], maps.array.dtype
    form = "native" if window is None else form_of(maps.shape, kernel.shape, window, dtype, context.conv)
    if window is None or form == "native" or dtype != kernel.dtype:
        return Maps(layer(maps.first()))
    if form == "batch minor":
        return _biased(layer, Maps(convolve_batch_last(maps.last(), kernel, window), True))
    return _biased(layer, Maps(convolve(maps.first(), kernel, window, form)))


def _window(layer: nnx.Conv, shape: tuple[int, ...]) -> Window | None:
    """The window of a layer on inputs (N, H, W, C); None for a layer of a kind that has no fast form."""
    if not _is_plain(layer) or len(shape) != 4 or layer.feature_group_count != 1 or layer.input_dilation not in SINGLE:
        return None
    (height, width), strides, padding = layer.kernel.shape[:2], _pair(layer.strides), layer.padding
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            return None
        padding = lax.padtype_to_pads(shape[1:3], (height, width), strides, padding)
    rows, columns = (padding,) * 2 if isinstance(padding, int) else padding
    pads = _pair(rows), _pair(columns)
    return None if min(map(min, pads)) < 0 else Window((shape[1], shape[2]), (height, width), strides, pads)


def _conv_transpose(layer: nnx.ConvTranspose, maps: Maps, context: Context) -> Maps:
    if not _spreads(layer, maps.shape, context.conv) or maps.array.dtype != layer.kernel.dtype:
        return Maps(layer(maps.first()))
    return _biased(layer, Maps(convolve_transpose(maps.last(), layer.kernel[...], _pair(layer.strides)), True))


def _spreads(layer: nnx.ConvTranspose, shape: tuple[int, ...], choice: str) -> bool:
    """Whether a layer takes the fast form on inputs (N, H, W, C)."""
    if not _is_plain(layer) or len(shape) != 4 or layer.padding != "VALID" or not layer.transpose_kernel:
        return False
    overlapping = all(k >= s for k, s in zip(layer.kernel.shape[:2], _pair(layer.strides), strict=True))
    wide = choice == "accelerated" and min(layer.kernel.shape[2:]) >= FEW
    return overlapping and not wide and _spread(layer, shape) <= PATCH_BYTES[choice]


def _spread(layer: nnx.ConvTranspose, shape: tuple[int, ...]) -> int:
    """Bytes of what is overlapped and added, for inputs (N, H, W, C)."""
    return math.prod(shape[:3]) * math.prod(layer.kernel.shape[:3]) * 4


def _pool(layer: MaxPool | AvgPool | GlobalMaxPool | GlobalAvgPool, maps: Maps, context: Context) -> Maps:
    maps = _few_last(maps)
    return maps._replace(array=layer(maps.array))  # what it pools lies on axes 1 and 2 of either


def _batch_norm(layer: BatchNorm, maps: Maps, context: Context) -> Maps:
    maps = _few_last(maps)
    features, examples = (0, 3) if maps.batch_is_last else (maps.array.ndim - 1, 0)
    return maps._replace(array=layer.normalize(maps.array, context, features, examples))


def _dropout(layer: Dropout, maps: Maps, context: Context) -> Maps:
    if not context.train:
        return maps
    kept = Maps(layer.draw(maps.shape, context))
    return maps._replace(array=layer.drop(maps.array, kept.last() if maps.batch_is_last else kept.array))


def _activation(layer: Activation, maps: Maps, context: Context) -> Maps:
    return maps._replace(array=layer(maps.array))


def _few_last(maps: Maps) -> Maps:
    return Maps(maps.last(), True) if maps.are_few else maps


def _biased(layer: Any, maps: Maps) -> Maps:
    if layer.bias is None:
        return maps
    shape = [1] * maps.array.ndim
    shape[0 if maps.batch_is_last else -1] = -1
    return maps._replace(array=maps.array + layer.bias[...].reshape(shape))


def _is_plain(layer: Any) -> bool:
    """Whether a linear layer or convolution is of the kind that has a fast form: no settings beyond its shape."""
    if {layer.dtype, layer.precision, layer.preferred_element_type} != {None}:
        return False
    if type(layer) is nnx.Linear:
        return layer.dot_general is lax.dot_general
    own = getattr(layer, "conv_general_dilated", lax.conv_general_dilated)
    plain = own is lax.conv_general_dilated and layer.mask is None
    return plain and layer.kernel_dilation in SINGLE and len(layer.kernel.shape) == 4


def _pair(value: Any) -> Pair:
    return (1, 1) if value is None else (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


FORMS: dict[type, Callable[[Any, Maps, Context], Maps]] = {
    nnx.Linear: _linear,
    nnx.Conv: _conv,
    nnx.ConvTranspose: _conv_transpose,
    MaxPool: _pool,
    AvgPool: _pool,
    GlobalMaxPool: _pool,
    GlobalAvgPool: _pool,
    BatchNorm: _batch_norm,
    Dropout: _dropout,
    Activation: _activation,
}


def form_and_patches(layer: nnx.Module, shape: tuple[int, ...], choice: str) -> tuple[str, int]:
    """The form that a convolution takes for inputs of `shape`, (N, H, W, C), and the bytes of its patches.

    The form of a transposed convolution is "batch minor" or "native"; any other layer is ("", 0).
    """
    if type(layer) is nnx.ConvTranspose:
        spread = _spread(layer, shape)
        return ("batch minor", spread) if _spreads(layer, shape, choice) else ("native", 0)
    if type(layer) is not nnx.Conv:
        return "", 0
    window, kernel = _window(layer, shape), layer.kernel.shape
    form = "native" if window is None else form_of(shape, kernel, window, jnp.float32, choice)
    if window is None or form in ("native", "winograd"):
        return form, 0
    return form, shape[0] * math.prod(window.count) * math.prod(kernel[:3]) * 4


def examples_in_cache(chain: Any) -> int | None:
    """Of how many examples the gradient is computed fastest on a CPU: a power of two; None where it does not matter.

    With few channels the patches of many examples leave the cache: an example of emnist_cnn takes 23 us among 32,
    38 among 256 and 86 among 1024, on two cores of an AMD EPYC with 1 MB of second-level cache each. XLA's own
    convolutions may not run in the loop over parts (jax-ml/jax#12868).
    """
    if not any(type(layer) in (nnx.Conv, nnx.ConvTranspose) for layer in chain.layers):
        return None
    shapes = chain.input_shapes()
    forms = [form_and_patches(layer, shape, "fast") for layer, shape in zip(chain.layers, shapes, strict=True)]
    most = max((size for form, size in forms if form != "patches"), default=0)
    if not most or any(form == "native" for form, _ in forms):
        return None
    return 1 << max(LEAST, (IN_CACHE // most).bit_length() - 1)
