"""Pickles that hold arrays and plain values only; nothing that a file names is ever imported or called."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from flaxvision.errors import UserError


def _text_to_bytes(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding}")
    return text.encode("latin1")


_RECONSTRUCT = np.zeros(0).__reduce__()[0]  # makes an empty array, which the pickle then fills
_ALLOWED: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _text_to_bytes,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _RECONSTRUCT for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which data do not need") from None

    def persistent_load(self, _: Any) -> Any:
        raise pickle.UnpicklingError("it refers to another file")


def load_plain(content: bytes, where: str) -> Any:
    """The dictionaries, lists, numbers, text and arrays of a pickle, of Python 2 too.

    Raises:
      UserError: for a pickle that is damaged or holds anything else; nothing of it has run.
    """
    try:
        return _Unpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{where} is not a pickle of plain arrays ({error or type(error).__name__})") from error
