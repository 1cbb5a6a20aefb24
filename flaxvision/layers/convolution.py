"""Convolutions and narrow linear layers that train fast, and the rule that chooses a convolution's form.

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
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from flaxvision.layers.patches import FEW, Pair, Window, from_patches, patches
from flaxvision.layers.winograd import KERNELS, TILE, winograd

FIRST = 4  # input channels of a first layer, at most
NARROW = 64  # outputs of a narrow linear layer, at most
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
    """The convolution of `x` (N, H, W, I) with `kernel` (h, w, I, O) by "winograd" or "patches": (N, H', W', O)."""
    if form == "winograd":
        return winograd(x, kernel, window)
    assert form == "patches", form
    flat = kernel.reshape(-1, kernel.shape[-1])
    taken = patches(x, (window, 3))  # (N, H', W', h * w, I)
    return (taken.reshape(-1, len(flat)) @ flat).reshape(len(x), *window.count, -1)


def convolve_batch_last(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """The convolution of `x` (I, H, W, N) with `kernel` (h, w, I, O), the form "batch minor": (O, H', W', N)."""
    flat = kernel.reshape(-1, kernel.shape[-1])
    taken = patches(x, (window, 0)).reshape(len(flat), -1)  # (h * w * I, H' * W' * N)
    return (flat.T @ taken).reshape(-1, *window.count, x.shape[-1])


def convolve_transpose(x: jax.Array, kernel: jax.Array, strides: Pair) -> jax.Array:
    """The adjoint of `convolve_batch_last` without padding: `x` (I, H, W, N), `kernel` (h, w, O, I), to (O, H', W', N).

    H' = (H - 1) * stride + h, as in PyTorch's ConvTranspose2d.
    """
    height, width, outputs, inputs = kernel.shape
    count = (x.shape[1], x.shape[2])
    size = tuple((n - 1) * s + k for n, s, k in zip(count, strides, (height, width), strict=True))
    window = Window((size[0], size[1]), (height, width), strides)
    flat = kernel.reshape(-1, inputs)  # (h * w * O, I)
    spread = (flat @ x.reshape(inputs, -1)).reshape(height * width, outputs, *count, x.shape[-1])
    return from_patches(spread, (window, 0))


def narrow_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x @ kernel`, (N, I) and (I, O) to (N, O), by way of the transposed kernel.

    The kernel's gradient is then made of whole rows of `x`, (O, N) @ (N, I), in place of (I, N) @ (N, O), whose rows of
    few outputs fill no vector: 7 us for 82 with 512 inputs, 10 outputs and a batch of 64 on two CPU cores. The barrier
    keeps XLA from undoing the transposition.
    """
    return lax.dot_general(x, lax.optimization_barrier(kernel.T), (((1,), (1,)), ((), ())))
