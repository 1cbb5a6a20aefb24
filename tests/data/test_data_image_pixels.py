"""Pixels of image files as a viewer shows them: orientations, modes, depths, sizes, damage."""

from __future__ import annotations

import contextlib
import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from flaxvision import data
from flaxvision.data import image_folder
from flaxvision.data.pixels import Wanted, made_into
from flaxvision.errors import UserError

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(256, size=(6, 8, 3), dtype=np.uint8)
GREY = PHOTO[..., 0]
RAMP = (np.arange(48, dtype=np.uint16) * 1389).reshape(6, 8)  # 0 to 65,283


def load(folder: Path, *images: Image.Image | bytes, suffix: str = ".png", **options: object) -> data.Dataset:
    """The data set of a folder of these files, in two classes of one image each, or as many as there are images."""
    for number, image in enumerate(images):
        for split in ("train", "test"):
            path = folder / split / "a" / f"{number}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(image, bytes):
                path.write_bytes(image)
            else:
                image.save(path)
    return data.load(f"images:{folder}", **options)


def notes(dataset: data.Dataset) -> tuple[str, ...]:
    """What was said, but that the images of train and test are the same ones here."""
    return tuple(note for note in dataset.source.notes if not note.startswith("also in train"))


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def refuse(message: str, *arguments: object, **options: object) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(*arguments, **options)
    assert "\n" not in str(caught.value)


# --- orientation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_exif_orientation(tmp_path, format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(Image.fromarray(PHOTO), format, exif=exif)
    viewer = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    assert viewer.shape == ((6, 8, 3) if orientation < 5 else (8, 6, 3))
    found = load(tmp_path, content, suffix=f".{format}")
    assert np.array_equal(found.train.images[0], viewer)
    if format != "TIFF":
        turned = ("turned as their EXIF orientation says: 2 images",) if orientation > 1 else ()
        assert notes(found) == turned


