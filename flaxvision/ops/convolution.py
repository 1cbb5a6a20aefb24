"""Convolutions and narrow products that train fast, and the rule that chooses a convolution's form."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from flaxvision.ops.compiled import library
from flaxvision.ops.compiled.convolution import convolve_compiled, fits
from flaxvision.ops.maps import Maps
from flaxvision.ops.policy import Form, Policy
from flaxvision.ops.windows import (
    FEW_CHANNELS,
    WHOLE_CHANNELS,
    Pair,
    Window,
    add_slices,
    from_patches,
    patches,
    window_slices,
)
from flaxvision.ops.winograd import KERNEL_SIDES, TILE, winograd

PICTURE_CHANNELS = 4  # at most
NARROW_OUTPUTS = 64  # of a narrow product, at most
LARGE_PATCH = 200  # values; patches of more take longer to make than Winograd's tiles, also where channels are few


def form_of(shape: tuple[int, ...], kernel: tuple[int, ...], window: Window, dtype: jnp.dtype, policy: Policy) -> Form:
    """The form in which a convolution is computed fastest.

    Chosen by measurements on two cores of an AMD EPYC with AVX-512, and on an NVIDIA H200.

    Args:
        shape: Of the input, (N, H, W, I).
        kernel: Shape of the kernel, (h, w, I / groups, O).
        window: Kernel, strides and padding on the map.
        dtype: Of the input.
        policy: Which forms there are.
    """
    height, width, inputs, outputs = kernel
    groups = shape[3] // inputs
    if policy.compiled and jnp.dtype(dtype) == jnp.float32 and fits(kernel, window, groups) and library.ready():
        return Form.COMPILED
    if patch_bytes(shape[0], kernel, window, groups) > policy.patch_bytes:
        return Form.NATIVE
    if jnp.dtype(dtype).itemsize < 4 and not policy.half:
        return Form.NATIVE
    if groups > 1:
        return policy.groups
    whole = policy.compiled and outputs >= WHOLE_CHANNELS  # for which the next layer may have a kernel
    if inputs <= PICTURE_CHANNELS and (outputs >= FEW_CHANNELS or whole):
        form = policy.first_layer
    else:
        few = policy.batch_last_below if (height, width) == (1, 1) else FEW_CHANNELS
        form = policy.few_channels if min(inputs, outputs) < (few or FEW_CHANNELS) else policy.many_channels
    dense = window.strides == window.dilation == (1, 1)
    tiled = dense and height == width and height in KERNEL_SIDES and min(window.count) >= TILE - 1
    if tiled and policy.many_channels is Form.WINOGRAD and not policy.compiled and math.prod(kernel[:3]) > LARGE_PATCH:
        form = Form.WINOGRAD
    if form is Form.WINOGRAD and not tiled:
        form = Form.PATCHES
    slow = form is Form.PATCHES and max(window.count) >= TILE  # forward, beside XLA's own
    return Form.NATIVE if policy.as_exact and slow else form


def patch_bytes(examples: int, kernel: tuple[int, ...], window: Window, groups: int = 1) -> int:
    """Bytes of the patches of `examples` examples in float32."""
    return examples * math.prod(window.count) * math.prod(kernel[:3]) * groups * 4


def convolve(x: Maps, kernel: jax.Array, window: Window, form: Form) -> Maps:
    """The convolution of `x` (N, H, W, I) with `kernel` (h, w, I, O) in any form but XLA's own: (N, H', W', O).

    >>> x, kernel = Maps(jnp.ones((1, 3, 3, 1))), jnp.ones((3, 3, 1, 1))
    >>> convolve(x, kernel, Window((3, 3), (3, 3)), Form.PATCHES).array.tolist()
    [[[[9.0]]]]
    """
    if form is Form.BATCH_LAST:
        return Maps(convolve_batch_last(x.last(), kernel, window), True)
    if form is Form.GROUPS:
        if kernel.shape[2] == 1:
            return Maps(convolve_depthwise(x.first(), kernel, window))
        return convolve_groups(x, kernel, window)
    if form is Form.COMPILED:
        return Maps(convolve_compiled(x.first(), kernel, window))
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


def convolve_groups(x: Maps, kernel: jax.Array, window: Window) -> Maps:
    """The convolution of `x` (N, H, W, I) with `kernel` (h, w, I / groups, O), each group by itself, the batch last."""
    inputs, outputs = kernel.shape[2:]
    groups = x.shape[3] // inputs
    taken = patches(x.last(), (window, 0))  # (h * w, I, H', W', N)
    taken = taken.reshape(-1, groups, inputs, math.prod(window.count) * x.shape[0])
    kernel = kernel.reshape(-1, inputs, groups, outputs // groups)
    y = jnp.einsum("tigo,tgix->gox", kernel, taken)
    return Maps(y.reshape(outputs, *window.count, -1), True)


def convolve_depthwise(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """The convolution of `x` (N, H, W, I) with `kernel` (h, w, 1, I * m), tap by tap: (N, H', W', I * m)."""
    times = kernel.shape[3] // x.shape[3]
    return _depthwise(jnp.repeat(x, times, 3) if times > 1 else x, kernel.reshape(-1, kernel.shape[3]), window)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    taps = zip(window_slices(x, window), kernel[:, None, None, None], strict=True)
    return functools.reduce(jnp.add, (tap * k for tap, k in taps))


def _depthwise_backward(
    window: Window, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    of_kernel = jnp.stack([(tap * g).sum((0, 1, 2)) for tap in window_slices(x, window)])
    if window.strides != (1, 1):
        return add_slices([g * k for k in kernel[:, None, None, None]], window), of_kernel
    # The convolution of the gradient with the kernel turned round.
    (above, below), (left, right) = window.pads
    down, across = (reach - 1 for reach in window.reach)
    pads = (down - above, down - below), (across - left, across - right)
    turned = Window(window.count, window.kernel, (1, 1), pads, window.dilation)
    return _depthwise(g, kernel[::-1], turned), of_kernel


_depthwise.defvjp(lambda x, kernel, window: (_depthwise(x, kernel, window), (x, kernel)), _depthwise_backward)


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


def product_batch_last(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The product of vectors that have the batch last, (I, N), with (I, O): (N, O).

    It transposes the kernel in place of the vectors, which pays where the kernel is the smaller one, O < N: 3.9 ms for
    10.0 with 1,568 inputs, 128 outputs and a batch of 1,024, gradients included; at a batch of 64 it lost a third.
    """
    outputs_first = lax.dot_general(kernel, x, (((0,), (0,)), ((), ())))
    return lax.optimization_barrier(outputs_first).T  # without the barrier XLA would swap the two again
