"""What a network makes of one image: what it sees, what it answers, and what each of its layers gives."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from flax import nnx

from flaxvision._text import data_name, visible
from flaxvision.data.for_model import wanted_by
from flaxvision.data.pixels import made_into
from flaxvision.models.files import load_noted
from flaxvision.training.losses import class_scores
from flaxvision.training.scoring import Evaluator

if TYPE_CHECKING:
    from PIL.Image import Image

MOST = 64  # maps of a layer
ACROSS = 8  # of them side by side
SIDE = 64  # pixels of a map's longer side, about
GAP = 2
POSITIVE, NEGATIVE = (213, 94, 0), (0, 114, 178)  # orange and blue; white is 0


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class View:
    """One image as a network treats it."""

    seen: np.ndarray  # uint8 (H, W, C): what it gets, before it scales pixels itself
    scores: dict[str, float]  # class -> probability; empty for a network that gives images
    made: np.ndarray | None  # uint8 (H, W, C): the image that such a network gives
    # What each layer gives, in order: float32 (H, W, channels), or (D,), of the first 64 channels or numbers.
    layers: dict[str, np.ndarray]


class Viewer:
    """The network of a run's winner, or of a weights file, with what an image is made into for it.

    Raises:
        UserError: If there is no such network, or it takes no images.
    """

    def __init__(self, run: str | Path):
        self.model, notes = load_noted(run, keep_types=True)
        trial = notes.get("trial", {})
        self.wanted = wanted_by(self.model.input_shape, trial.get("fit"))
        self.dataset: str = visible(str(trial.get("dataset", "")))
        self.gives_image = len(self.model.output_shape) > 1
        numbers = map(str, range(max(self.model.output_shape[0], 2)))
        self.classes = tuple(map(visible, self.model.classes or numbers))
        flipped = bool(trial.get("test_time_flip", False))
        evaluator, self._variables = Evaluator.of(self.model, flipped=flipped)
        self._forward = jax.jit(lambda variables, images: _forward(evaluator, variables, images))

    @property
    def about(self) -> str:
        """The network in a few words."""
        height, width, channels = self.model.input_shape
        trained = f", trained on {data_name(self.dataset)}" if self.dataset else ""
        return f"{self.model.kind}{trained}: {width} × {height} pixels, {channels} channel{'s' * (channels > 1)}"

    @property
    def light_on_dark(self) -> bool:
        """Whether what it was trained on is probably light on a dark ground, as handwriting in data sets is."""
        return self.wanted.mode == "L" and "images:" not in self.dataset

    def __call__(self, image: Image, *, invert: bool = False) -> View:
        """Look at an image of any size and mode; `invert` turns dark on light into light on dark."""
        seen = made_into(image, self.wanted)
        if invert:
            seen = np.concatenate([255 - seen[..., :3], seen[..., 3:]], axis=-1)
        scores, output, values = jax.device_get(self._forward(self._variables, seen[None]))
        layers = {name: np.asarray(value[0], np.float32) for name, value in values.items()}
        if scores is not None:
            return View(seen, dict(zip(self.classes, scores[0].tolist(), strict=True)), None, layers)
        scale, offset = (np.asarray(x, np.float32) for x in (self.model.preprocess.scale, self.model.preprocess.offset))
        pixels = np.clip(np.rint((output[0] - offset) / scale), 0, 255).astype(np.uint8)
        return View(seen, {}, pixels, layers)


def _forward(
    evaluator: Evaluator, variables: nnx.State, images: jax.Array
) -> tuple[jax.Array | None, jax.Array, dict[str, jax.Array]]:
    """Probabilities (None without classes), outputs as `Evaluator.run` gives them, and what every layer gives."""
    outputs, _ = evaluator.run(variables, images)
    model = evaluator.network(variables)
    inputs = model.preprocess(images, evaluator.dtype)
    values = {name: value.first()[..., :MOST] for name, value in model.values(inputs, evaluator.context)}
    scores = class_scores(evaluator.loss, outputs)
    return None if scores is None else jax.nn.softmax(scores), outputs, values


def tiles(maps: np.ndarray) -> np.ndarray:
    """The maps of a layer as one picture: orange above 0, blue below, white at 0, the largest value in full color.

    Args:
        maps: float (H, W, channels), or (D,), whose numbers are squares.

    Returns:
        uint8 (rows, columns, 3), of the first 64 maps or numbers.
    """
    maps = maps[None, None] if maps.ndim == 1 else maps
    height, width, count = maps.shape
    shown, columns = min(count, MOST), min(count, ACROSS)
    zoom = max(1, SIDE // max(height, width))
    largest = float(np.nanmax(np.abs(maps[..., :shown]), initial=0.0)) or 1.0
    strength = np.clip(np.nan_to_num(np.abs(maps / largest)), 0, 1)[..., None]
    full = np.where(maps[..., None] < 0, np.array(NEGATIVE), np.array(POSITIVE))
    colored = np.rint(255 - strength * (255 - full)).astype(np.uint8).repeat(zoom, 0).repeat(zoom, 1)
    down, across = zoom * height + GAP, zoom * width + GAP
    picture = np.full((math.ceil(shown / columns) * down + GAP, columns * across + GAP, 3), 128, np.uint8)
    for number in range(shown):
        top, left = GAP + number // columns * down, GAP + number % columns * across
        picture[top : top + zoom * height, left : left + zoom * width] = colored[:, :, number]
    return picture
