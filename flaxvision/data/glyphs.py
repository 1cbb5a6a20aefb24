"""Characters drawn from matplotlib's bundled fonts, each one turned, scaled, slanted, bent, thickened and made noisy.

A data set that needs no files: a linear model is well below 95 % on it, a small network well above. Every character
in every font is drawn once, blurred, into an atlas. An image is that drawing sampled through a random map; as the
drawing is blurred, the level at which it is cut sets the thickness of the strokes.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

from flaxvision.data.dataset import Split
from flaxvision.errors import UserError

FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "cmb10",
    "cmr10",
    "cmss10",
    "cmtt10",
)
CELL = 64  # pixels: height and width of a drawing in the atlas
GLYPH = 40  # pixels: font size of a drawing
BLUR = 1.6  # pixels: standard deviation of its blur
PER_CLASS = 20  # images of each character in a block; a block is drawn from a seed of its own


def draw_glyphs(
    characters: str, examples: int, size: int = 28, channels: int = 1, seed: int = 0, stream: int = 0
) -> Split:
    """Images of random characters, as many as asked for; a shorter draw is the beginning of a longer one.

    Args:
      characters: the classes: label i is `characters[i]`.
      examples: how many images; the characters take equal shares, in random order.
      size: height and width in pixels, 8 or more.
      channels: 1 for light characters on dark ground, 3 for two colours, the character's the lighter one.
      seed: which random numbers; the same ones give the same images with the same versions of numpy, Pillow and fonts.
      stream: another number is another set from the same seed: 0 is the training set of `load`, 1 its test set.

    Returns:
      A `Split` of uint8 images (examples, size, size, channels) and int32 labels (examples,).

    Raises:
      UserError: for a count below 1, a size below 8, or channels other than 1 and 3.
    """
    if examples < 1:
        raise UserError(f"examples is {examples}: give 1 or more")
    if size < 8:
        raise UserError(f"size is {size} pixels: give 8 or more")
    if channels not in (1, 3):
        raise UserError(f"channels is {channels}: allowed are 1 (grey) and 3 (coloured)")
    atlas = _atlas(characters)
    block = PER_CLASS * len(characters)
    images = np.empty((examples, size, size, channels), np.uint8)
    labels = np.empty(examples, np.int32)
    for index, start in enumerate(range(0, examples, block)):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, index)))
        drawn = rng.permutation(block).astype(np.int32) % len(characters)
        rows = slice(start, min(start + block, examples))
        count = rows.stop - rows.start
        images[rows] = _draw(rng, atlas, drawn, size, channels)[:count]
        labels[rows] = drawn[:count]
    return Split(images, labels)


def _draw(rng: np.random.Generator, atlas: np.ndarray, labels: np.ndarray, size: int, channels: int) -> np.ndarray:
    """One image a label: sample the atlas through random maps, cut, colour, add noise."""
    count = len(labels)

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        return rng.uniform(low, high, (count, *shape, 1, 1)).astype(np.float32)

    font = rng.integers(atlas.shape[1], size=count)
    ink = _sample(atlas.reshape(-1), (labels * atlas.shape[1] + font) * CELL * CELL, *_maps(uniform, size))
    cut, softness = uniform(0.2, 0.35), uniform(0.1, 0.4) * (28 / size)
    ink = np.clip((ink - cut) / softness + 0.5, 0, 1)
    if channels == 1:
        ground, level = uniform(0, 0.04), uniform(0.65, 1)
        image = (ground + (level - ground) * ink)[..., None]
    else:
        ground, colour = uniform(0, 0.45, 3), uniform(0.55, 1, 3)  # lighter than the ground in every channel
        image = np.moveaxis(ground + (colour - ground) * ink[:, None], 1, -1)
    noise = rng.standard_normal(image.shape, np.float32) * uniform(0.02, 0.08)[..., None]
    return np.clip((image + noise) * 255 + 0.5, 0, 255).astype(np.uint8)


def _maps(uniform: Callable[..., np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where in its atlas cell each pixel looks: rows and columns (N, size, size), in atlas pixels."""
    turn, slant = uniform(-0.15, 0.15), uniform(-0.35, 0.35)  # radians; columns a row
    height, width = uniform(0.85, 1.15), uniform(0.85, 1.15)  # of the drawing's size
    cos, sin = np.cos(turn), np.sin(turn)
    unit = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1)[None]  # pixel centres, -1 to 1
    down, right = unit[:, :, None] - uniform(-0.17, 0.17), unit[:, None, :] - uniform(-0.17, 0.17)
    bend = [uniform(0, 0.03) * np.sin(np.pi * uniform(0.5, 1.2) * axis + uniform(0, 6.3)) for axis in (down, right)]
    down, right = down + bend[1], right + bend[0]
    rows = (cos * down - sin * right) / height
    columns = (sin * down + cos * right) / width + slant * rows
    scale = CELL / 2 * 0.58  # so that most drawings fill four fifths of the height
    return rows * scale + (CELL - 1) / 2, columns * scale + (CELL - 1) / 2


def _sample(flat: np.ndarray, cell: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Bilinear samples of the cells that begin at `cell` (N,) of the flat atlas; (N, size, size)."""
    rows, columns = np.clip(rows, 0, CELL - 1.001), np.clip(columns, 0, CELL - 1.001)
    top, left = rows.astype(np.int32), columns.astype(np.int32)
    at = cell[:, None, None] + top * CELL + left
    rows -= top
    columns -= left
    upper = flat[at] * (1 - columns) + flat[at + 1] * columns
    lower = flat[at + CELL] * (1 - columns) + flat[at + CELL + 1] * columns
    return upper * (1 - rows) + lower * rows


@functools.lru_cache(maxsize=4)
def _atlas(characters: str) -> np.ndarray:
    """Drawings (characters, fonts, CELL, CELL) as float32 from 0 to 1, each centred in its cell."""
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    spec = importlib.util.find_spec("matplotlib")  # finds the folder and imports nothing
    if spec is None or spec.origin is None:
        raise UserError("glyphs are drawn from matplotlib's fonts: install matplotlib")
    folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
    atlas = np.empty((len(characters), len(FONTS), CELL, CELL), np.float32)
    for column, name in enumerate(FONTS):
        font = ImageFont.truetype(folder / f"{name}.ttf", GLYPH)
        for row, character in enumerate(characters):
            cell = Image.new("L", (CELL, CELL))
            left, top, right, bottom = font.getbbox(character)
            corner = ((CELL - left - right) / 2, (CELL - top - bottom) / 2)
            ImageDraw.Draw(cell).text(corner, character, fill=255, font=font)
            atlas[row, column] = np.asarray(cell.filter(ImageFilter.GaussianBlur(BLUR)), np.float32) / 255
    return atlas
