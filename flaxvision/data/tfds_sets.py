"""`tfds:NAME`: image classification sets that tensorflow-datasets prepared in the user's folder, without TensorFlow.

A set is found by where tfds puts it, FOLDER/NAME/VERSION or FOLDER/NAME/CONFIG/VERSION; its own code is not run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxvision._files import expanded
from flaxvision._memory import empty
from flaxvision._text import some
from flaxvision.data import arrays
from flaxvision.data.balance import first_of_each, shares
from flaxvision.data.dataset import SPLITS, Dataset
from flaxvision.data.split_names import split_of
from flaxvision.errors import UserError

FORMATS = ("array_record", "parquet")  # those of tfds that are read without TensorFlow
_NAME = re.compile(r"(?P<set>\w+)(?:/(?P<config>[\w.\-+]+))?(?::(?P<version>\d+\.\d+\.\d+))?", re.ASCII)
_VERSION = re.compile(r"\d+\.\d+\.\d+", re.ASCII)
_DESCRIPTION = "features.json"  # which tfds writes beside the records
_TEST_SHARE, _SEED = 0.2, 0  # of the training examples, where there is no other split


def read_tfds(name: str, data_dir: Path | None) -> Dataset:
    """A set by "tfds:NAME", "tfds:NAME/CONFIG" or "tfds:NAME/CONFIG:1.0.0", in the newest version otherwise.

    Its splits train, validation and test are read, whatever they are called. Without a test split the validation split
    becomes it, and without any a fifth of the training examples of each class. The examples are those of its image and
    its class label; other features are left out, which `source.notes` says.

    Args:
        name: As above.
        data_dir: The folder of tfds; None for `FLAXVISION_DATA_DIR`, `TFDS_DATA_DIR` and ~/tensorflow_datasets.

    Raises:
        UserError: For a set that is not prepared there, or is no set of images of one size with a class each.
    """
    home = folder_of(name, data_dir)
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(home)
        present = {each.value for each in builder.info.available_file_formats()}
    except Exception as error:  # whatever tfds and protobuf raise for damaged descriptions
        raise _damaged(name, home, error) from error
    if present.isdisjoint(FORMATS):
        raise UserError(
            f"{name}: {home} is in {some(sorted(present))}, which only TensorFlow reads: prepare it again in another "
            f"folder, {_command(name, 'FOLDER')}, and give that as --data-dir"
        )
    image, label = _features(name, builder.info.features)
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    notes: list[str] = []
    for split in builder.info.splits:
        ours = split_of(split)
        if ours is None or ours in found:
            notes.append(f"left out: the split {split}")
        else:
            found[ours] = _read(name, builder, split, image, label)
    if "train" not in found:
        raise UserError(f"{name} has no split train but {some(builder.info.splits)}: name a set that has one")
    others = sorted(key for key in builder.info.features if key not in (image, label))
    notes += [f"left out: {some(others)} of each example"] if others else []
    note = ""
    if "test" not in found and "validation" in found:
        found["test"] = found.pop("validation")
        note = "test split: the validation split, since there is no other"
    elif "test" not in found:
        note = "test split: a fifth of the training examples of each class, since there is no other"
        found["train"], found["test"] = _divided(*found["train"])
    return arrays.build(
        name,
        {split: found[split] for split in SPLITS if split in found},
        classes=builder.info.features[label].names,
        kind="folder",
        note=note,
        notes=notes,
        owned=True,
    )


def folder_of(name: str, data_dir: Path | None) -> Path:
    """Where the set of "tfds:NAME" lies.

    Raises:
        UserError: If it is not there, or several are.
    """
    parts = _NAME.fullmatch(name.partition(":")[2])
    if parts is None:
        raise UserError(f"{name!r} names no set: type tfds:NAME, tfds:NAME/CONFIG or tfds:NAME:1.0.0")
    given = data_dir or os.environ.get("FLAXVISION_DATA_DIR")
    roots = [Path(given)] if given else []
    if data_dir is None:
        roots += [Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")]
    roots = [expanded(root) for root in roots]
    own = next((root / parts["set"] for root in roots if (root / parts["set"]).is_dir()), None)
    within = own and (own / parts["config"] if parts["config"] else own)
    if own is None or within is None:
        raise _not_prepared(name, parts["set"], roots)
    versions = _versions(within)
    if not versions and not parts["config"]:
        configs = [path for path in sorted(own.iterdir()) if path.is_dir() and _versions(path)]
        if len(configs) > 1:
            names = [f"tfds:{parts['set']}/{path.name}" for path in configs]
            raise UserError(f"{name} has several configurations in {own}: type {' or '.join(names)}")
        versions = _versions(configs[0]) if configs else {}
    wanted = parts["version"] or max(versions, key=_numbers, default="")
    if wanted not in versions:
        have = f", which has version {some(versions)}" if versions else ""
        raise _not_prepared(name, parts["set"], [own], have)
    return versions[wanted]


def _versions(folder: Path) -> dict[str, Path]:
    """The prepared versions in a folder."""
    found = [path for path in folder.iterdir() if _VERSION.fullmatch(path.name)] if folder.is_dir() else []
    return {path.name: path for path in found if (path / _DESCRIPTION).is_file()}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _not_prepared(name: str, dataset: str, roots: Sequence[Path], have: str = "") -> UserError:
    from flaxvision.data.published import PUBLISHED

    plain = f", or type {dataset}, which needs no preparation" if dataset in PUBLISHED else ""
    return UserError(
        f"{name} is not prepared in {' or '.join(map(str, roots))}{have}: type {_command(name, 'FOLDER')} where "
        f"TensorFlow is installed, then --data-dir FOLDER{plain}"
    )


def _command(name: str, folder: str) -> str:
    return f"tfds build {name.partition(':')[2]} --data_dir={folder} --file_format={FORMATS[0]}"


def _features(name: str, features: Any) -> tuple[str, str]:
    """The keys of the image and of its class; `UserError` unless there is one of each."""
    from tensorflow_datasets import features as kinds

    held = {key: features[key] for key in sorted(features)} if isinstance(features, kinds.FeaturesDict) else {}
    images = [key for key, feature in held.items() if isinstance(feature, kinds.Image) or _is_pixels(feature)]
    labels = [key for key, feature in held.items() if isinstance(feature, kinds.ClassLabel)]
    chosen = []
    for what, found, usual in (("image", images, "image"), ("class label", labels, "label")):
        if len(found) != 1 and usual not in found:
            listed = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in held.items()) or "no features"
            many = f"{len(found)} features are of the kind {what!r}" if found else f"no feature is of the kind {what!r}"
            raise UserError(
                f"{name}: {many} among {listed}: tfds:NAME reads sets of one image and one class label an example; "
                "save others as npz:FOLDER"
            )
        chosen.append(usual if usual in found else found[0])
    return chosen[0], chosen[1]


def _is_pixels(feature: Any) -> bool:
    return type(feature).__name__ == "Tensor" and len(feature.shape) == 3 and np.dtype(feature.np_dtype) == np.uint8


def _read(name: str, builder: Any, split: str, image: str, label: str) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of a split."""
    try:
        records = builder.as_data_source(split)
        total = len(records)
        first = np.asarray(records[0][image]) if total else np.empty((0, 0, 0), np.uint8)
        images, labels = empty((total, *first.shape), first.dtype), np.empty(total, np.int64)
        for number, record in enumerate(records):
            pixels = np.asarray(record[image])
            if pixels.shape != first.shape:
                raise UserError(
                    f"{name}: images of {split} differ in size, {first.shape} and {pixels.shape}: save them as files, "
                    "FOLDER/CLASS/…, and type images:FOLDER with --set size=64"
                )
            images[number], labels[number] = pixels, record[label]
    except (UserError, MemoryError):
        raise
    except Exception as error:  # whatever tfds, its readers or Pillow raise for a damaged file
        raise _damaged(name, builder.data_path, error) from error
    return images, labels


def _damaged(name: str, home: object, error: Exception) -> UserError:
    said = str(error).partition("\n")[0][:200] or type(error).__name__
    return UserError(f"{name}: {home} cannot be read ({said}): remove that folder and prepare the set again")


def _divided(images: np.ndarray, labels: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Training and test examples, the latter with the classes in the proportions of all."""
    order = np.random.default_rng(_SEED).permutation(len(labels))
    counts = np.bincount(np.maximum(labels, 0))
    held = np.zeros(len(labels), bool)
    held[first_of_each(np.maximum(labels, 0), order, shares(counts, max(1, round(_TEST_SHARE * len(labels)))))] = True
    return (images[~held], labels[~held]), (images[held], labels[held])
