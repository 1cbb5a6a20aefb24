"""Every sort of file that the library reads: sound samples of it, how it is damaged, and what reads it."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from mutations import Random, damaged, pick

MODULES = ("data_formats", "model_formats")  # each with `MAKERS`, functions that make a `Format`


@dataclasses.dataclass(frozen=True)
class Format:
    """A sort of file."""

    name: str
    suffix: str
    samples: tuple[bytes, ...]
    read: Callable[[Path], object]
    deep: Callable[[Random, bytes], bytes] = damaged  # damage that leaves the outer form whole
    share: float = 1.0  # of an equal share of all inputs

    def draw(self, seed: int) -> bytes:
        """The damaged file of a seed."""
        random = np.random.default_rng(seed)
        sample, other = pick(random, self.samples), pick(random, self.samples)
        return self.deep(random, sample) if random.random() < 0.5 else damaged(random, sample, other)


def makers() -> dict[str, Callable[[], Format]]:
    """What makes each format, by its name."""
    return {make.__name__[1:]: make for module in MODULES for make in importlib.import_module(module).MAKERS}


def formats(names: Sequence[str] = ()) -> dict[str, Format]:
    """The formats of these names, or all."""
    return {name: make() for name, make in makers().items() if not names or name in names}


def read_damaged(form: Format, seed: int, folder: Path) -> object:
    """Read the damaged file of a seed, in an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = folder / f"damaged{form.suffix}"
    path.write_bytes(form.draw(seed))
    return form.read(path)
