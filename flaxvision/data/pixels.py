"""One image file: its header, and its pixels as a viewer shows them, in the size and the channels that are wanted."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import os
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from flaxvision._text import visible
from flaxvision.errors import UserError
from flaxvision.runtime import cores

THREADS = min(8, len(cores()))  # that read files at a time
CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}  # Pillow's names of the modes that a data set may have
FITS = ("crop", "pad", "stretch")
NO_IMAGE = "file without an image"

# Formats of pixels; Pillow knows others, which it only names or has a program of the system draw.
_SIGNED = (
    *("AVIF", "BMP", "DDS", "GIF", "HEIF", "ICNS", "ICO", "JPEG", "JPEG2000", "JXL", "PCX", "PNG", "PPM", "PSD"),
    *("QOI", "SGI", "SUN", "TIFF", "WEBP", "XBM", "XPM"),
)
_UNSIGNED = ("DIB", "TGA")  # nothing in these files tells their format for certain, so only their suffix does
_PLUGINS = {".heic": "pillow-heif", ".heif": "pillow-heif", ".hif": "pillow-heif", ".jxl": "pillow-jxl-plugin"}
_CAMERA = {".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2", ".srw"}  # TIFF files of a thumbnail
_LARGE = 2**24  # pixels
_LARGE_ONES = threading.Lock()
# What the system says of a file that stays as it is; other errors are of the moment, or of the disk.
_OF_FILE = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENXIO, errno.ENODEV),
}
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Unreadable(Exception):
    """Why a file gives no image, in a few words."""


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """What a file says of its image before it is decoded."""

    size: tuple[int, int]  # width and height as a viewer shows it
    mode: str  # Pillow's name for how the pixels are stored
    deep: bool  # more than 8 bits a value
    frames: bool  # there is more than one
    transparent: bool  # somewhere, perhaps

    @property
    def shown(self) -> str:
        """The mode that holds all that a viewer shows: "L", "RGB", or "RGBA" for one stored so."""
        if self.mode in ("L", "1", "LA", "La", "I", "F") or self.mode.startswith("I;"):
            return "L"
        return "RGBA" if self.mode == "RGBA" else "RGB"


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What every image is made into."""

    mode: str  # of `CHANNELS`
    size: tuple[int, int]  # width and height
    fit: str  # of `FITS`


@dataclasses.dataclass(frozen=True, slots=True)
class Pixels:
    """What the pixels of an image told."""

    turned: bool  # by its EXIF orientation
    peak: int  # the largest value of a grey image of 16 bits; 0 for others


@contextlib.contextmanager
def pillow() -> Iterator[None]:
    """Pillow without its warnings, but for an image so large that it may be an attack, which is an error."""
    formats()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@functools.cache
def formats() -> tuple[str, ...]:
    """The formats that are read, with those of plug-ins that are installed."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    with contextlib.suppress(ImportError):
        import pillow_jxl  # noqa: F401
    Image.init()
    return tuple(name for name in (*_SIGNED, *_UNSIGNED) if name in Image.OPEN)


@functools.cache
def _suffixes() -> frozenset[str]:
    known = (*formats(), "MPO")  # a JPEG file of several photographs
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)


def passed_over(path: str) -> str | None:
    """Why a file is not among the images, and after a colon what helps; None for an image by its suffix or content.

    Within `pillow()`.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix in _suffixes():
        return None
    if suffix in _CAMERA:
        return "file of a camera's raw format: save as PNG or TIFF"
    try:
        with Image.open(path, formats=[name for name in formats() if name in _SIGNED]):
            return None
    except Exception:  # whatever Pillow's readers raise for a file that is none of theirs
        plugin = _PLUGINS.get(suffix)
        return f"image in {suffix[1:].upper()}: pip install {plugin}" if plugin else NO_IMAGE


def read_header(path: str) -> tuple[Header, bytes]:
    """The header of an image file and the sha256 of it all; `Unreadable` for one without. Within `pillow()`."""
    with _opened(path) as (file, image):
        file.seek(0)
        content = file.read()
        size = image.size
        # Only its pixels make Pillow look for an EXIF block behind those of a PNG, and a TIFF's size is turned already.
        told = image.format != "PNG" or "exif" in image.info or b"eXIf" in content or b"Raw profile type" in content
        if told and image.format != "TIFF" and orientation_of(image) >= 5:
            size = size[::-1]
        header = Header(
            size=size,
            mode=image.mode,
            deep=image.mode[0] in "IF" or ";16" in str(getattr(image, "tile", "")),
            frames=image.format != "MPO" and getattr(image, "is_animated", False),  # an MPO's others are not frames
            transparent=image.has_transparency_data,
        )
        return header, hashlib.sha256(content).digest()