def test_exif_orientation_behind_the_pixels(tmp_path):
    """Some programs write a PNG's EXIF block last; a block that is damaged turns nothing."""
    exif = Image.Exif()
    exif[0x0112] = 6
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    content = saved(Image.fromarray(PHOTO), "PNG")
    chunk = b"eXIf" + block
    end = content.index(b"IEND") - 4
    content = content[:end] + len(block).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4) + content[end:]
    found = load(tmp_path / "late", content)
    assert np.array_equal(found.train.images[0], np.rot90(PHOTO, -1))
    damaged = saved(Image.fromarray(PHOTO), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert np.array_equal(load(tmp_path / "damaged", damaged).train.images[0], PHOTO)


# --- modes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (saved(Image.fromarray(RAMP), "PNG"), ".png"),
        (saved(Image.fromarray(RAMP), "TIFF"), ".tif"),
        (saved(Image.fromarray(RAMP.astype(">u2")), "TIFF"), ".tiff"),
        (saved(Image.fromarray(RAMP.astype(np.int32)), "TIFF"), ".tif"),
        (b"P5 8 6 65535\n" + RAMP.astype(">u2").tobytes(), ".pgm"),
    ],
)
def test_grey_of_16_bits(tmp_path, content, suffix):
    found = load(tmp_path, content, suffix=suffix)
    assert np.array_equal(found.train.images[0, ..., 0], RAMP // 256)
    assert notes(found)[-1] == "reduced to 8 bits a value: 2 images"


def test_colour_of_16_bits_is_said(tmp_path):
    deep = (PHOTO.astype(np.uint16) * 256 + 77).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    chunks = [
        (b"IHDR", bytes([0, 0, 0, 8, 0, 0, 0, 6, 16, 2, 0, 0, 0])),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        content += len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)
    found = load(tmp_path, content)
    assert np.array_equal(found.train.images[0], PHOTO)
    assert notes(found) == ("reduced to 8 bits a value: 2 images",)


def test_12_bits_in_16_are_said_to_be_dark(tmp_path):
    found = load(tmp_path, Image.fromarray(RAMP // 16))
    assert found.train.images.max() == 15
    assert "nearly black: no value of 16 bits is above 4,080 of 65,535; store the full range" in notes(found)


def test_floats(tmp_path):
    values = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    found = load(tmp_path / "unit", Image.fromarray(values), suffix=".tif")
    assert np.array_equal(found.train.images[0, ..., 0], np.rint(values * 255))
    for number, wrong in enumerate((values * 255, values - np.float32(0.5), np.full_like(values, np.nan))):
        refuse(
            r"a/0.tif \(values from .*: store 8 or 16 bits\)",
            tmp_path / str(number),
            Image.fromarray(wrong),
            suffix=".tif",
        )


def test_one_bit_palette_and_cmyk(tmp_path):
    ones = GREY > 127
    assert np.array_equal(load(tmp_path / "1", Image.fromarray(ones)).train.images[0, ..., 0], ones * 255)
    palette = Image.fromarray(PHOTO).quantize(48)
    assert np.array_equal(load(tmp_path / "P", palette).train.images[0], PHOTO)
    cmyk = Image.merge("CMYK", [Image.fromarray(255 - PHOTO[..., c]) for c in range(3)] + [Image.new("L", (8, 6))])
    assert np.array_equal(load(tmp_path / "CMYK", cmyk, suffix=".tif").train.images[0], PHOTO)
    smooth = Image.new("CMYK", (8, 8), (255, 0, 0, 0))  # Adobe's JPEG files hold the inverse
    found = load(tmp_path / "Adobe", smooth, suffix=".jpg")
    assert np.abs(found.train.images[0].astype(int) - [0, 255, 255]).max() <= 2


def test_transparency(tmp_path):
    alpha = np.full((6, 8), 255, np.uint8)
    alpha[:, :4] = 0
    clear = Image.fromarray(np.dstack([PHOTO, alpha]))
    on_white = np.where(alpha[..., None] > 0, PHOTO, 255)
    stays = load(tmp_path / "all", clear)
    assert np.array_equal(stays.train.images[0], np.dstack([PHOTO, alpha]))
    assert np.array_equal(load(tmp_path / "asked", clear, channels=3).train.images[0], on_white)
    among = load(tmp_path / "among", clear, Image.fromarray(PHOTO))
    assert sorted(map(np.sum, among.train.images)) == sorted([on_white.sum(), PHOTO.sum()])
    assert notes(among) == ("converted to RGB: RGBA (2)", "laid on white where transparent: 2 images")
    palette = Image.fromarray(PHOTO).quantize(48)
    index = np.asarray(palette)[0, 0]
    found = load(tmp_path / "palette", saved(palette, "PNG", transparency=int(index)))
    assert np.array_equal(found.train.images[0], np.where((np.asarray(palette) == index)[..., None], 255, PHOTO))
    grey = load(tmp_path / "LA", Image.fromarray(np.dstack([GREY, alpha]), "LA"))
    assert np.array_equal(grey.train.images[0], on_white[..., :1])
    opaque = load(tmp_path / "four", Image.fromarray(PHOTO), channels=4)
    assert np.array_equal(opaque.train.images[0], np.dstack([PHOTO, np.full((6, 8), 255)]))


def test_grey_among_colour(tmp_path):
    found = load(tmp_path / "mixed", Image.fromarray(GREY), Image.fromarray(PHOTO))
    assert found.input_shape == (6, 8, 3)
    assert sorted(map(np.sum, found.train.images)) == sorted([3 * GREY.sum(dtype=int), PHOTO.sum()])
    assert notes(found) == ("converted to RGB: L (2)",)
    grey = load(tmp_path / "grey", Image.fromarray(PHOTO), Image.fromarray(GREY), channels=1)
    assert grey.input_shape == (6, 8, 1)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_of_several_frames(tmp_path, format):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if format == "WEBP" else {}
    content = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
    found = load(tmp_path, content, suffix=f".{format}")
    assert np.array_equal(np.unique(found.train.images.reshape(-1, 3), axis=0), [[255, 0, 0]])
    assert "first of several frames: 2 images, such as train/a/0." in notes(found)[-1]


@pytest.mark.parametrize("format", ["AVIF", "WEBP", "JPEG2000", "BMP", "PPM", "TGA", "ICO", "QOI", "JPEG"])
def test_formats(tmp_path, format):
    if format not in Image.SAVE and (Image.init() or format not in Image.SAVE):
        pytest.skip(f"Pillow has no {format} here")
    smooth = Image.new("RGB", (16, 16), (200, 100, 50))
    found = load(tmp_path, saved(smooth, format), suffix={"JPEG2000": ".jp2"}.get(format, f".{format.lower()}"))
    assert found.input_shape in ((16, 16, 3), (16, 16, 4))
    assert np.abs(found.train.images[0, ..., :3].astype(int) - [200, 100, 50]).max() <= 3


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_one_message_counts_sizes_and_modes(tmp_path):
    images = [Image.new("RGB", size) for size in [(32, 32)] * 3 + [(33, 32), (64, 48)]] + [Image.new("L", (32, 32))]
    refuse(
        r"12 images of 3 sizes, 32 x 32 \(8\), 33 x 32 \(2\), 64 x 48 \(2\), and of 2 modes, RGB \(10\), L \(2\): "
        r"--set size=32 \(in Python size=32\) makes all of the commonest size; add --set fit=crop, pad or stretch, "
        r"and --set channels=1, 3 or 4",
        *(tmp_path, *images),
    )
    found = data.load(f"images:{tmp_path}", size=32)
    assert found.input_shape == (32, 32, 3)
    assert notes(found) == (
        "resized to 32 x 32 (fit = crop): 4 images of 33 x 32 (2), 64 x 48 (2)",
        "converted to RGB: L (2)",
    )
    (tmp_path / "train" / "a" / "0.png").write_bytes(b"")
    refuse(r"11 images of 3 sizes, .*; and 1 of 12 files cannot be read as images, train/a/0.png \(empty\)", tmp_path)
    wide = [Image.new("L", (64, 48))] * 2 + [Image.new("L", (48, 64))]
    refuse(r"--set size=64x48 \(in Python size='64x48'\)", tmp_path / "wide", *wide)


def test_fit(tmp_path):
    """A wide image, black, white and black: its middle, all of it on black, or all of it."""
    strip = np.zeros((4, 12), np.uint8)
    strip[:, 4:8] = 255
    found = {
        fit: load(tmp_path / fit, Image.fromarray(strip), size=4, fit=fit).train.images[0, ..., 0]
        for fit in ("crop", "pad", "stretch")
    }
    assert (found["crop"] == 255).all()
    assert found["pad"].any(axis=1).tolist() == [False, True, False, False] or found["pad"].any(axis=1).sum() == 1
    assert found["stretch"][:, 1:3].min() > found["stretch"][:, ::3].max()
    assert (found["stretch"] == found["stretch"][0]).all()


@pytest.mark.parametrize(("size", "shape"), [(5, (5, 5)), ("10x4", (4, 10)), ((10, 4), (4, 10)), ([10, 4], (4, 10))])
def test_size_is_width_and_height(tmp_path, size, shape):
    assert load(tmp_path, Image.fromarray(PHOTO), size=size).input_shape == (*shape, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size is 0: give pixels a side, such as 32, or width and height, such as 64x48"),
        ({"size": "64*48"}, r"size is 64\*48"),
        ({"size": (1, 2, 3)}, "size is"),
        ({"size": True}, "size is True"),
        ({"size": 32.0}, "size is 32.0"),
        ({"channels": 2}, r"channels is 2: give 1 \(grey\), 3 \(colour\) or 4"),
        ({"size": 4, "fit": "cover"}, "unknown fit 'cover'.*Allowed: crop, pad, stretch"),
        ({"fit": "crop"}, "fit=crop has no effect without size"),
        ({"skip_damaged": "yes"}, "skip_damaged is 'yes': give true or false"),
        ({"size": 30000}, "2 images of 30000 x 30000 RGB take .* GB of the .*: give a smaller size, such as"),
    ],
)
def test_options_that_are_wrong(tmp_path, monkeypatch, options, message):
    monkeypatch.setattr(image_folder.Space, "room", lambda space: 2.0**30)
    refuse(message, tmp_path, Image.fromarray(PHOTO), **options)


def test_options_of_other_sets():
    for options in ({"fit": "crop"}, {"skip_damaged": True}):
        with pytest.raises(UserError, match="is for images:FOLDER only: leave it out for glyphs"):
            data.load("glyphs", examples=10, **options)
    with pytest.raises(UserError, match="glyphs is drawn in squares"):
        data.load("glyphs", examples=10, size="20x30")
    with pytest.raises(UserError, match=r"two_clusters has examples of shape \(2,\), which size=3x3 do not fit"):
        data.load("two_clusters", size=3)


# --- damage ----------------------------------------------------------------------------------------------------------


def _huge() -> bytes:
    """A PNG file whose header tells of 14,000 x 14,000 pixels, as a small file can."""
    header = b"IHDR" + (14000).to_bytes(4) * 2 + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n\0\0\0\r" + header + zlib.crc32(header).to_bytes(4) + b"\0\0\0\0IDAT" + bytes(60)


JPEG = saved(Image.fromarray(RNG.integers(256, size=(32, 32, 3), dtype=np.uint8)), "JPEG")
DAMAGED = {
    "empty": b"",
    "text": b"<html>404 Not Found</html>",
    "a pointer of Git LFS: git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "truncated": JPEG[:700],
    "no image": b"\0\1\2\3" * 30,
    "more than 89,478,485 pixels": _huge(),
}


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """Twenty good photographs, and a damaged one of each kind."""
    folder = tmp_path_factory.mktemp("pets")
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for index in range(10):
            (folder / label / f"{index}.jpg").write_bytes(JPEG)
    for number, content in enumerate(DAMAGED.values()):
        (folder / "dog" / f"x{number}.jpg").write_bytes(content)
    return folder


def test_all_damaged_files_are_named_at_once(pets):
    named = ", ".join(f"dog/x{number}.jpg ({reason})" for number, reason in enumerate(DAMAGED))
    with pytest.raises(UserError) as caught:
        data.load(f"images:{pets}")
    assert str(caught.value) == (
        f"images:{pets}: 6 of 26 files cannot be read as images, {named}: mend or remove them, "
        "or leave them out with --set skip_damaged=true (in Python skip_damaged=True)"
    )


def test_skip_damaged(pets):
    found = data.load(f"images:{pets}", skip_damaged=True)
    assert np.bincount(np.concatenate([split.labels for split in found.splits.values()])).tolist() == [10, 10]
    good = np.asarray(Image.open(io.BytesIO(JPEG)))
    for split in found.splits.values():
        assert (split.images == good).all()
    assert notes(found) == (
        "left out: 6 damaged images, dog/x0.jpg (empty), dog/x1.jpg (text), "
        "dog/x2.jpg (a pointer of Git LFS: git lfs pull) and 3 more",
    )


def test_the_test_split_is_drawn_among_images_that_can_be_read(tmp_path):
    for label, good in (("cat", 10), ("dog", 20)):
        (tmp_path / label).mkdir()
        for index in range(20):
            content = JPEG if index >= 20 - good else JPEG[:700] if index % 2 else b""
            (tmp_path / label / f"{index:02}.jpg").write_bytes(content)
    found = data.load(f"images:{tmp_path}", skip_damaged=True)
    assert [np.bincount(split.labels).tolist() for split in found.splits.values()] == [[8, 16], [2, 4]]


def test_one_message_tells_of_sizes_and_of_damage_behind_headers(tmp_path):
    other = saved(Image.new("RGB", (40, 32)), "JPEG")
    for index, content in enumerate([JPEG, JPEG[:700], other, b""]):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / f"{index}.jpg").write_bytes(content)
    refuse(
        r"3 images of 2 sizes, 32 x 32 \(2\), 40 x 32 \(1\).*; and 2 of 4 files cannot be read as images, "
        r"a/1.jpg \(truncated\), a/3.jpg \(empty\): mend or remove them, or add --set skip_damaged=true",
        tmp_path,
    )


def test_all_classes_without_a_readable_image_are_named(tmp_path):
    for label in "abc":
        (tmp_path / label).mkdir()
        for index in range(3):
            (tmp_path / label / f"{index}.jpg").write_bytes(JPEG if label == "b" else JPEG[:700])
    with pytest.raises(UserError, match="every image of the classes a, c in train is damaged"):
        data.load(f"images:{tmp_path}", skip_damaged=True)


def test_nothing_but_damage(tmp_path):
    with pytest.raises(UserError, match=r"no file can be read as an image, such as test/a/0.png \(empty\)"):
        load(tmp_path, b"", skip_damaged=True)
    for split in ("train", "test"):
        (tmp_path / split / "b").mkdir()
        (tmp_path / split / "b" / "0.png").write_bytes(saved(Image.fromarray(PHOTO), "PNG"))
    with pytest.raises(UserError, match="every image of the class a in train is damaged"):
        data.load(f"images:{tmp_path}", skip_damaged=True)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "DDS", "AVIF", "ICO"])
