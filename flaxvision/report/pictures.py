"""Pictures of examples and of weights, small enough to stand in a page."""

from __future__ import annotations

import base64
import dataclasses
import io

import numpy as np

SIDE = 96  # pixels; of larger images so many are kept
SHOWN = 112  # at which small ones are shown, each of their pixels by several


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """An image with what stands below it."""

    source: str  # a data URI
    width: int  # on the page
    height: int
    alt: str
    lines: tuple[str, ...] = ()  # below it, the first one in bold


@dataclasses.dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures under a heading."""

    title: str
    note: str  # which they are
    pictures: tuple[Picture, ...]
    small: bool = False  # whether they need little room

    def __bool__(self) -> bool:
        return bool(self.pictures)


def picture(image: np.ndarray, alt: str, *lines: str, shown: int = SHOWN) -> Picture:
    """A picture of pixels, uint8 (H, W, C); of other than 1, 3 or 4 channels the first."""
    from PIL import Image

    height, width, channels = image.shape
    if channels not in (1, 3, 4):
        image, channels = image[..., :1], 1
    made = Image.fromarray(np.ascontiguousarray(image[..., 0] if channels == 1 else image))
    scale = SIDE / max(height, width)
    if scale < 1:
        made = made.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.LANCZOS)
    made.save(file := io.BytesIO(), "png", optimize=True)
    zoom = shown / max(height, width)
    size = max(1, round(width * zoom)), max(1, round(height * zoom))
    return Picture(f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}", *size, alt, lines)


def weights_picture(weights: np.ndarray, alt: str, shown: int = 48) -> Picture:
    """A picture of weights, (H, W, C): three channels as colors about gray, others, summed, as blue below 0 and red."""
    scale = float(np.abs(weights).max()) or 1.0
    if weights.shape[-1] == 3:
        pixels = 0.5 + 0.5 * weights / scale
    else:
        signed = weights.mean(axis=-1, keepdims=True)
        signed = signed / (float(np.abs(signed).max()) or 1.0)
        far = np.where(signed < 0, np.array([0.0, 0.45, 0.70]), np.array([0.84, 0.37, 0.0]))  # as in the figures
        pixels = 1 - np.abs(signed) * (1 - far)
    return picture(np.round(255 * pixels).astype(np.uint8), alt, shown=shown)
