"""A layer where it stands in its chain, and the geometry that the three worlds share."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from flaxvision.layers import Conv
from flaxvision.layers.convolution import pads_of

KERAS_INPUT = "input"
KERAS_ENDS = ("_padding", "_crop", "_order")  # of what Keras needs beside a layer


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A layer where it stands: one node of a network, as the exporters need it."""

    name: str  # of the node
    layer: Any
    shape: tuple[int, ...]  # of its first input for one example, (H, W, C) or (D,)
    tensors: dict[str, np.ndarray]  # its own, by PyTorch's names within the layer, in PyTorch's layout
    output: tuple[int, ...] = ()  # shape of what it gives
    layer_name: str = ""  # of the layer, which other nodes may share
    dtype: Any = np.float32
    opset: int = 0  # of the ONNX file
    keras_name: str = ""  # of its layer in Keras
    keras_layers: dict[str, Any] = dataclasses.field(default_factory=dict)  # those made so far, by our layers' names

    @property
    def pads(self) -> list[tuple[int, int]]:
        """(before, after) for height and width, of a convolution or pool."""
        sides = self.shape[:2]
        return pads_of(self.layer, sides) if isinstance(self.layer, Conv) else list(self.layer.pads(sides))

    @property
    def channels(self) -> int:
        """The axis of the features where maps are (N, C, H, W): 1, but for examples that are neither map nor vector."""
        return 1 if len(self.shape) in (1, 3) else len(self.shape)

    @property
    def along(self) -> tuple[int, ...]:
        """The shape in which one number per channel is broadcast over maps (N, C, H, W), or over vectors."""
        return (-1, 1, 1) if len(self.shape) == 3 else (-1,)


def pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    """One number for both axes, or a number each."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def pairs(padding: Any) -> list[Any]:
    """Explicit padding, one number or pair an axis."""
    return [padding, padding] if isinstance(padding, int) else list(padding)


def keras_names(names: Iterable[str]) -> dict[str, str]:
    """Every layer's name in Keras: "_" for what Keras does not take, "." and "/", and a number where two are one then.

    >>> keras_names(["conv.a", "conv_a", "block/1"])
    {'conv.a': 'conv_a', 'conv_a': 'conv_a_1', 'block/1': 'block_1'}
    """
    found: dict[str, str] = {}
    taken = {KERAS_INPUT}
    for name in names:
        base = re.sub(r"[./]", "_", name) or "_"
        tries = (base if not number else f"{base}_{number}" for number in itertools.count())
        found[name] = next(free for free in tries if taken.isdisjoint((free, *(free + end for end in KERAS_ENDS))))
        taken |= {found[name], *(found[name] + end for end in KERAS_ENDS)}
    return found


def transpose_cuts(place: Place) -> tuple[list[tuple[int, int]], list[int]]:
    """What PyTorch and ONNX cut off a transposed convolution, (before, after) an axis, and their output padding.

    Flax pads the dilated input by (low, high); the others cut k - 1 - low before and k - 1 - high after, and a negative
    cut after is output padding.
    """
    layer = place.layer
    cuts, spare = [], []
    for axis, (kernel, stride) in enumerate(zip(layer.kernel_size, pair(layer.strides), strict=True)):
        if layer.padding == "SAME":
            total = kernel + stride - 2
            low = kernel - 1 if stride > kernel - 1 else math.ceil(total / 2)
        elif layer.padding == "VALID":
            total = kernel + stride - 2 + max(kernel - stride, 0)
            low = kernel - 1
        else:
            low, high = pair(pairs(layer.padding)[axis])
            total = low + high
        before, after = kernel - 1 - low, kernel - 1 - (total - low)
        cuts.append((before, max(after, 0)))
        spare.append(max(-after, 0))
    return cuts, spare


def keras_crop(place: Place) -> tuple[tuple[int, int], ...]:
    """What to crop off Keras's "valid" transposed convolution, (before, after) an axis.

    It gives (n - 1) * stride + max(kernel, stride) pixels, the others (n - 1) * stride + kernel, less their cuts.
    """
    layer = place.layer
    cuts, spare = transpose_cuts(place)
    surplus = [max(s - k, 0) - e for k, s, e in zip(layer.kernel_size, pair(layer.strides), spare, strict=True)]
    return tuple((before, after + more) for (before, after), more in zip(cuts, surplus, strict=True))
