"""Convolutions and narrow products that train fast, and the rule that chooses a convolution's form."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from flaxvision.ops.maps import Maps
from flaxvision.ops.patches import from_patches, patches
from flaxvision.ops.policy import Form, Policy
from flaxvision.ops.windows import FEW, Pair, Window
from flaxvision.ops.winograd import KERNELS, TILE, winograd

PICTURE = 4  # channels of a picture, at most
NARROW = 64  # outputs of a narrow product, at most


def form_of(shape: tuple[int, ...], kernel: tuple[int, ...], window: Window, dtype: jnp.dtype, policy: Policy) -> Form:
    """The form in which a convolution is computed fastest.

    Chosen by measurements on two cores of an AMD EPYC with AVX-512, and on an NVIDIA H200.

    Args:
        shape: Of the input, (N, H, W, I).
        kernel: Shape of the kernel, (h, w, I, O).
        window: Kernel, strides and padding on the map.
        dtype: Of the input.
        policy: Which forms there are.
    """
    height, width, inputs, outputs = kernel
    if patch_bytes(shape[0], kernel, window) > policy.patch_bytes:
        return Form.NATIVE
    if jnp.dtype(dtype).itemsize < 4 and not policy.half:
        return Form.NATIVE
    if inputs <= PICTURE and outputs >= FEW:
        form = policy.first_layer
    else:
        form = policy.few_channels if min(inputs, outputs) < FEW else policy.many_channels
    tiled = height == width and height in KERNELS and window.strides == (1, 1) and min(window.count) >= TILE
    if form is Form.WINOGRAD and not tiled:
        form = Form.PATCHES
    slow = form is Form.PATCHES and max(window.count) >= TILE  # forward, beside XLA's own
    return Form.NATIVE if policy.as_exact and slow else form


def patch_bytes(examples: int, kernel: tuple[int, ...], window: Window) -> int:
    """Bytes of the patches of so many examples in float32."""
    return examples * math.prod(window.count) * math.prod(kernel[:3]) * 4


def convolve(x: Maps, kernel: jax.Array, window: Window, form: Form) -> Maps:
    """The convolution of `x` (N, H, W, I) with `kernel` (h, w, I, O) in any form but XLA's own: (N, H', W', O)."""
    if form is Form.BATCH_LAST:
        return Maps(convolve_batch_last(x.last(), kernel, window), True)
    if form is Form.WINOGRAD:
        return Maps(winograd(x.first(), kernel, window))
    if form is Form.PATCHES:
        return Maps(convolve_patches(x.first(), kernel, window))
    raise ValueError(f"{form} is not computed here")


def convolve_patches(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """The convolution of `x` (N, H, W, I) with `kernel` (h, w, I, O): (N, H', W', O)."""
    flat = kernel.reshape(-1, kernel.shape[-1])
    taken = patches(x, (window, 3))  # (N, H', W', h * w, I)
    return (taken.reshape(-1, len(flat)) @ flat).reshape(len(x), *window.count, -1)


def convolve_batch_last(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """The convolution of `x` (I, H, W, N) with `kernel` (h, w, I, O): (O, H', W', N)."""
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
