"""Convolutions with a fraction of the multiplications: Winograd's minimal filtering F(4 x 4, k x k).

A tile of 4 x 4 outputs of a k x k kernel takes (k + 3)^2 products in place of 16 k^2: 36 for 144 at k = 3, 64 for 400
at k = 5. In one dimension, with a = k + 3 points p,

    y = A' ((G w) * (B' x)),    A[i, j] = p_i^j,  G[i, j] = p_i^j / n_i,  B' = n V^-T,  V[i, j] = p_i^j,

where V is the square matrix of the same powers (the last point is infinity, whose only power is the highest) and n
makes the entries of B' small whole numbers: evaluate both polynomials, multiply, interpolate, transposed (Cook and
Toom). In two dimensions each transform goes along both axes, and the products of all channels are (k + 3)^2 matrix
products. The transforms are linear, so the gradient is the same scheme with their adjoints: the transformed input and
weight are reused.

Rounding: relative to the largest output about 1e-5 in float32, ten times that of a direct sum.

Reference: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flaxvision.ops.windows import Pads, Window, adjoint_pair, overlap_add, pad_map

TILE = 4  # side of a tile of outputs
KERNEL_SIDES = (3, 5)  # sides of kernels for which the rounding is small enough
POINTS = (0, 1, -1, 2, -2, Fraction(1, 2), Fraction(-1, 2))


def winograd(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """The convolution of `x` (N, H, W, I) with `kernel` (k, k, I, O), k in `KERNEL_SIDES`, stride 1: (N, H', W', O)."""
    tiles = transform_input(x, (window, len(x)))
    weights = lax.optimization_barrier(transform_kernel(kernel, len(kernel)))
    products = jnp.einsum("ptc,pco->pto", lax.optimization_barrier(tiles), weights)
    return transform_output(products, (window, len(x)))


@functools.cache
def matrices(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(B' (a, a), G (a, side), A (a, TILE)) for kernels of `side`, a = side + TILE - 1."""
    count = side + TILE - 1
    points = [Fraction(point) for point in POINTS[: count - 1]]

    def powers(columns: int) -> list[list[Fraction]]:
        infinity = [Fraction(int(j == columns - 1)) for j in range(columns)]
        return [[point**j for j in range(columns)] for point in points] + [infinity]

    scale = [math.prod((p - q for q in points if q != p), start=Fraction(1)) for p in points] + [Fraction(1)]
    inverse = np.array(_inverse(powers(count))).T * np.array(scale)[:, None]
    kernel = np.array(powers(side)) / np.array(scale)[:, None]
    return inverse.astype(np.float64), kernel.astype(np.float64), np.array(powers(TILE)).astype(np.float64)