def read_pixels(path: str, wanted: Wanted, out: np.ndarray) -> Pixels:
    """Write the first image of a file to `out` (H, W, C) as `wanted`; `Unreadable` for damage. Within `pillow()`."""
    with _opened(path) as (_, image), _one_of_few(image):
        image.load()
        orientation = orientation_of(image)
        shown, peak = _bytes(image, wanted.mode)
        if orientation > 1:
            shown = shown.transpose(_TURNS[orientation])
        out[:] = np.asarray(_fit(shown, wanted)).reshape(out.shape)
        return Pixels(orientation > 1, peak)


def made_into(image: Image.Image, wanted: Wanted) -> np.ndarray:
    """An image that was drawn or read already, as `read_pixels` gives that of a file: uint8 (H, W, C)."""
    width, height = wanted.size
    return np.asarray(_fit(_bytes(image, wanted.mode)[0], wanted)).reshape(height, width, CHANNELS[wanted.mode])


def _one_of_few(image: Image.Image) -> contextlib.AbstractContextManager[object]:
    """A large image is read while no other large one is: each takes hundreds of megabytes for a while."""
    return _LARGE_ONES if image.width * image.height > _LARGE else contextlib.nullcontext()


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[Any, Image.Image]]:
    try:
        with open(path, "rb") as file, Image.open(file, formats=formats()) as image:
            yield file, image
    except Unreadable:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise Unreadable(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels") from error
    except OSError as error:
        if error.errno is not None and error.errno not in _OF_FILE:
            raise UserError(
                f"cannot read {visible(path)}: {os.strerror(error.errno).lower()}, which may be no fault of the file: "
                "try again"
            ) from error
        raise Unreadable(_why(path, error)) from error
    except Exception as error:  # Pillow's readers raise almost anything for a damaged file
        raise Unreadable(_why(path, error)) from error


def _why(path: str, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, MemoryError):
        return "no memory for its pixels"
    with contextlib.suppress(OSError), open(path, "rb") as file:
        begin = file.read(64)
        if not begin:
            return "empty"
        if begin.startswith(b"version https://git-lfs"):
            return "a pointer of Git LFS: git lfs pull"
        if not any(byte < 9 or byte > 126 for byte in begin):
            return "text"
    if isinstance(error, Image.UnidentifiedImageError):
        return "no image"
    return "truncated" if "truncated" in str(error) else "damaged"


def orientation_of(image: Image.Image) -> int:
    """How an image must be turned, from 1 (not at all) to 8, by its EXIF block."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # viewers show an image with a damaged EXIF block as it is stored
        return 1
    return value if value in _TURNS else 1


def _bytes(image: Image.Image, mode: str) -> tuple[Image.Image, int]:
    """An image in `mode`, on white where it is transparent and the mode is not, and its largest value of 16 bits."""
    peak = 0
    if image.mode[0] in "IF":
        image, peak = _reduced(np.asarray(image))
    if mode != "RGBA" and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return (image if image.mode == mode else image.convert(mode)), peak


def _reduced(values: np.ndarray) -> tuple[Image.Image, int]:
    """Grey of 16 bits by its upper byte, as Pillow reads colours of 16 bits; grey of floats from 0 to 1 rounded."""
    low, high = values.min(), values.max()
    if values.dtype.kind == "f" and 0 <= low <= high <= 1:
        return Image.fromarray(np.rint(values * 255).astype(np.uint8)), 0
    if values.dtype.kind != "f" and 0 <= low <= high < 2**16:
        return Image.fromarray((values >> 8).astype(np.uint8)), int(high)
    raise Unreadable(f"values from {low:g} to {high:g}: store 8 or 16 bits")


def _fit(image: Image.Image, wanted: Wanted) -> Image.Image:
    if image.size == wanted.size:
        return image
    smooth = Image.Resampling.BILINEAR  # with Pillow's anti-aliasing
    if wanted.fit == "crop":
        return ImageOps.fit(image, wanted.size, smooth)
    if wanted.fit == "pad":
        return _padded(image, wanted.size, smooth)
    return image.resize(wanted.size, smooth)


def _padded(image: Image.Image, size: tuple[int, int], smooth: Image.Resampling) -> Image.Image:
    """Pillow's `ImageOps.pad`, which leaves nothing of an image so narrow that it rounds to no pixel."""
    width, height = size
    if image.width * height >= image.height * width:
        inner = width, max(1, round(image.height / image.width * width))
    else:
        inner = max(1, round(image.width / image.height * height)), height
    whole = Image.new(image.mode, size)
    whole.paste(image.resize(inner, smooth), (round((width - inner[0]) / 2), round((height - inner[1]) / 2)))
    return whole
