"""Convolutions, max-pools and narrow linear layers that train fast, and the rules that choose their forms.

XLA's own convolution has cliffs on a CPU: gradients that are 4 to 50 times slower inside `lax.scan` (jax-ml/jax#12868),
maps of 2 x 2 that take 100 times as long as their arithmetic, few channels that are computed one by one. Each form here
is made of slices, additions and matrix products, with derivatives of any order. They compute what XLA's computes, in
another order of summation. Training on a CPU takes all of them ("fast"); evaluation only those that are as exact as
XLA's ("direct"): with few channels, and on the smallest maps, where vgg19's last block takes 3 ms for 370.

On a GPU, too, XLA's convolutions of few channels lag ("accelerated"): a step of emnist_cnn takes 0.36 ms by them, of
five such networks together 0.11 ms by matrix products, which XLA fuses and launches as one graph. Over trials by `vmap`
("batched") a convolution becomes a grouped one (jax-ml/jax#26266): 3.2 ms for sixteen trials, by products 0.47.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from flaxvision.layers.patches import FEW, Pair, Window, batch_first, batch_last, from_patches, patches
from flaxvision.layers.pooling import GlobalMaxPool, MaxPool
from flaxvision.layers.winograd import KERNELS, TILE, winograd

FIRST = 4  # input channels of a first layer, at most
NARROW = 64  # outputs of a narrow linear layer, at most
IN_CACHE = 5 * 2**18  # bytes of a layer's patches that stay in the cache of two cores
LEAST = 4  # 2**LEAST examples fill the vectors that lie along the batch
PATCH_BYTES = {"fast": 2**30, "direct": 2**28, "accelerated": 2**28, "batched": 2**28}  # evaluation has larger batches
ON_GPU = {"accelerated": "native", "batched": "patches"}  # the forms of wide layers there


def form_of(shape: tuple[int, ...], kernel: tuple[int, ...], window: Window, dtype: Any, choice: str = "fast") -> str:
    """The form in which a convolution is computed fastest: "patches", "batch minor", "winograd" or "native".

    Chosen by measurements on two cores of an AMD EPYC with AVX-512, and on an NVIDIA H200.

    Args:
        shape: Of the input, (N, H, W, I).
        kernel: Shape of the kernel, (h, w, I, O).
        window: Kernel, strides and padding on the map.
        dtype: Of the input; on a CPU Winograd's and the patches' sums want float32 or more.
        choice: On a CPU "fast" chooses among all forms, "direct" among those whose sums are as exact as XLA's own. On a
            GPU "accelerated" is for one network, "batched" for several by `vmap`.
    """
    height, width, inputs, outputs = kernel
    places = shape[0] * math.prod(window.count)
    if places * math.prod(kernel[:3]) * 4 > PATCH_BYTES[choice]:
        return "native"
    if choice in ON_GPU:
        return "batch minor" if min(inputs, outputs) < FEW else ON_GPU[choice]
    if jnp.dtype(dtype).itemsize < 4:
        return "native"
    if inputs <= FIRST and outputs >= FEW:
        form = "patches"
    elif min(inputs, outputs) < FEW:
        form = "batch minor"
    elif height == width and height in KERNELS and window.strides == (1, 1) and min(window.count) >= TILE:
        form = "winograd"
    else:
        form = "patches"
    slow = form == "winograd" or (form == "patches" and max(window.count) >= TILE)  # forward, beside XLA's own
    return "native" if choice == "direct" and slow else form


def convolve(x: jax.Array, kernel: jax.Array, window: Window, form: str) -> jax.Array:
    """The convolution of `x` (N, H, W, I) with `kernel` (h, w, I, O) in a form that is not native: (N, H', W', O)."""
    if form == "winograd":
        return winograd(x, kernel, window)
    flat = kernel.reshape(-1, kernel.shape[-1])
    if form == "patches":
        taken = patches(x, (window, 3))  # (N, H', W', h * w, I)
        return (taken.reshape(-1, len(flat)) @ flat).reshape(len(x), *window.count, -1)
    assert form == "batch minor", form
    taken = patches(batch_last(x), (window, 0)).reshape(len(flat), -1)  # (h * w * I, H' * W' * N)
    return batch_first((flat.T @ taken).reshape(-1, *window.count, len(x)))


def convolve_transpose(x: jax.Array, kernel: jax.Array, strides: Pair) -> jax.Array:
    """The adjoint of `convolve` without padding: `x` (N, H, W, I), `kernel` (h, w, O, I), to (N, H', W', O).

    H' = (H - 1) * stride + h, as in PyTorch's ConvTranspose2d. The batch is the last axis within.
    """
    height, width, outputs, inputs = kernel.shape
    count = (x.shape[1], x.shape[2])
    size = tuple((n - 1) * s + k for n, s, k in zip(count, strides, (height, width), strict=True))
    window = Window((size[0], size[1]), (height, width), strides)
    flat = kernel.reshape(-1, inputs)  # (h * w * O, I)
    spread = flat @ batch_last(x).reshape(inputs, -1)
    return batch_first(from_patches(spread.reshape(height * width, outputs, *count, len(x)), (window, 0)))


def narrow_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x @ kernel`, (N, I) and (I, O) to (N, O), by way of the transposed kernel.

    The kernel's gradient is then made of whole rows of `x`, (O, N) @ (N, I), in place of (I, N) @ (N, O), whose rows of
    few outputs fill no vector: 7 us for 82 with 512 inputs, 10 outputs and a batch of 64 on two CPU cores. The barrier
    keeps XLA from undoing the transposition.
    """
    return lax.dot_general(x, lax.optimization_barrier(kernel.T), (((1,), (1,)), ((), ())))