def _inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    """The exact inverse, by Gauss and Jordan."""
    size = len(matrix)
    rows = [[*row, *(Fraction(int(i == j)) for j in range(size))] for i, row in enumerate(matrix)]
    for i in range(size):
        pivot = next(k for k in range(i, size) if rows[k][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for k in range(size):
            if k != i:
                rows[k] = [a - rows[k][i] * b for a, b in zip(rows[k], rows[i], strict=True)]
    return [row[size:] for row in rows]


def combine(matrix: np.ndarray, parts: Sequence[jax.Array]) -> list[jax.Array]:
    """`matrix` times a vector of arrays, as additions without the zeros: XLA fuses them with what makes the parts."""
    sums = []
    for row in matrix:
        total = None
        for factor, part in zip(row, parts, strict=True):
            if factor:
                term = part if factor == 1 else -part if factor == -1 else part * jnp.asarray(factor, part.dtype)
                total = term if total is None else total + term
        assert total is not None
        sums.append(total)
    return sums


def combine_both(matrix: np.ndarray, x: jax.Array, axes: tuple[int, int], to: int = 1) -> jax.Array:
    """`matrix` times the first of two axes of `x`, which goes to the front, and times the second, which goes to `to`.

    Between the transforms of the two axes stands a barrier: without it XLA computes the first one anew for every tap of
    the second.
    """
    first, second = axes
    taps = range(matrix.shape[1])
    parts = combine(matrix, [lax.index_in_dim(x, i, first, keepdims=False) for i in taps])
    rows = lax.optimization_barrier(jnp.stack(parts))
    return jnp.stack(combine(matrix, [lax.index_in_dim(rows, j, second, keepdims=False) for j in taps]), to)


def _grid(window: Window) -> tuple[int, int]:
    height, width = window.count
    return -(-height // TILE), -(-width // TILE)


def _transform_input(x: jax.Array, settings: tuple[Window, int]) -> jax.Array:
    """(N, H, W, C) to (a * a, N * tiles, C)."""
    window, examples = settings
    side, (down, across) = window.kernel[0], _grid(window)
    matrix, channels = matrices(side)[0], x.shape[-1]
    x = pad_map(x, _whole_tiles(window))
    taps = range(side + TILE - 1)
    rows = combine(matrix, [x[:, i : i + (down - 1) * TILE + 1 : TILE] for i in taps])
    tiles = lax.optimization_barrier(jnp.stack(rows))
    columns = combine(matrix, [tiles[:, :, :, j : j + (across - 1) * TILE + 1 : TILE] for j in taps])
    return jnp.stack(columns, 1).reshape(len(taps) ** 2, examples * down * across, channels)


def _transform_input_adjoint(v: jax.Array, settings: tuple[Window, int]) -> jax.Array:
    window, examples = settings
    side, (down, across) = window.kernel[0], _grid(window)
    matrix, taps = matrices(side)[0].T, side + TILE - 1
    v = v.reshape(taps, taps, examples, down, across, v.shape[-1])
    columns = combine(matrix, [v[:, j] for j in range(taps)])
    tiles = lax.optimization_barrier(overlap_add(columns, 3, TILE, across * TILE + side - 1))
    rows = combine(matrix, [tiles[i] for i in range(taps)])
    x = overlap_add(rows, 1, TILE, down * TILE + side - 1)
    (above, below), (left, right) = _whole_tiles(window)
    return pad_map(x, ((-above, -below), (-left, -right)))


def _whole_tiles(window: Window) -> Pads:
    """The window's pads, and as many zeros more as whole tiles take."""
    axes = zip(window.size, window.pads, window.kernel, _grid(window), strict=True)
    rows, columns = ((low, tiles * TILE + k - 1 - size - low) for size, (low, _), k, tiles in axes)
    return rows, columns


def _transform_kernel(w: jax.Array, side: int) -> jax.Array:
    """(k, k, I, O) to (a * a, I, O)."""
    matrix = matrices(side)[1]
    return combine_both(matrix, w, (0, 1)).reshape(len(matrix) ** 2, *w.shape[2:])


def _transform_kernel_adjoint(u: jax.Array, side: int) -> jax.Array:
    matrix = matrices(side)[1].T
    taps = matrix.shape[1]
    return combine_both(matrix, u.reshape(taps, taps, *u.shape[1:]), (0, 1))


def _transform_output(y: jax.Array, settings: tuple[Window, int]) -> jax.Array:
    """(a * a, N * tiles, O) to (N, H', W', O)."""
    window, examples = settings
    matrix, (down, across), (height, width) = matrices(window.kernel[0])[2].T, _grid(window), window.count
    taps, features = matrix.shape[1], y.shape[-1]
    both = combine_both(matrix, y.reshape(taps, taps, examples, down, across, features), (0, 1), -2)
    whole = both.transpose(1, 2, 0, 3, 4, 5).reshape(examples, down * TILE, across * TILE, features)
    return whole[:, :height, :width]


def _transform_output_adjoint(g: jax.Array, settings: tuple[Window, int]) -> jax.Array:
    window, examples = settings
    matrix, (down, across), (height, width) = matrices(window.kernel[0])[2], _grid(window), window.count
    g = pad_map(g, ((0, down * TILE - height), (0, across * TILE - width)))
    g = g.reshape(examples, down, TILE, across, TILE, -1)
    both = combine_both(matrix, g, (2, 4))
    return lax.optimization_barrier(both.reshape(len(matrix) ** 2, examples * down * across, -1))


transform_input, transform_input_adjoint = adjoint_pair(_transform_input, _transform_input_adjoint)
transform_kernel, transform_kernel_adjoint = adjoint_pair(_transform_kernel, _transform_kernel_adjoint)
transform_output, transform_output_adjoint = adjoint_pair(_transform_output, _transform_output_adjoint)
