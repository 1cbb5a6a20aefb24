"""Convolutions by the kernels in C++, with derivatives of any order."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np

from flaxvision.ops.compiled.library import target
from flaxvision.ops.windows import WHOLE_CHANNELS, Pair, Window
from flaxvision.ops.winograd import TILE

WIDTHS = (3, 5, 7, 9)  # of depthwise kernels
HALF = WHOLE_CHANNELS // 2  # channels: of vectors with fewer most is zeros
MOST_WEIGHTS = 160 * 160  # channels in times out; more are as fast by whole matrix products
MOST_STRIDED = 64 * 128  # the same with a stride, of whose outputs three quarters are dropped


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """Where windows lie on maps that are spread by zeros, and which outputs are kept."""

    above: int  # rows that the first window begins before the map
    left: int
    stride: int
    spread: int  # distance of two values of the map, whose gaps hold zeros

    def turned(self, kernel: Pair) -> _Place:
        """Where those of the adjoint lie."""
        height, width = kernel
        return _Place(height - 1 - self.above, width - 1 - self.left, self.spread, self.stride)


def computes(kernel: tuple[int, ...], window: Window, groups: int) -> bool:
    """Whether there is a kernel for a convolution with a kernel of shape (h, w, I / groups, O)."""
    height, width, inputs, outputs = kernel
    if window.dilation != (1, 1) or window.strides not in ((1, 1), (2, 2)):
        return False
    return (inputs == 1 and outputs == groups and width in WIDTHS) if groups > 1 else (height, width) == (3, 3)


def fits(kernel: tuple[int, ...], window: Window, groups: int) -> bool:
    """Whether there is a kernel that pays for a convolution with a kernel of shape (h, w, I / groups, O).

    >>> fits((3, 3, 16, 32), Window((32, 32), (3, 3), pads=((1, 1), (1, 1))), groups=1)
    True
    """
    inputs, outputs = kernel[2:]
    strided = window.strides != (1, 1)
    if not computes(kernel, window, groups):
        return False
    if groups > 1:
        return outputs >= WHOLE_CHANNELS and not strided
    filled = inputs >= WHOLE_CHANNELS and outputs >= HALF
    most = MOST_STRIDED if strided else MOST_WEIGHTS
    return filled and min(window.count) >= TILE and inputs * outputs <= most


def convolve_compiled(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """The convolution of `x` (N, H, W, I) with `kernel`, (3, 3, I, O) or depthwise (h, w, 1, I): (N, H', W', O)."""
    (above, _), (left, _) = window.pads
    return _correlation(x, kernel, window.count, _Place(above, left, window.strides[0], 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _correlation(x: jax.Array, kernel: jax.Array, size: Pair, place: _Place) -> jax.Array:
    """(N, *size, O)."""
    return _call("", (x.shape[0], *size, kernel.shape[3]), x, kernel, place, _is_depthwise(kernel.shape, x.shape[3]))


def _correlation_backward(
    size: Pair, place: _Place, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    return _adjoint(g, kernel, x.shape, place), _kernel_gradient(x, g, kernel.shape, place)


def _adjoint(g: jax.Array, kernel: jax.Array, shape: tuple[int, ...], place: _Place) -> jax.Array:
    """The gradient of the input, of `shape`: the correlation of the output's with the kernel turned round."""
    turned = kernel[::-1, ::-1]
    turned = turned if _is_depthwise(kernel.shape, shape[3]) else turned.swapaxes(2, 3)
    height, width = kernel.shape[:2]
    return _correlation(g, turned, (shape[1], shape[2]), place.turned((height, width)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _kernel_gradient(x: jax.Array, g: jax.Array, shape: tuple[int, ...], place: _Place) -> jax.Array:
    """The gradient of a kernel of `shape`."""
    return _call("_gradient", shape, x, g, place, _is_depthwise(shape, x.shape[3]))


def _kernel_gradient_backward(
    shape: tuple[int, ...], place: _Place, saved: tuple[jax.Array, jax.Array], given: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, g = saved
    return _adjoint(g, given, x.shape, place), _correlation(x, given, (g.shape[1], g.shape[2]), place)


_correlation.defvjp(
    lambda x, kernel, size, place: (_correlation(x, kernel, size, place), (x, kernel)), _correlation_backward
)
_kernel_gradient.defvjp(
    lambda x, g, shape, place: (_kernel_gradient(x, g, shape, place), (x, g)), _kernel_gradient_backward
)


def _is_depthwise(kernel: tuple[int, ...], inputs: int) -> bool:
    return kernel[2] == 1 and kernel[3] == inputs


def _call(
    which: str, shape: tuple[int, ...], x: jax.Array, other: jax.Array, place: _Place, depthwise: bool
) -> jax.Array:
    name = target(("depthwise" if depthwise else "winograd") + which)
    result = jax.ShapeDtypeStruct(shape, x.dtype)
    numbers = {name: np.int64(value) for name, value in dataclasses.asdict(place).items()}
    return jax.ffi.ffi_call(name, result, vmap_method="sequential")(x, other, **numbers)
