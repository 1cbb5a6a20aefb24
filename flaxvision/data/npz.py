"""The user's own arrays in files: `npz:FOLDER` with two NumPy archives."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from flaxvision.data import arrays, raw
from flaxvision.data.dataset import Dataset
from flaxvision.errors import UserError


def read_npz(name: str, folder: Path) -> Dataset:
    """A set from `train.npz` and `valid.npz`, which becomes the test split.

    Each has `samples`: points (N, D) or uint8 images (N, H, W) or (N, H, W, C), and `annotations`: whole numbers (N,).
    Pickled objects are not read.
    """
    paths = [folder / "train.npz", folder / "valid.npz"]
    train, test = (_read_npz(path) for path in paths)
    return arrays.build(name, train, test, kind="folder", checksum=raw.fingerprint(paths))


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if not path.is_file():
        raise UserError(f"there is no file {path}: npz:FOLDER needs train.npz and valid.npz in its folder")
    try:
        # Opened here: np.load leaves a file that it cannot read open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [key for key in ("samples", "annotations") if key not in archive]
            if missing:
                raise UserError(f"{path} has no {' and no '.join(missing)}: it has {', '.join(archive) or 'nothing'}")
            samples, labels = archive["samples"], archive["annotations"]
    except UserError:
        raise
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read as plain NumPy arrays without pickled objects ({error})") from error
    if samples.dtype.kind in "iu" and samples.ndim == 2:  # points on a grid
        samples = samples.astype(np.float32)
    if labels.dtype.kind == "b" or (labels.dtype.kind == "f" and np.equal(labels, np.rint(labels)).all()):
        labels = labels.astype(np.int64)  # binary targets are often kept as bool or float
    split = arrays.as_split(str(path), samples, labels)
    return split.images, split.labels
