"""A folder of photographs as people have them: what of it is trained on, and what the page says of the rest."""

from __future__ import annotations

import html
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flaxvision import data

pytestmark = pytest.mark.quick

OPTIONS = ("--set", "size=24", "--set", "fit=pad", "--set", "skip_damaged=true")
COUNTS = {"train": 28, "validation": 12, "test": 14}
NOTES = (
    "the images are those of its folder Fotos 2024",
    "validation: the folder HUND is taken for the class Hund",
    "left out: 1 image outside the splits, such as Fotos 2024/contact/sheet.png",
    "left out: 3 files without an image, such as Fotos 2024/Train/Hund/IMG_0.AAE",
    "left out: 1 image in HEIC (pip install pillow-heif), such as Fotos 2024/Train/猫/IMG_1.HEIC",
    "left out: 4 damaged images, Fotos 2024/TEST/猫/cut.jpg (truncated), Fotos 2024/Train/Hund/404.jpg (text), "
    "Fotos 2024/Train/café/empty.png (empty) and 1 more",
    "resized to 24 x 24 (fit = pad): 42 images of 30 x 40 (11), 64 x 20 (11), 40 x 30 (10), 200 x 150 (9), "
    "150 x 200 (1)",
    "converted to RGB: P (9), 1 (4), CMYK (4), I;16 (4), L (4), LA (4), RGBA (4)",
    "laid on white where transparent: 8 images",
    "reduced to 8 bits a value: 4 images",
    "turned as their EXIF orientation says: 4 images",
    "first of several frames: 1 image, such as Fotos 2024/Train/Hund/Bild 99.gif",
)


def photograph(number: int, size: tuple[int, int], mode: str) -> Image.Image:
    """A picture with a shape that differs by the number."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    values = np.stack([(x * (number + 1) * 9) % 256, (y * 7 + number) % 256, (x + y) % 256], axis=-1)
    image = Image.fromarray(values.astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.convert(mode)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty image files of many kinds in three splits of three classes, and what else lies among them."""
    outer = tmp_path_factory.mktemp("own") / "Fotos aus dem Urlaub"
    root = outer / "Fotos 2024"
    sizes = [(40, 30), (30, 40), (24, 24), (64, 20), (200, 150)]
    kinds = [
        *[("RGB", "jpg"), ("L", "png"), ("RGB", "JPG"), ("P", "png"), ("RGBA", "png"), ("CMYK", "jpg"), ("1", "png")],
        *[("LA", "png"), ("I;16", "tif"), ("RGB", "webp"), ("RGB", "bmp"), ("P", "gif"), ("RGB", "jpeg"), ("RGB", "")],
    ]
    splits = {
        "Train": (["Hund", "café", "猫"], 28),
        "val": (["HUND", "café", "猫"], 12),
        "TEST": (["Hund", "café", "猫"], 14),
    }
    number = 0
    for split, (classes, images) in splits.items():
        for index in range(images):
            mode, suffix = kinds[number % len(kinds)]
            inner = "session 2/raw" if number % 5 == 4 else "."
            path = root / split / classes[index % 3] / inner / f"Bild {number}{'.' if suffix else ''}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            exif = Image.Exif()
            if suffix == "JPG":
                exif[0x0112] = 6  # held upright
            photograph(number, sizes[number % 5], mode).save(path, {"": "PNG", "JPG": "JPEG"}.get(suffix), exif=exif)
            number += 1
    frames = [photograph(frame, (24, 24), "P") for frame in range(3)]
    frames[0].save(root / "Train" / "Hund" / "Bild 99.gif", save_all=True, append_images=frames[1:])
    (root / "Train" / "Hund" / "Bild 0.jpg").unlink()  # so that 54 are good
    buffer = io.BytesIO()
    photograph(1, (64, 64), "RGB").save(buffer, "JPEG")
    others = {
        "Train/café/empty.png": b"",
        "Train/Hund/404.jpg": b"<html>404</html>",
        "TEST/猫/cut.jpg": buffer.getvalue()[:900],
        "val/猫/._0.jpg": b"\0\5\26\7",
        "val/猫/noise.png": bytes(range(200)),
        "Train/猫/IMG_1.HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40),
        "Train/Hund/IMG_0.AAE": b"<plist>",
        "Train/.DS_Store": b"\0\0\0\1Bud1",
        "Train/Hund/Thumbs.db": b"\xd0\xcf\x11\xe0",
        "readme.txt": b"Fotos",
        "labels.csv": b"a,b",
        "contact/sheet.png": (root / "Train" / "café" / "Bild 1.png").read_bytes(),
    }
    for name, content in others.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (outer / "__MACOSX" / "Train" / "Hund").mkdir(parents=True)
    (outer / "__MACOSX" / "Train" / "Hund" / "._1.jpg").write_bytes(b"\0\5\26\7")
    return outer


def test_sixty_images_load(folder):
    assert sum(COUNTS.values()) + 1 + 1 + 4 == 60  # used, outside the splits, HEIC, damaged
    photographs = data.load(f"images:{folder}", size=24, fit="pad", skip_damaged=True)
    assert photographs.classes == ("Hund", "café", "猫")
    assert photographs.input_shape == (24, 24, 3)
    assert dict(photographs.source.counts) == COUNTS
    assert photographs.source.notes == NOTES


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Glyph")
def test_sixty_images_train_by_one_command(folder, tmp_path, command):
    changes = ("--set", "learning_rate=0.1", "--set", "batch_size=8", "--epochs", 2, "--seeds", 1)
    status, _, errors = command("demo", "--dataset", f"images:{folder}", *OPTIONS, *changes, "--out", tmp_path / "run")
    assert status == 0, errors
    page = html.unescape((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    for split, number in COUNTS.items():
        assert f"{split} {number}" in errors
    for note in NOTES:
        assert note in page
        assert note in errors
    assert (tmp_path / "run" / "winner" / "flaxvision.safetensors").is_file()
