"""`flaxvision evaluate RUN [DATASET|FOLDER]`: scores a run's winner."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flaxvision._files import expanded
from flaxvision._memory import empty
from flaxvision._text import visible
from flaxvision.cli.parser import Call, Parser, add_data_options, positive
from flaxvision.cli.text import print_notes, print_table, print_unread
from flaxvision.cli.winner import Winner
from flaxvision.errors import UserError, check_choice

if TYPE_CHECKING:
    from flaxvision.data import Split
    from flaxvision.training import Metrics

DESCRIPTION = """\
Score a run's winner: on its own data set, on another one, or on a folder with a folder of images for each class, which
are converted as those were that it was trained on. Classes count by their names, whatever their case, and however
accents are encoded."""
EXAMPLES = """\
{program} runs/digits
{program} runs/digits mnist --raw-dir DATA
{program} runs/pets FOLDER"""
SPLITS = ("train", "validation", "test")


def add_options(parser: Parser) -> None:
    """What may be typed."""
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, help="a run directory (its winner) or a weights file")
    add("data", metavar="DATASET|FOLDER", nargs="?", help="a data set, or a folder of images (default: the run's own)")
    add("--split", metavar="S", help="train, validation or test (default: the last of these that there is)")
    add("--limit", metavar="N", type=positive(int), help="use N examples")
    add_data_options(parser)


def run(options: argparse.Namespace, call: Call) -> int:
    """Print what it scores, in all and by class."""
    if options.split is not None:
        check_choice("--split", options.split, SPLITS)
    winner = Winner.load(options.run)
    folder = _folder(options.data)
    own = options.data is None
    for option, given in (("--raw-dir", options.raw_dir), ("--data-dir", options.data_dir)):
        if folder and given is not None:
            raise UserError(f"{option} has no effect on a folder of images, which is read as it is: leave it out")
    split, what, damaged = _of_folder(winner, folder, options) if folder else _of_data_set(winner, options)
    from flaxvision.training import evaluate

    metrics = evaluate(winner.model, split, test_time_flip=winner.flipped)
    print(visible(f"{winner.about}, on {what}: {metrics.count:,} examples"))
    _print(winner, metrics)
    recorded = winner.final.get("test_top1")
    if own and options.split in (None, "test") and options.limit is None and recorded is not None:
        print(f"on record: {100 * recorded:.2f} %")
    return 3 if damaged else 0


def _print(winner: Winner, metrics: Metrics) -> None:
    print(f"top-1     {100 * metrics.top1:.2f} %")
    if len(winner.classes) > 3:
        print(f"top-3     {100 * metrics.top3:.2f} %")
    print(f"balanced  {100 * metrics.balanced:.2f} %, the mean over classes")
    print(f"loss      {metrics.loss:.4f}\n")
    confusion = metrics.confusion
    rows = []
    for number, name in enumerate(winner.classes):
        total = int(confusion[number].sum())
        if total:
            others = confusion[number].copy()
            others[number] = 0
            most = int(others.argmax())
            taken = f"{winner.classes[most]} ({others[most]:,})" if others[most] else ""
            rows.append((visible(name), f"{total:,}", f"{100 * metrics.per_class[number]:.2f} %", visible(taken)))
    print_table(("class", "examples", "top-1", "most often taken for"), rows, right=(1, 2))


def _folder(given: str | None) -> Path | None:
    """The folder of images that was given, if it is one."""
    if given is None:
        return None
    kind, colon, path = given.partition(":")
    if kind == "images" and colon:
        return expanded(path)
    folder = expanded(given)
    from flaxvision.data import list_datasets

    return folder if given not in list_datasets() and folder.is_dir() else None


def _trained_on(winner: Winner, folder: Path) -> bool:
    """Whether a folder is the one that the winner was trained on, or that of its training split."""
    from flaxvision.data.split_names import split_of

    kind, _, path = str(winner.trial.get("dataset", "")).partition(":")
    if kind != "images":
        return False
    try:
        trained, given = expanded(path).resolve(), folder.resolve()
    except (UserError, OSError, RuntimeError):  # a path of whoever trained it: no such user here, a loop of links
        return False
    return given == trained or (given.parent == trained and split_of(given.name) == "train")


def _of_folder(winner: Winner, folder: Path, options: argparse.Namespace) -> tuple[Split, str, int]:
    """The images of a folder with the numbers that the winner has for the names of their folders.

    And what they are called, and how many could not be read.
    """
    from flaxvision.data import Split
    from flaxvision.data.for_model import read_images
    from flaxvision.data.listing import count, list_images, shown

    listing = list_images(folder)
    print_notes(listing.notes)
    name = options.split or next(split for split in reversed(SPLITS) if split in listing.splits)
    if name not in listing.splits:
        raise UserError(f"{folder} has no {name} split: it has {', '.join(listing.splits)}")
    if name == "train" and _trained_on(winner, folder):
        print(
            visible(
                f"note: the network was trained on images of {folder}, and gets these right too easily: flaxvision "
                f"evaluate {options.run} without a folder takes those that it has not seen"
            ),
            file=sys.stderr,
        )
    files = {shown(label): paths for label, paths in listing.splits[name].items()}
    numbers = _numbers(winner, [label for label, paths in files.items() if paths], str(folder))
    labelled = [(str(folder / path), numbers[label]) for label, paths in files.items() for path in paths]
    if options.limit is not None:
        drawn = np.random.default_rng(0).permutation(len(labelled))[: options.limit]
        labelled = [labelled[number] for number in sorted(drawn)]
    labels_of = dict(labelled)
    images = empty((len(labels_of), *winner.model.input_shape))
    labels = np.empty(len(labels_of), np.int32)
    damaged: dict[str, str] = {}
    end = 0
    for part in read_images(list(labels_of), winner.wanted()):
        start, end = end, end + len(part.images)
        images[start:end], labels[start:end] = part.images, [labels_of[path] for path in part.paths]
        damaged |= part.damaged
    print_unread(damaged)
    if not end:
        raise UserError(f"{folder}: none of {count(len(damaged), 'file')} can be read as an image")
    of = f"{folder}, split {name}" if len(listing.splits) > 1 else str(folder)
    return Split(images[:end], labels[:end]), of, len(damaged)


def _of_data_set(winner: Winner, options: argparse.Namespace) -> tuple[Split, str, int]:
    """A split of a data set, its classes as the winner numbers them."""
    from flaxvision.data import Split
    from flaxvision.identity import checksum_of_split
    from flaxvision.sweep.config import DataConfig
    from flaxvision.sweep.files import DataFolders, GivenData
    from flaxvision.sweep.inputs import load_dataset

    settings = dict(winner.trial)
    if options.data is not None:
        settings = {"dataset": options.data}
        if options.data in ("glyphs", "glyphs47"):  # which are drawn as asked for
            height, _, channels = winner.model.input_shape
            settings |= {"size": height, "channels": channels}
    if "dataset" not in settings:
        raise UserError(f"{options.run} does not say its data set: give its name, or a folder of images")
    folders = DataFolders(options.raw_dir, options.data_dir, GivenData.stored(options.run))
    dataset = load_dataset(DataConfig.of(settings), folders)
    print_notes(dataset.loading_notes)
    name = options.split or "test"
    if name not in dataset.splits:
        raise UserError(f"{dataset.name} has no {name} split: it has {', '.join(dataset.splits)}")
    then = winner.data.get(name) if options.data is None and name != "train" else None
    if then not in (None, checksum_of_split(dataset.splits[name])):
        raise UserError(
            f"{dataset.name} is not what it was when the network was trained on it, and its {name} split may hold "
            f"examples of its training: restore it, or give others, flaxvision evaluate {options.run} FOLDER"
        )
    numbers = _numbers(winner, dataset.classes, dataset.name)
    split = dataset.splits[name][: options.limit]
    table = np.array([numbers[label] for label in dataset.classes], np.int32)
    return Split(split.images, table[split.labels]), f"{dataset.name}, split {name}", 0


def _numbers(winner: Winner, names: Iterable[str], where: str) -> dict[str, int]:
    """The winner's number of each class by its name, as `folded` takes names for equal.

    Raises:
        UserError: For names that it does not know.
    """
    from flaxvision.data.listing import folded

    given = list(names)
    known = {name: number for number, name in enumerate(winner.classes)}
    free: dict[str, list[str]] = {}  # classes that no name is to the letter, by what is one but for case and accents
    for name in known.keys() - set(given):
        free.setdefault(folded(name), []).append(name)
    others = []
    for name in given:
        alike = [] if name in known else free.pop(folded(name), [])
        if len(alike) == 1:
            known[name] = known[alike[0]]
            print(visible(f"note: {where}: {name} is taken for the class {alike[0]}"), file=sys.stderr)
        elif name not in known:
            others.append(name)
    if others:
        some = ", ".join(map(repr, others[:3])) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        raise UserError(
            f"{where} has {some}, which the network does not know: its classes are {', '.join(winner.classes[:12])}"
            + (" …" if len(winner.classes) > 12 else "")
        )
    return {name: known[name] for name in given}