# The layers that have a fast form.


def _linear(layer: nnx.Linear, x: jax.Array, choice: str) -> jax.Array:
    kernel = layer.kernel[...]
    inputs, outputs = kernel.shape
    settings = {layer.dtype, layer.precision, layer.preferred_element_type}
    plain = settings == {None} and layer.dot_general is lax.dot_general and x.dtype == kernel.dtype
    if choice != "fast" or not plain or x.ndim != 2 or outputs > min(NARROW, inputs // 2):
        return layer(x)
    return _biased(layer, narrow_product(x, kernel))


def _conv(layer: nnx.Conv, x: jax.Array, choice: str) -> jax.Array:
    window, kernel = _window(layer, x.shape), layer.kernel[...]
    form = "native" if window is None else form_of(x.shape, kernel.shape, window, x.dtype, choice)
    return layer(x) if window is None or form == "native" else _biased(layer, convolve(x, kernel, window, form))


def _window(layer: nnx.Conv, shape: tuple[int, ...]) -> Window | None:
    """The window of a layer on inputs (N, H, W, C); None for a layer of a kind that has no fast form."""
    if not _is_plain(layer) or layer.feature_group_count != 1 or layer.input_dilation not in (None, 1, (1, 1)):
        return None
    (height, width), strides, padding = layer.kernel.shape[:2], _pair(layer.strides), layer.padding
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            return None
        padding = lax.padtype_to_pads(shape[1:3], (height, width), strides, padding)
    rows, columns = (padding,) * 2 if isinstance(padding, int) else padding
    pads = _pair(rows), _pair(columns)
    return None if min(map(min, pads)) < 0 else Window((shape[1], shape[2]), (height, width), strides, pads)


def _conv_transpose(layer: nnx.ConvTranspose, x: jax.Array, choice: str) -> jax.Array:
    if not _spreads(layer, x.shape, choice):
        return layer(x)
    return _biased(layer, convolve_transpose(x, layer.kernel[...], _pair(layer.strides)))


def _spreads(layer: nnx.ConvTranspose, shape: tuple[int, ...], choice: str) -> bool:
    """Whether a layer takes the fast form on inputs (N, H, W, C)."""
    plain = _is_plain(layer) and layer.padding == "VALID" and layer.transpose_kernel
    overlapping = all(k >= s for k, s in zip(layer.kernel.shape[:2], _pair(layer.strides), strict=True))
    wide = choice == "accelerated" and min(layer.kernel.shape[2:]) >= FEW
    return plain and overlapping and not wide and _spread(layer, shape) <= PATCH_BYTES[choice]


def _spread(layer: nnx.ConvTranspose, shape: tuple[int, ...]) -> int:
    """Bytes of what is overlapped and added, for inputs (N, H, W, C)."""
    return math.prod(shape[:3]) * math.prod(layer.kernel.shape[:3]) * 4


def patch_bytes(layer: nnx.Module, shape: tuple[int, ...], choice: str) -> tuple[str, int]:
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
    forms = [patch_bytes(layer, shape, "fast") for layer, shape in zip(chain.layers, chain.input_shapes(), strict=True)]
    most = max((size for form, size in forms if form != "patches"), default=0)
    if not most or any(form == "native" for form, _ in forms):
        return None
    return 1 << max(LEAST, (IN_CACHE // most).bit_length() - 1)


def _max_pool(layer: MaxPool | GlobalMaxPool, x: jax.Array, choice: str) -> jax.Array:
    if x.shape[-1] >= FEW or getattr(layer, "padding", "VALID") != "VALID":
        return layer(x)
    return batch_first(layer(batch_last(x)))


def _is_plain(layer: Any) -> bool:
    single = (None, 1, (1, 1))
    return layer.mask is None and layer.kernel_dilation in single and len(layer.kernel.shape) == 4


def _biased(layer: Any, y: jax.Array) -> jax.Array:
    return y if layer.bias is None else y + layer.bias[...].reshape((1,) * (y.ndim - 1) + (-1,))


def _pair(value: Any) -> Pair:
    return (1, 1) if value is None else (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


FORMS: dict[type, Callable[[Any, jax.Array, str], jax.Array]] = {  # layer, its input, a choice of `form_of`
    nnx.Linear: _linear,
    nnx.Conv: _conv,
    nnx.ConvTranspose: _conv_transpose,
    MaxPool: _max_pool,
    GlobalMaxPool: _max_pool,
}
