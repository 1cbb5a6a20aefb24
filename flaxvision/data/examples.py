"""Arrays as people have them to images, points and labels as the library has them, and what was done to them in words.

What can be read only one way is taken and said; what is doubtful is an error that says what was seen and what to write.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from numbers import Number
from typing import Any

import numpy as np

from flaxvision._memory import empty
from flaxvision._text import some
from flaxvision.errors import UserError

Said = list[str]
_CHANNELS = (1, 3, 4)
_PIXELS_IN_ROW = 64  # coordinates from which whole numbers 0 to 255 are a flattened image rather than a point
_CLOSE = 1e-3  # of a whole number, after a multiplication by 255
_CHUNK = 2**24  # bytes of numbers that are converted at a time


def as_array(where: str, x: Any) -> np.ndarray:
    """A NumPy array of numbers; `UserError` for lists of unequal length, text, objects and complex numbers."""
    try:
        x = np.asanyarray(x)
    except (ValueError, TypeError, RuntimeError) as error:  # the last: a tensor on another device
        reason = str(error).partition("\n")[0]
        raise UserError(f"{where}: examples are not an array ({reason}): give one NumPy array (N, …)") from error
    _check_unmasked(where, x)
    if x.dtype.kind not in "biuf":
        raise UserError(f"{where}: examples are {x.dtype} {x.shape}: give numbers, such as uint8 images (N, H, W, C)")
    return np.asarray(x)


def _check_unmasked(where: str, array: np.ndarray) -> None:
    if np.ma.is_masked(array):
        raise UserError(
            f"{where}: {np.ma.count_masked(array)} values are masked: write array.filled(…), or leave them out"
        )


def as_examples(where: str, x: Any) -> tuple[np.ndarray, Said]:
    """Images uint8 (N, H, W, C) or points float32 (N, D), and what was converted.

    Raises:
        UserError: For what is not an example, or could be read in two ways.
    """
    x = as_array(where, x)
    if x.ndim in (3, 4):
        check_layout(where, x)
        pixels, said = as_pixels(where, x)
        return (pixels[..., None] if pixels.ndim == 3 else pixels), said
    if x.ndim == 2 and x.dtype.kind == "f":
        return _as_points(where, x), []
    if x.ndim == 2 and x.dtype.kind in "iu" and x.dtype.itemsize > 1 and x.shape[1] < _PIXELS_IN_ROW:
        return _as_points(where, x), [f"{x.dtype} points became float32"]
    flat = f"; rows of pixels become images by x.reshape(-1, {_sides(x.shape[-1])})" if x.ndim == 2 else ""
    raise UserError(
        f"{where}: examples are {x.dtype} {x.shape}: allowed are uint8 images (N, H, W) or (N, H, W, C), "
        f"and float32 or float64 points (N, D){flat}"
    )


def _as_points(where: str, x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # an overflow becomes inf, which the next check reports
        points = x.astype(np.float32, copy=False)
    low, high = (points.min(), points.max()) if points.size else (0, 0)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError(f"{where}: a point has a value that is not finite in float32")
    size = points.shape[1]
    if size >= _PIXELS_IN_ROW and low >= 0 and 20 < high <= 255 and _whole(points) is not None:
        raise UserError(
            f"{where}: points of {size} whole numbers from {low:g} to {high:g} look like flattened images: write "
            f"x.reshape(-1, {_sides(size)}).astype('uint8'), or x / 255 to keep points"
        )
    return points


def _sides(size: int) -> str:
    """Height and width of `size` pixels in words, with channels where that makes a square."""
    for channels in _CHANNELS:
        side = math.isqrt(size // channels)
        if side * side * channels == size:
            return f"{side}, {side}" + (f", {channels}" if channels > 1 else "")
    return "H, W"


def check_layout(where: str, x: np.ndarray) -> None:
    """Raise `UserError` for images with their channels first."""
    if x.ndim == 4 and x.shape[1] in _CHANNELS and x.shape[3] not in _CHANNELS:
        raise UserError(
            f"{where}: images are {x.shape}, which looks like channels first: write x.transpose(0, 2, 3, 1) for "
            "(N, H, W, C)"
        )


def read_as(shape: tuple[int, ...]) -> Said:
    """What images of a person's own of an unusual shape (N, H, W, C) were taken for."""
    if len(shape) < 4:
        return []
    _, height, width, channels = shape
    usual = channels in _CHANNELS
    if (usual and not 1 < height < width) or (usual and height not in _CHANNELS):
        return []
    words = f"images {shape} were read as {width} x {height} pixels of {channels} channels"
    first = (
        "; if channels come first, write x.transpose(0, 2, 3, 1)"
        if height != width and height < max(width, channels)
        else ""
    )
    return [words + ("" if usual else ", not 1, 3 or 4") + first]


