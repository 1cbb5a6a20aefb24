"""`flaxvision predict RUN FOLDER|FILE…`: classifies images with a run's winner."""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flaxvision._text import visible
from flaxvision.cli.parser import Call, Parser
from flaxvision.cli.text import print_table, print_unread
from flaxvision.cli.winner import Winner
from flaxvision.errors import UserError

if TYPE_CHECKING:
    import numpy as np

DESCRIPTION = """\
Classify images with a run's winner. They are converted as those were that it was trained on: to its size (by the run's
`fit`) and its channels, turned as their EXIF orientation says. Every image below a folder is taken."""
EXAMPLES = """\
{program} runs/pets photo.jpg
{program} runs/pets FOLDER --csv > classes.csv"""
SECOND = 0.01  # probability from which the second class is worth naming


def add_options(parser: Parser) -> None:
    """What may be typed."""
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, help="a run directory (its winner) or a weights file")
    add("paths", metavar="FOLDER|FILE", nargs="+", type=Path, help="images, or folders of them")
    add("--csv", action="store_true", help="print file, class, its probability and that of every class, as CSV")


def run(options: argparse.Namespace, call: Call) -> int:
    """Print a line for each image; 3 if some could not be read."""
    paths = _images_in(options.paths)
    winner = Winner.load(options.run)
    print(visible(f"{winner.about}; {len(paths):,} image{'s' * (len(paths) != 1)}"), file=sys.stderr)
    counts: Counter[str] = Counter()
    damaged: dict[str, str] = {}
    writer = csv.writer(sys.stdout, lineterminator="\n") if options.csv else None
    if writer:
        writer.writerow(["file", "class", "probability", *winner.classes])
    rows = []
    for path, scores in _scores(winner, paths, damaged):
        best = int(scores.argmax())
        counts[winner.classes[best]] += 1
        if writer:
            writer.writerow([path, winner.classes[best], f"{scores[best]:.6f}", *(f"{score:.6f}" for score in scores)])
        else:
            rows.append((visible(path), winner.classes[best], f"{100 * scores[best]:.1f} %", _second(winner, scores)))
    if rows:
        print_table(("file", "class", "probability", "second"), rows, right=(2,))
    if len(counts) > 1 or sum(counts.values()) > 1:
        print(visible(", ".join(f"{name}: {number:,}" for name, number in counts.most_common())), file=sys.stderr)
    print_unread(damaged)
    return 3 if damaged else 0


def _scores(winner: Winner, paths: Sequence[str], damaged: dict[str, str]) -> Iterator[tuple[str, np.ndarray]]:
    from flaxvision.data.for_model import read_images

    for some in read_images(paths, winner.wanted()):
        damaged |= some.damaged
        yield from zip(some.paths, winner.predict(some.images), strict=True)


def _second(winner: Winner, scores: np.ndarray) -> str:
    if len(scores) < 2:
        return ""
    second = int(scores.argsort()[-2])
    return f"{winner.classes[second]} {100 * scores[second]:.1f} %" if scores[second] >= SECOND else ""


def _images_in(given: Sequence[Path]) -> list[str]:
    """Every image of files and folders; `UserError` where there is none."""
    from flaxvision.data.listing import every_image

    found: list[str] = []
    for path in given:
        if not path.is_dir():
            if not path.exists():
                raise UserError(f"there is no {path}: give an image, or a folder of images")
            found.append(str(path))
            continue
        inside, passed_over = every_image(path)
        found += [str(path / name) for name in inside]
        for reason, number in passed_over.items():
            print(visible(f"passed over in {path}: {number:,}, {reason}"), file=sys.stderr)
    if not found:
        raise UserError(f"no images in {', '.join(map(str, given))}: give files, or folders of them")
    return found
