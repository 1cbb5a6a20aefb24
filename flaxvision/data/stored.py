"""A data set in one file, as it is: what `from_arrays` made lies so in the run that was trained on it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flaxvision._files import write_atomically
from flaxvision.data import raw
from flaxvision.data.dataset import Dataset, Source, Split
from flaxvision.data.stream import Stream
from flaxvision.errors import UserError

ABOUT = "about"  # the array that holds all but the examples, as JSON


def about(dataset: Dataset) -> dict[str, Any]:
    """All of a data set but the examples, for JSON."""
    stream = None if dataset.stream is None else dataclasses.asdict(dataset.stream)
    source = dataclasses.asdict(dataset.source)
    return {"name": dataset.name, "classes": dataset.classes, "source": source, "stream": stream}


def rebuilt(about: Mapping[str, Any], splits: Mapping[str, Split]) -> Dataset:
    """The data set of what `about` gave of it, and its splits."""
    source = about["source"]
    source |= {"counts": tuple(map(tuple, source["counts"])), "notes": tuple(source["notes"])}
    train, test, validation = splits["train"], splits["test"], splits.get("validation")
    stream = Stream(**given) if (given := about.get("stream")) else None  # earlier versions noted none
    return Dataset(about["name"], train, test, tuple(about["classes"]), Source(**source), validation, stream)


def write_dataset(dataset: Dataset, path: Path) -> Path:
    """Write a data set as an archive of NumPy's arrays."""
    arrays = {ABOUT: np.array(json.dumps(about(dataset)))}
    for name, split in dataset.splits.items():
        arrays |= {f"{name}_x": split.images, f"{name}_y": split.labels}
        if split.files is not None:
            arrays[f"{name}_files"] = split.files.astype(str)
    return write_atomically(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def read_dataset(path: Path) -> Dataset:
    """The data set of a file that `write_dataset` wrote.

    Raises:
        UserError: If it cannot be read, or holds something else.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            raw.check_members(arrays.zip, path.stat().st_size, str(path))
            found = json.loads(str(arrays[ABOUT]))
            names = [name.removesuffix("_x") for name in arrays if name.endswith("_x")]
            splits = {
                name: Split(arrays[f"{name}_x"], arrays[f"{name}_y"], arrays.get(f"{name}_files")) for name in names
            }
        return rebuilt(found, splits)
    except UserError:
        raise
    except Exception as error:  # NumPy, zipfile, zlib and json tell of damage in many ways
        raise UserError(f"{path} cannot be read as a data set of a run ({error}): it is damaged or gone") from error
