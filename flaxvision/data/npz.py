"""The user's own arrays in files: `npz:FOLDER` with a NumPy archive a split, or one archive with all of them."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np

from flaxvision.data import arrays, raw
from flaxvision.data.dataset import SPLITS, Dataset
from flaxvision.data.mapped import SMALL
from flaxvision.data.space import Space
from flaxvision.data.split_names import split_of
from flaxvision.errors import UserError

# What examples and labels are called in archives.
_EXAMPLES = ("samples", "sample", "images", "image", "imgs", "img", "x", "data", "features", "inputs", "arr_0")
_LABELS = ("annotations", "labels", "label", "y", "targets", "target", "classes", "class", "arr_1")
_CHUNK = 2**22  # bytes that are unpacked at a time
_Pairs = dict[str, tuple[np.ndarray, np.ndarray]]


def read_npz(name: str, place: Path, space: Space | None = None) -> Dataset:
    """A set of the archives of a folder, or of one archive.

    A folder holds an archive per split, `train.npz`, `valid.npz` (or val, validation, dev), `test.npz`, each with
    `samples` and `annotations` (or images and labels, x and y, …): points (N, D) or uint8 images (N, H, W) or
    (N, H, W, C), and labels (N,). Or a single archive has all, such as x_train, y_train, x_test, y_test. Without a test
    split the validation split becomes it. Pickled objects are not read.
    """
    paths, left_out = ([place], []) if place.is_file() else _archives(place)
    found: _Pairs = {}
    places: dict[str, str] = {}
    notes: list[str] = []
    for path in paths:
        pairs, unread = _read(path, space or Space())
        for split, pair in pairs.items():
            if split in found:
                raise UserError(f"{place} has the {split} split twice: keep one")
            found[split], places[split] = pair, str(path)
        notes += unread
    if left_out:
        notes.append(f"left out: {len(left_out)} other archives, such as {left_out[0]}")
    note = ""
    if "test" not in found and "validation" in found:
        found["test"], places["test"] = found.pop("validation"), places.pop("validation")
        note = "test split: the validation archive, since there is no other"
    missing = [split for split in ("train", "test") if split not in found]
    if missing:
        raise UserError(
            f"there is no {' and no '.join(missing)} split in {place}: npz:FOLDER needs train.npz and valid.npz or "
            "test.npz in its folder, or one archive with x_train, y_train, x_test and y_test"
        )
    ordered = {split: found[split] for split in SPLITS if split in found}
    return arrays.build(
        name,
        ordered,
        kind="folder",
        checksum=raw.fingerprint(paths),
        note=note,
        notes=notes,
        owned=True,
        space=space,
        places=places,
    )


def _archives(folder: Path) -> tuple[list[Path], list[str]]:
    """The archives that are splits, and the names of those that are none; a single one is read whatever its name."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".npz" and not path.name.startswith("."))
    splits = [path for path in found if split_of(path.stem)]
    if not splits and len(found) == 1:
        splits = found
    if not splits:
        others = ", ".join(path.name for path in found[:3])
        raise UserError(
            f"there is no train.npz in {folder}: npz:FOLDER needs train.npz and valid.npz or test.npz in its folder"
            + (f", which has {others}" if others else "")
        )
    return splits, [path.name for path in found if path not in splits]


def _read(path: Path, space: Space) -> tuple[_Pairs, list[str]]:
    """Examples and labels by split, and what was left out."""
    try:
        # Opened here: np.load leaves a file that it cannot read open.
        with path.open("rb") as file, contextlib.ExitStack() as stack:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise UserError(f"{path} holds one array: give an archive with samples and annotations, np.savez")
            archive = stack.enter_context(loaded)
            raw.check_members(archive.zip, path.stat().st_size, str(path))
            keys = _keys(path, list(archive))
            pairs = {split: (_array(path, archive, x, space), np.asarray(archive[y])) for split, (x, y) in keys.items()}
            used = {key for pair in keys.values() for key in pair}
            unread = [key for key in archive if key not in used]
    except (UserError, MemoryError):
        raise
    except Exception as error:  # NumPy, zipfile and zlib tell of damage in many ways
        raise UserError(f"{path} cannot be read as plain NumPy arrays without pickled objects ({error})") from error
    notes = [f"left out of {path.name}: {', '.join(unread)}"] if unread else []
    return pairs, notes


def _array(where: Path, archive: np.lib.npyio.NpzFile, name: str, space: Space) -> np.ndarray:
    """An array of an archive; a large one is mapped from a file."""
    assert archive.zip is not None  # it is open
    member = next((each for each in archive.zip.infolist() if each.filename == f"{name}.npy"), None)
    if member is None or member.file_size < SMALL:
        return np.asarray(archive[name])
    folder, room = space.folder(), space.room()
    if member.file_size > room:
        raise UserError(
            f"{where}: {name} unpacks to {member.file_size / 2**30:,.1f} GB of the {room / 2**30:,.1f} that there are "
            "in memory and on disk: set FLAXVISION_DATA_DIR or --data-dir to a folder with more room"
        )
    if folder is None:
        return np.asarray(archive[name])
    try:
        with tempfile.NamedTemporaryFile(dir=folder.parent, delete=False) as file, archive.zip.open(member) as packed:
            shutil.copyfileobj(packed, file, _CHUNK)
    except OSError as error:
        space.give_up(error)
        space.check_memory(member.file_size)
        return np.asarray(archive[name])
    return np.load(file.name, mmap_mode="r", allow_pickle=False).view(np.ndarray)


def _keys(path: Path, names: list[str]) -> dict[str, tuple[str, str]]:
    """The names of examples and labels by split."""
    own = split_of(path.stem)
    found: dict[str, dict[str, str]] = {}
    unsplit = set()
    for name in names:
        words = [name.lower(), *re.split(r"[_\-./ ]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())]
        split = next((s for word in words if (s := split_of(word))), own)
        kind = _kind(words)
        if kind and not split:
            unsplit.add(kind)
        if split and kind:
            found.setdefault(split, {}).setdefault(kind, name)
    whole = {split: (keys["x"], keys["y"]) for split, keys in found.items() if len(keys) == 2}
    half = {split: keys for split, keys in found.items() if len(keys) == 1}
    if not found and unsplit == {"x", "y"}:
        raise UserError(
            f"{path} names no split, it has {', '.join(names)}: save train.npz and test.npz, or x_train, y_train, "
            "x_test and y_test"
        )
    if half or not whole:
        keys = next(iter(half.values()), {})
        missing = [word for kind, word in (("x", "samples"), ("y", "annotations")) if kind not in keys]
        raise UserError(f"{path} has no {' and no '.join(missing)}: it has {', '.join(names) or 'nothing'}")
    return whole


def _kind(words: list[str]) -> str:
    """Whether a name is that of examples ("x"), labels ("y") or neither, by the last word that tells more than data."""
    kinds = {word: "x" if word in _EXAMPLES else "y" for word in words if word in (*_EXAMPLES, *_LABELS)}
    return next((kinds[word] for word in reversed(kinds) if word != "data"), next(iter(kinds.values()), ""))
