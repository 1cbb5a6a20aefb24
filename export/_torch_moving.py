"""PyTorch modules for what moves values about, and for parameters that a block itself owns."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from export._place import Place


class Rearrange(torch.nn.Module):
    """A view, a permutation and a view."""

    def __init__(self, place: Place):
        super().__init__()
        layer = place.layer
        self.split, self.order, self.shape = layer.split, tuple(axis + 1 for axis in layer.order), layer.shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Rearrange `x`, (N, C, H, W) or (N, D)."""
        return x.reshape(-1, *self.split).permute(0, *self.order).reshape(-1, *self.shape)


class Pad(torch.nn.Module):
    """Values put around channels and maps, or cut off."""

    def __init__(self, place: Place):
        super().__init__()
        *sides, channels = place.layer.pads
        self.pads = [count for pair in (*sides[::-1], channels) for count in pair]
        self.value = place.layer.value
        self.mode = place.layer.mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pad `x`, (N, C, H, W) or (N, D)."""
        if self.mode != "constant":
            return F.pad(x, self.pads[:4], mode=self.mode)
        return F.pad(x, self.pads, value=self.value)


class Scale(torch.nn.Module):
    """Multiplication by, or addition of, a parameter that the block around it owns."""

    def __init__(self, place: Place):
        super().__init__()
        self.operation = torch.mul if place.layer.operation == "multiply" else torch.add
        self.along = (-1, 1, 1) if len(place.shape) == 3 else (-1,)

    def forward(self, x: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Scale or shift `x`."""
        return self.operation(x, numbers.reshape(self.along))


class LinearOfChannels(torch.nn.Linear):
    """A linear layer over the channels of (N, C, H, W), which `torch.nn.Linear` takes on the last axis."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply it to `x`."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)
