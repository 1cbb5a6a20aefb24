"""Layers that move values about: another order or shape of an example, and a margin put around it or cut off."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from flaxvision.errors import check_choice
from flaxvision.layers.context import Context
from flaxvision.layers.kinds import MapsLayer, MisfitError, Shape, light, no_tensors, non_empty, on_maps, register
from flaxvision.ops.maps import Maps
from flaxvision.ops.windows import Pair

__all__ = ["Pad", "Rearrange"]

MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}  # of pads, PyTorch's -> NumPy's and ONNX's


class Rearrange(nnx.Module):
    """The values of an example in another order or shape: what `view`, `permute` and `view` make of it in PyTorch.

    All three arguments are as PyTorch lays values out, maps as (C, H, W).

    Args:
        split: The sizes into which an example is split.
        order: In which order they come then, as in `transpose`.
        shape: What they become: (C, H, W) of a map, or (D,).

    >>> Rearrange((2, 2), (1, 0), (4,))(jnp.arange(4.0)[None]).tolist()  # channels shuffled in two groups
    [[0.0, 2.0, 1.0, 3.0]]
    """

    def __init__(self, split: Sequence[int], order: Sequence[int], shape: Sequence[int]):
        self.split = tuple(split)
        self.order = tuple(order)
        self.shape = tuple(shape)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Rearrange `x`, shape (B, H, W, C) or (B, D)."""
        x = x.transpose(0, 3, 1, 2) if x.ndim == 4 else x
        x = x.reshape(-1, *self.split).transpose(0, *(axis + 1 for axis in self.order)).reshape(-1, *self.shape)
        return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


class Pad(MapsLayer):
    """Values put around an example, or cut off it where a count is negative.

    Args:
        pads: (before, after) of each axis of an example, (H, W, C) or (D,).
        value: The number that is put there.
        mode: "constant"; or "reflect" and "replicate", which put the example's own values there, mirrored at the
            outermost ones or copies of these, around maps and vectors only.

    Raises:
        UserError: For another mode.

    >>> Pad(((1, -1),), 5.0)(jnp.arange(3.0)[None]).tolist()
    [[5.0, 0.0, 1.0]]
    >>> Pad(((1, 2),), mode="reflect")(jnp.arange(3.0)[None]).tolist()
    [[1.0, 0.0, 1.0, 2.0, 1.0, 0.0]]
    """

    def __init__(self, pads: Sequence[Pair], value: float = 0.0, mode: str = "constant"):
        check_choice("mode of pads", mode, MODES)
        self.pads = tuple((int(before), int(after)) for before, after in pads)
        self.value = float(value)
        self.mode = mode

    def on(self, maps: Maps) -> Maps:
        """Pad maps in either layout."""
        array = maps.array
        sides = [(0, 0), *self.pads]
        if maps.batch_is_last:
            rows, columns, channels = self.pads
            sides = [channels, rows, columns, (0, 0)]
        if self.mode != "constant":
            return maps._replace(array=jnp.pad(array, sides, mode=MODES[self.mode]))
        value = jnp.asarray(self.value, array.dtype)
        return maps._replace(array=lax.pad(array, value, [(before, after, 0) for before, after in sides]))


def _rearranged(layer: Rearrange, shapes: Sequence[Shape]) -> Shape:
    (shape,) = shapes
    if math.prod(shape) != math.prod(layer.split) or len(shape) not in (1, 3):
        raise MisfitError(f"splits an example into {layer.split}, which does not fit its shape {shape}")
    return (*layer.shape[1:], layer.shape[0]) if len(layer.shape) == 3 else layer.shape


def _padded(layer: Pad, shapes: Sequence[Shape]) -> Shape:
    (shape,) = shapes
    if len(shape) != len(layer.pads):
        raise MisfitError(f"pads {len(layer.pads)} axes, not the {len(shape)} of {shape}")
    if layer.mode != "constant":
        within = [math.inf if layer.mode == "replicate" else size - 1 for size in shape[:2]]
        if len(shape) == 3:
            within.append(0)  # channels have no neighbors
        if not all(0 <= n <= most for pads, most in zip(layer.pads, within, strict=True) for n in pads):
            raise MisfitError(f"pads {shape} by {layer.pads} with mode={layer.mode!r}, which has no values for that")
    return non_empty(shape, tuple(n + before + after for n, (before, after) in zip(shape, layer.pads, strict=True)))


def _rearrange(layer: Rearrange, maps: Sequence[Maps], context: Context) -> Maps:
    return Maps(layer(maps[0].first()))


register(light(Rearrange, ("split", "order", "shape"), _rearranged, _rearrange, no_tensors))
register(light(Pad, ("pads", "value", "mode"), _padded, on_maps, no_tensors))
