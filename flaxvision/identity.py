"""What a run is, by content: the one account that run directories, checkpoints and caches compare.

An identity is plain data: what something is called -> its content (a number, a checksum, or another such table). Two
of them may be continued, averaged or cached together if they agree in all that both name; `differences` says where they
do not. Versions of packages and the kind of device are `circumstances`: kept, and said where they changed, since they
may move the last bits of a number and no more.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import platform
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from flaxvision import __version__
from flaxvision._describe import digest
from flaxvision.data import Dataset, Split
from flaxvision.data.arrays import array_checksum
from flaxvision.errors import UserError
from flaxvision.runtime import SWITCHES, instructions

Identity = dict[str, Any]
AROUND = "around"  # the key of `circumstances` in an identity
MOST_NAMED = 3  # differences that a message names


def switches() -> Identity:
    """The settings of JAX on which a trained number depends."""
    import jax

    return {name: getattr(jax.config, name) for name, counts in SWITCHES.items() if counts}


def circumstances() -> dict[str, str]:
    """What numbers may depend on in their last bits: packages, this one too, platform, processor, XLA's flags, kernels.

    And Python, on which nothing should depend.
    """
    import jax

    from flaxvision.ops.policy import Policy

    platform = jax.default_backend()
    kernels = "C++" if Policy.for_training(platform).compiled else "none"
    return {**_of_process(), "platform": platform, "kernels": kernels, "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}


@functools.cache
def _of_process() -> dict[str, str]:
    packages = {package: metadata.version(package) for package in ("jax", "jaxlib", "flax", "optax")}
    python = ".".join(platform.python_version_tuple()[:2])
    return {"flaxvision": __version__, "python": python, **packages, "processor": instructions()}


def checksum_of(dataset: Dataset) -> Identity:
    """The examples as they are trained on: a checksum of each split's arrays, in order, the classes, and the stream."""
    splits = {name: checksum_of_split(split) for name, split in dataset.splits.items()}
    order = {} if dataset.stream is None else {"stream": dataclasses.asdict(dataset.stream)}
    return {**splits, "classes": digest(list(dataset.classes)), **order}


def checksum_of_split(split: Split) -> str:
    """That of a split's arrays."""
    return array_checksum((split.images, split.labels))[:16]


def checksum_of_file(path: str | Path) -> str:
    """A file's checksum.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; give a file that flaxvision.save_model wrote"
        ) from error


def differences(then: object, now: object, *, common: bool = False) -> list[str]:
    """Where two identities differ, each as "NAME was THIS, is THAT"; with `common` only in what both name.

    >>> differences({"epochs": 15, "data": {"train": "1a"}}, {"epochs": 20, "data": {"train": "1a"}})
    ['epochs was 15, is 20']
    """
    return list(dict.fromkeys(_differences("", then, now, common)))


def listed(found: Sequence[str]) -> str:
    """Differences in one line: the first few, and how many more there are."""
    more = len(found) - MOST_NAMED
    return "; ".join(found[:MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _differences(name: str, then: object, now: object, common: bool) -> Iterator[str]:
    if isinstance(then, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*then, *now]):
            if not common or (key in then and key in now):
                yield from _differences(f"{name} {key}".strip(), then.get(key), now.get(key), common)
    elif _plain(then) != _plain(now):
        yield f"{name} was {_text(then)}, is {_text(now)}"


def _plain(value: object) -> object:
    """As JSON would give it back."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _text(value: object) -> str:
    if isinstance(value, dict):
        return str(value.get("function") or value.get("type") or value.get("kind") or "another")
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    return "not given" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