def _whole(x: np.ndarray, scale: int = 1, close: float = 0.0) -> np.ndarray | None:
    """Floats times `scale` as uint8, a part at a time; None where they are not as `close` to whole numbers."""
    pixels = empty(x.shape)
    step = max(1, _CHUNK // (8 * x[0].size))
    for start in range(0, len(x), step):
        scaled = x[start : start + step] * np.float64(scale)
        rounded = np.rint(scaled)
        if np.abs(scaled - rounded).max() > close:
            return None
        pixels[start : start + step] = rounded
    return pixels


def as_pixels(where: str, x: np.ndarray) -> tuple[np.ndarray, Said]:
    """Pixels 0 to 255 of any number type as uint8, and what was converted; `UserError` for other values."""
    if not x.size:
        return x.astype(np.uint8), []
    dark = (
        ""
        if x.dtype.kind == "f" or x.max() != 1
        else "images have no value above 1 of 255: for black and white write x * 255"
    )
    if x.dtype == np.uint8:
        return x, [dark] if dark else []
    low, high = check_pixels(where, x, "x")
    if x.dtype.kind != "f":
        return x.astype(np.uint8), [f"{x.dtype} images became uint8", *([dark] if dark else [])]
    unit = 0 < high <= 1
    pixels = _whole(x, 255, _CLOSE) if unit else _whole(x)
    if pixels is None:
        values = f"{x.dtype} from {low:g} to {high:g}"
        why, factor = ("but no 255ths", " * 255") if unit else ("and no whole numbers", "")
        raise UserError(
            f"{where}: images are {values}, {why}: write np.rint(x{factor}).astype('uint8') for 8-bit images"
        )
    return pixels, [f"{x.dtype} images " + ("from 0 to 1 were multiplied by 255" if unit else "became uint8")]


def check_pixels(where: str, x: np.ndarray, name: str) -> tuple[float, float]:
    """The least and the largest pixel; `UserError` for values that are neither pixels 0 to 255 nor 0 to 1.

    `name` is what the message calls the array.
    """
    if x.dtype.kind == "b":
        raise UserError(f"{where}: images are bool: write {name}.astype('uint8') * 255")
    if x.dtype == np.int8:
        raise UserError(f"{where}: images are int8, in which pixels above 127 are negative: give uint8")
    low, high = float(x.min()), float(x.max())
    if not math.isfinite(low) or not math.isfinite(high):
        raise UserError(f"{where}: images hold {np.count_nonzero(~np.isfinite(x))} values that are not finite")
    if low < 0:
        raise UserError(
            f"{where}: images are {x.dtype} from {low:g} to {high:g}, and seem scaled: give the pixels, 0 to 255 "
            f"(for -1 to 1: np.rint(({name} + 1) * 127.5).astype('uint8'))"
        )
    if high > 255:
        raise UserError(
            f"{where}: images are {x.dtype} from {low:g} to {high:g}: allowed are pixels 0 to 255 "
            f"(of 16 bits: ({name} // 257).astype('uint8'))"
        )
    return low, high


def as_labels(where: str, given: Any) -> tuple[np.ndarray, int | None, Said]:
    """Labels (N,) as int64, or as text where they are class names; how many classes one-hot ones have; what was said.

    Raises:
        UserError: For labels that are neither, or several an example.
    """
    try:
        y = np.asanyarray(given)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{where}: labels are not an array: give one label per example, (N,)") from error
    _check_unmasked(where, y)
    y, columns = _of_one_kind(where, np.asarray(y), given), None
    said: Said = []
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
        said.append("labels (N, 1) were taken as (N,)")
    elif y.ndim == 2 and y.dtype.kind in "biuf" and len(y):
        if not (((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all()):
            raise UserError(
                f"{where}: labels are {y.dtype} {y.shape} and not one-hot: give one label per example, (N,), such as "
                "y.argmax(axis=1)"
            )
        said.append(f"one-hot labels {y.shape[1:]} were taken by their 1")
        columns, y = y.shape[1], y.argmax(axis=1)
    if y.ndim == 1 and y.dtype.kind == "U":
        y, respelt = _spelt_alike(where, y)
        return y, None, [*said, *respelt]
    if y.ndim == 1 and y.dtype.kind == "b":
        said.append("labels False and True were taken as 0 and 1")
    elif y.ndim == 1 and y.dtype.kind == "f" and np.isfinite(y).all() and np.array_equal(y, np.rint(y)):
        pass  # whole numbers, as text files and CSV readers give them
    elif y.ndim != 1 or y.dtype.kind not in "iu":
        raise UserError(f"{where}: labels are {y.dtype} {y.shape}: allowed are whole numbers or class names (N,)")
    if y.dtype.kind in "uf" and y.size and not -(2**63) <= int(y[np.abs(y).argmax()]) < 2**63:
        raise UserError(
            f"{where}: label {y[np.abs(y).argmax()]:g} is too large: labels are 0 to the number of classes less one"
        )
    return y.astype(np.int64), columns, said


def _of_one_kind(where: str, y: np.ndarray, given: Any) -> np.ndarray:
    """Labels that are objects, bytes or in a list as text or numbers; `UserError` for both, which NumPy makes text."""
    if y.dtype.kind == "S":
        return np.char.decode(y, "utf-8", "replace")
    if y.dtype.kind not in "OT" and not (y.dtype.kind == "U" and isinstance(given, (list, tuple))):
        return y
    values = np.asarray(given, object).ravel().tolist()
    kinds: dict[str, object] = {}
    for value in values:
        kinds.setdefault("text" if isinstance(value, str) else type(value).__name__, value)
    numbers = all(isinstance(value, (Number, np.bool_)) for value in kinds.values())
    if numbers or set(kinds) == {"text"}:
        return np.array(values).reshape(y.shape)
    mixture = " and ".join(f"{kind} ({value!r})" for kind, value in kinds.items())
    raise UserError(f"{where}: labels are {mixture}: give whole numbers alone or class names alone, one an example")


def _spelt_alike(where: str, y: np.ndarray) -> tuple[np.ndarray, Said]:
    """Class names without spaces around them, and with accents written one way."""
    names, numbers = np.unique(y, return_inverse=True)
    plain = [spelt(name) for name in names.tolist()]
    if "" in plain:
        raise UserError(f"{where}: label '' at index {int(np.flatnonzero(y == '')[0])} is not a class name: give one")
    changed = [f"{old!r} for {new!r}" for old, new in zip(names.tolist(), plain, strict=True) if old != new]
    if not changed:
        return y, []
    return np.array(plain)[numbers], [f"labels were taken without spaces, accents in one way: {some(changed)}"]


def spelt(name: str) -> str:
    """A class name without spaces around it, unless it is a space, and with accents written one way."""
    return unicodedata.normalize("NFC", name.strip() or name)


def numbered(where: str, labels: Sequence[np.ndarray], classes: Sequence[str] | None) -> tuple[list[np.ndarray], tuple]:
    """Labels of all splits as class numbers, and the class names.

    Args:
        where: What begins an error.
        labels: Of each split, as `as_labels` gives them.
        classes: Their names in the order of the numbers; None for those in the labels, which must then leave no gap.

    Raises:
        UserError: For a name that is not a class, or numbers with gaps.
    """
    kinds = {array.dtype.kind for array in labels}
    if len(kinds) > 1:
        raise UserError(f"{where}: some splits have class names for labels, others numbers: give one kind")
    if kinds == {"U"}:
        found = set().union(*(array.tolist() for array in labels))
        by = int if all(re.fullmatch(r"-?[0-9]+", name) for name in found) else str  # numbers by value
        names = tuple(sorted(found, key=lambda name: (by(name), name)) if classes is None else classes)
        positions = {name: number for number, name in enumerate(names)}
        for array in labels:
            unknown = next((name for name in array.tolist() if name not in positions), None)
            if unknown is not None:
                raise UserError(f"{where}: label {unknown!r} is none of the classes {', '.join(names)}")
        return [np.array([positions[name] for name in array.tolist()], np.int64) for array in labels], names
    if classes is not None:
        return list(labels), tuple(classes)
    present = np.unique(np.concatenate(list(labels)))
    first, last = int(present[0]), int(present[-1])
    if present.tolist() == [-1, 1]:
        raise UserError(f"{where}: labels are -1 and 1: write (labels + 1) // 2 for 0 and 1")
    if first < 0:  # the check of the labels names it
        last = len(present) - 1
    if len(present) <= last:
        if len(present) == last - first + 1:
            raise UserError(
                f"{where}: labels are {first} to {last}, none is 0: write labels - {first}, or give from_arrays "
                f"{last + 1} classes"
            )
        raise UserError(
            f"{where}: labels are {len(present)} numbers from {first} to {last}, with gaps: number them from 0, "
            "np.unique(labels, return_inverse=True)[1], or give from_arrays all classes"
        )
    return list(labels), tuple(str(number) for number in range(last + 1))


def check_labels(where: str, labels: np.ndarray, num_classes: int) -> None:
    """Raise `UserError` for the first of `labels` (N,) that is not 0 to `num_classes` - 1."""
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        first = int(wrong[0])
        raise UserError(
            f"{where}: label {int(labels[first])} at index {first} is outside the {num_classes} classes: "
            f"labels are 0 to {num_classes - 1}"
        )
