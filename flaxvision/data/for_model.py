"""Image files as a trained network takes them: converted as the images were that it was trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from flaxvision.data.pixels import CHANNELS, FITS, THREADS, Unreadable, Wanted, pillow, read_pixels
from flaxvision.errors import UserError, check_choice

AT_A_TIME = 512  # files


@dataclasses.dataclass(frozen=True, slots=True)
class Images:
    """Some files, read."""

    paths: tuple[str, ...]  # of those that hold an image
    images: np.ndarray  # uint8 (N, H, W, C)
    damaged: dict[str, str]  # path -> why it gives no image


def wanted_by(input_shape: tuple[int, ...], fit: str | None = None) -> Wanted:
    """What images become for a network that takes examples of this shape.

    Args:
        input_shape: (H, W, C).
        fit: How they come to that size, as in `flaxvision.data.load`; None: "crop".

    Raises:
        UserError: For a network of points, or of other than 1, 3 or 4 channels.
    """
    modes = {channels: mode for mode, channels in CHANNELS.items()}
    if len(input_shape) != 3 or input_shape[2] not in modes:
        raise UserError(
            f"the network takes examples of shape {input_shape}, which are no images: use fv.predict on arrays"
        )
    fit = fit or FITS[0]
    check_choice("fit", fit, FITS)
    height, width, channels = input_shape
    return Wanted(modes[channels], (width, height), fit)


def read_images(paths: Sequence[str | Path], wanted: Wanted) -> Iterator[Images]:
    """Read files, some hundreds at a time, in their order."""
    width, height = wanted.size
    with pillow(), ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(paths), AT_A_TIME):
            part = [str(path) for path in paths[start : start + AT_A_TIME]]
            images = np.zeros((len(part), height, width, CHANNELS[wanted.mode]), np.uint8)

            def read(number: int, part: list[str] = part, images: np.ndarray = images) -> str:
                try:
                    read_pixels(part[number], wanted, images[number])
                except Unreadable as error:
                    return str(error)
                return ""

            why = list(pool.map(read, range(len(part))))
            sound = [number for number, reason in enumerate(why) if not reason]
            damaged = {path: reason for path, reason in zip(part, why, strict=True) if reason}
            yield Images(tuple(part[number] for number in sound), images[sound], damaged)
