"""From a folder of mixed photographs to a table, and from its winner to the classes of another folder, in the shell."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from flaxvision.cli.main import main

pytestmark = pytest.mark.quick

FORMATS = (("jpg", "RGB"), ("png", "RGBA"), ("gif", "P"), ("webp", "RGB"), ("tif", "CMYK"), ("bmp", "L"))
KINDS = ("disc", "frame")


def take_photographs(folder: Path, number: int, seed: int) -> None:
    """Write so many pictures of either kind, in all sizes, formats and modes; some of them lie on their side."""
    draws = np.random.default_rng(seed)
    for kind in KINDS:
        (folder / kind).mkdir(parents=True)
        for n in range(number):
            width, height = draws.integers(40, 160, 2).tolist()
            picture = Image.fromarray(draws.integers(0, 90, (height, width, 3), np.uint8))
            draw, color = ImageDraw.Draw(picture), tuple(draws.integers(170, 256, 3).tolist())
            side = min(width, height)  # of the middle, which is what a crop keeps
            box = [(width - side) // 2, (height - side) // 2, (width + side) // 2 - 1, (height + side) // 2 - 1]
            if kind == "disc":
                draw.ellipse([box[0] + side // 4, box[1] + side // 4, box[2] - side // 4, box[3] - side // 4], color)
            else:
                draw.rectangle(box, outline=color, width=side // 6)
            ending, mode = FORMATS[n % len(FORMATS)]
            exif = Image.Exif()
            exif[0x0112] = int(draws.choice([1, 6]))  # how the camera was held
            more = {"exif": exif} if ending == "jpg" else {}
            picture.convert(mode).save(folder / kind / f"{n:03}.{ending}", **more)


@pytest.mark.slow
def test_a_folder_of_photographs_to_a_table_and_to_another_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    take_photographs(Path("photos"), 30, seed=0)
    take_photographs(Path("others"), 12, seed=1)
    command = (
        "sweep demo --dataset images:photos --set size=24 hidden=[32] batch_size=16 --seeds 1 --out run --no-export"
    )
    assert main(command.split()) == 0
    assert "test top-1" in capsys.readouterr().out
    assert (Path("run") / "report.html").exists()
    assert main(["predict", "run", "others", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 2 * 12
    right = [row["class"] == Path(row["file"]).parent.name for row in rows]
    assert np.mean(right) >= 0.9
    assert main(["evaluate", "run", "others"]) == 0
    assert f"top-1     {100 * np.mean(right):.2f} %" in capsys.readouterr().out
