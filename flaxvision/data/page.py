"""A self-contained HTML page with samples of every class of a data set."""

from __future__ import annotations

import base64
import functools
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxvision.data.dataset import Dataset, Split
from flaxvision.data.look import Look

if TYPE_CHECKING:
    from jinja2 import Template

SAMPLES = 6  # of a class in a split
SIDE = 96  # pixels; larger images are reduced
CLASSES = 200  # with samples; of more, the others stand with their counts
_POINTS = 2_000  # drawn of a split


def data_page(dataset: Dataset, seen: Look) -> str:
    """The page; it loads nothing, so it can be mailed.

    Args:
        dataset: The data set.
        seen: What `look` says about it.
    """
    images = dataset.train.images.ndim == 4
    classes = [
        {
            "number": number,
            "name": name,
            "counts": [split.counts[number] for split in seen.splits],
            "samples": [
                samples(split, number) if images and number < CLASSES else None for split in dataset.splits.values()
            ],
        }
        for number, name in enumerate(dataset.classes)
    ]
    points = None if images or dataset.input_shape != (2,) else plot(dataset)
    return _template().render(seen=seen, classes=classes, images=images, samples=SAMPLES, shown=CLASSES, plot=points)


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("flaxvision.data", "")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.jinja")


def samples(split: Split, number: int) -> dict[str, Any] | None:
    """The first examples of a class side by side; None where the split has none."""
    from PIL import Image

    found = np.flatnonzero(split.labels == number)[:SAMPLES]
    if not len(found):
        return None
    height, width, channels = split.images.shape[1:]
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    kept = channels if channels in (1, 3, 4) else 1  # of other images the first channel
    tiles = [Image.fromarray(image.squeeze(-1) if kept == 1 else image) for image in split.images[found][..., :kept]]
    row = Image.new(tiles[0].mode, (len(tiles) * size[0], size[1]))
    for place, tile in enumerate(tiles):
        row.paste(tile if scale == 1 else tile.resize(size), (place * size[0], 0))
    row.save(file := io.BytesIO(), "png", optimize=True)
    zoom = max(1, round(SIDE / 2 / max(size)))  # of small images each pixel shows
    return {"source": _inline("png", file.getvalue()), "width": row.width * zoom, "pixelated": scale == 1}


def plot(dataset: Dataset) -> str:
    """Points of the plane, one panel per split."""
    from flaxvision.report import PAGE, colors, encode, figure_style, new_figure

    with figure_style():
        figure = new_figure(PAGE, PAGE / len(dataset.splits) + 0.3)
        panels = figure.subplots(1, len(dataset.splits), sharex=True, sharey=True, squeeze=False)[0]
        for axes, (name, split) in zip(panels, dataset.splits.items(), strict=True):
            for number, color in enumerate(colors([f"class {name}" for name in dataset.classes])):
                points = split.images[:_POINTS][split.labels[:_POINTS] == number]
                axes.plot(*points.T, ".", color=color, markersize=2, label=str(number))
            axes.set_title(name, loc="left")
            axes.set_aspect("equal")
        if dataset.num_classes <= 12:
            panels[-1].legend(title="class", loc="upper left", bbox_to_anchor=(1.02, 1), markerscale=3)
    return _inline("png", encode(figure, "png"))


def _inline(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