def test_rubbish_is_an_error(tmp_path, format):
    """Whatever Pillow's readers raise: changed, cut and doubled bytes of each format give an image or a `UserError`."""
    content = bytearray(saved(Image.new("RGB", (16, 16), "red"), format))
    for number in range(12):
        changed = content.copy()
        for position in RNG.integers(len(changed), size=4 + number):
            changed[position] = RNG.integers(256)
        path = tmp_path / "a" / f"{number}.{format}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(changed[: RNG.integers(len(changed))] if number % 3 == 0 else changed)
    with contextlib.suppress(UserError):
        data.load(f"images:{tmp_path}", size=16)


def test_a_strip_stays_an_image_with_margins():
    """`ImageOps.pad` of Pillow 13 leaves nothing of it; of other images ours is the same."""
    strip = made_into(Image.new("L", (1500, 20), 255), Wanted("L", (28, 28), "pad"))[..., 0]
    assert strip.any(axis=1).sum() == 1
    assert strip.max(axis=1)[13:15].tolist() in ([255, 0], [0, 255])
    noise = np.random.default_rng(0)
    for width, height in ((40, 30), (30, 41), (7, 90), (28, 28), (3, 2)):
        image = Image.fromarray(noise.integers(256, size=(height, width, 3), dtype=np.uint8))
        theirs = ImageOps.pad(image, (28, 20), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(made_into(image, Wanted("RGB", (28, 20), "pad")), np.asarray(theirs))
