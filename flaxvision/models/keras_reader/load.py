"""Keras itself, and its files, checked before memory is taken for what they claim."""

from __future__ import annotations

import os
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from flaxvision._files import is_zip
from flaxvision.errors import UserError

SPARE = 2**20  # numbers that a file may claim beyond its bytes
PACKED = 100  # how many bytes of weights one byte of a file may hold


def import_keras() -> Any:
    """Keras on JAX, or the `UserError` that says how to install it."""
    # Keras takes TensorFlow unless told otherwise, before its first import.
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        import keras
    except ImportError as error:
        raise UserError("this needs Keras 3: pip install 'flaxvision[keras]'") from error
    return keras


def as_numpy(value: Any) -> np.ndarray:
    """A number, array or variable of Keras as numpy."""
    return np.asarray(import_keras().ops.convert_to_numpy(getattr(value, "value", value)))


def load(path: Path) -> Any:
    """The model of a file.

    Raises:
        UserError: If it is missing, no Keras file, or claims more than it holds.
    """
    import_keras()
    if path.is_dir():
        raise UserError(
            f"{path} is a folder, such as TensorFlow's SavedModel: give a .keras file, model.save('x.keras')"
        )
    if not path.is_file():
        raise UserError(f"no Keras file {path}: give a .keras file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # as in `to_keras`
            _check_claims(path)
            return _loaded(path)
    except UserError:
        raise
    except Exception as error:  # whatever zip, json, h5py or Keras raise for a damaged or foreign file
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not a Keras file that can be loaded ({reason})") from error


def _loaded(path: Path) -> Any:
    return import_keras().saving.load_model(path, compile=False, safe_mode=True)


def _check_claims(path: Path) -> None:
    """Raise for weights that would take far more memory than the file holds bytes.

    The layers are made without numbers first; what is stored for them is looked at, not read.
    """
    import h5py

    held = path.stat().st_size
    if is_zip(path):
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            if sum(info.file_size for info in infos) > PACKED * held + SPARE:
                raise UserError(
                    f"{path} claims to hold {sum(info.file_size for info in infos):.3g} bytes: it is damaged"
                )
            stored = 0
            for info in infos:
                if info.filename.endswith(".h5"):
                    with archive.open(info) as file, h5py.File(file, "r") as weights:
                        stored += _numbers(weights)
    else:
        with h5py.File(path, "r") as weights:
            stored = _numbers(weights)
    if stored > PACKED * held + SPARE:
        raise UserError(f"{path} claims {stored:.3g} numbers in {held:.3g} bytes: it is damaged")
    with import_keras().StatelessScope(initialize_variables=False):
        claimed = sum(int(np.prod(variable.shape, dtype=object)) for variable in _loaded(path).variables)
    if claimed > stored + SPARE:
        raise UserError(f"{path} describes layers of {claimed:.3g} numbers and holds {stored:.3g}: it is damaged")


def _numbers(weights: Any) -> int:
    """How many numbers the arrays of a file have."""
    import h5py

    found = [0]

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found.append(int(np.prod(item.shape, dtype=object)) if item.shape else 1)

    weights.visititems(add)
    return sum(found)
