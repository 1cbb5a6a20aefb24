"""Files of data sets, sweeps and run directories for `fuzzed_files`."""

from __future__ import annotations

import atexit
import bz2
import contextlib
import gzip
import io
import json
import lzma
import pickle
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from file_formats import Format
from mutations import Random, damaged, odd_text, odd_value, odd_zip, pick

import flaxvision as fv
from flaxvision.data import idx, raw


def _images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (30, 28, 28), np.uint8), (np.arange(30) % 10).astype(np.uint8)


def _idx() -> Format:
    images, labels = map(idx.format_idx, _images_and_labels())

    def read(path: Path) -> object:
        content = raw.read(path)
        return idx.parse_idx(content, 1 if content[3:4] == b"\1" else 3, path.name)

    return Format("idx", ".idx", (images, labels), read, share=2)


def _packed() -> Format:
    content = idx.format_idx(_images_and_labels()[0])
    samples = gzip.compress(content, mtime=0), lzma.compress(content), bz2.compress(content)
    pack: tuple[Callable[[bytes], bytes], ...] = (gzip.compress, lzma.compress, bz2.compress)

    def deep(random: Random, sample: bytes) -> bytes:
        which = samples.index(sample)
        zeros = bytes(int(pick(random, (2**10, 2**20, 2**24))))
        return pack[which](content[:16] + zeros) if random.random() < 0.01 else damaged(random, sample)

    return Format("packed", ".gz", samples, raw.read, deep, share=2)


def _cifar() -> Format:
    from flaxvision.data.cifar import parse_cifar

    content = np.random.default_rng(0).integers(0, 10, (3, 3073), np.uint8).tobytes()
    return Format("cifar", ".bin", (content,), lambda path: parse_cifar(raw.read(path), path.name), share=2)


def _pickled() -> Format:
    from flaxvision.data.cifar import unpickle_cifar

    pixels = np.zeros((3, 3072), np.uint8)
    samples = tuple(pickle.dumps({"data": pixels, "labels": [1, 2, 3]}, protocol) for protocol in (2, 4))
    return Format("pickled", ".bin", samples, lambda path: unpickle_cifar(raw.read(path), path.name), share=2)


def _matlab() -> Format:
    from scipy.io import savemat

    from flaxvision.data.svhn import parse_svhn

    samples = []
    for packed in (False, True):
        with io.BytesIO() as file:
            images = np.zeros((32, 32, 3, 4), np.uint8)
            savemat(file, {"X": images, "y": np.ones((4, 1), np.uint8)}, do_compression=packed)
            samples.append(file.getvalue())
    return Format("matlab", ".mat", tuple(samples), lambda path: parse_svhn(raw.read(path), path.name), share=0.5)


def _archive() -> Format:
    from flaxvision.data._load import located
    from flaxvision.data.published import PUBLISHED

    images, labels = map(idx.format_idx, _images_and_labels())
    names = PUBLISHED["mnist"].file_names
    members = {name: images if "images" in name else labels for name in names}
    with io.BytesIO() as zipped, io.BytesIO() as tarred, io.BytesIO() as arrays:
        with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        with tarfile.open(fileobj=tarred, mode="w:gz") as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        x, y = _images_and_labels()
        np.savez_compressed(arrays, x_train=x, y_train=y, x_test=x, y_test=y)
        samples = zipped.getvalue(), tarred.getvalue(), arrays.getvalue()

    def read(path: Path) -> object:
        kind = path.read_bytes()[:2]
        name = "mnist.npz" if b"x_train" in path.read_bytes() else "mnist.zip" if kind == b"PK" else "mnist.tar.gz"
        there = path.rename(path.with_name(name))
        contents = located(PUBLISHED["mnist"], there)
        return None if contents is None else [PUBLISHED["mnist"].arrays(contents.contents(), s) for s in ("train",)]

    def deep(random: Random, sample: bytes) -> bytes:
        if sample.startswith(b"PK"):
            return odd_zip(random, sample, lambda random, name, content: damaged(random, content))
        return gzip.compress(damaged(random, gzip.decompress(sample)), mtime=0)

    return Format("archive", ".zip", samples, read, deep, share=0.5)


def _npz() -> Format:
    images, labels = _images_and_labels()
    samples = []
    for save in (np.savez, np.savez_compressed):
        with io.BytesIO() as file:
            save(file, x_train=images, y_train=labels, x_test=images[:5], y_test=labels[:5])
            samples.append(file.getvalue())

    def member(random: Random, name: str, content: bytes) -> bytes:
        header = content[:128].decode("latin1")
        for old, new in (("28, 28", str(pick(random, (2**20, 2**31, 0, -1)))), ("u1", pick(random, ("O", "f8", "V9")))):
            header = header.replace(old, new.ljust(len(old))[: len(old)]) if random.random() < 0.5 else header
        return header.encode("latin1") + content[128:] if random.random() < 0.5 else damaged(random, content)

    def read(path: Path) -> object:
        return fv.data.load(f"npz:{path}")

    return Format("npz", ".npz", tuple(samples), read, lambda r, s: odd_zip(r, s, member))


def _images() -> Format:
    from PIL import Image

    random = np.random.default_rng(0)
    kinds = {
        "PNG": ("RGB", "L", "P"), "JPEG": ("RGB",), "GIF": ("P",), "BMP": ("RGB",), "TIFF": ("RGB", "I;16"),
        "WEBP": ("RGB",), "PPM": ("RGB",), "ICO": ("RGBA",), "TGA": ("RGB",),
    }  # fmt: skip
    samples = []
    for kind, modes in kinds.items():
        for mode in modes:
            if mode == "I;16":
                image = Image.fromarray(random.integers(0, 65_536, (16, 16)).astype(np.uint16))
            else:
                image = Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).convert(mode)
            with io.BytesIO() as file:
                image.save(file, kind)
                samples.append(file.getvalue())
    with io.BytesIO() as file:
        Image.new("RGB", (16, 16)).save(file, "PNG")
        sound = file.getvalue()

    def read(path: Path) -> object:
        for name in ("a", "b"):
            (path.parent / name).mkdir(exist_ok=True)
            (path.parent / name / "1.png").write_bytes(sound)
        path.rename(path.parent / "a" / path.name)
        return fv.data.load(f"images:{path.parent}", size=16)

    return Format("images", ".png", tuple(samples), read)


def _toml() -> Format:
    from flaxvision.sweep import list_specs, load_spec
    from flaxvision.sweep.parse import SPECS

    samples = tuple((SPECS / f"{name}.toml").read_bytes() for name in list_specs())

    def deep(random: Random, sample: bytes) -> bytes:
        return odd_text(random, sample.decode()).encode()

    return Format("toml", ".toml", samples, load_spec, deep)


def _run() -> Format:
    """A run directory: what is read of it again must be what was written, or be passed over in words.

    A tenth of them are continued, too, and must then be whole.
    """
    from flaxvision.report import results_csv
    from flaxvision.sweep import parse_spec, run
    from flaxvision.sweep.files import RunFiles
    from flaxvision.sweep.store import outcome_of, read_run, usable

    files = {"spec.toml", "trials.jsonl", "arrangement.json"}
    recipe = {"batch_size": 32, "epochs": 2}
    spec = parse_spec(
        {"name": "run", "dataset": "glyphs", "model": "linear", "data": {"limit": 64, "size": 8}, "recipe": recipe}
        | {"seeds": 2, "grid": {"learning_rate": [0.1, 0.01]}}
    )
    with tempfile.TemporaryDirectory() as folder:
        result = run(spec, folder, executor="loop", export=False, report=False)
        paths = [p for p in Path(folder).rglob("*") if p.name in files or p.parent.name == "trials"]
        held = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    assert results_csv(result)
    true = {outcome.id: (outcome.final, outcome.seed, outcome.cell) for outcome in result.outcomes}
    samples = tuple(f"{name}\n".encode() + content for name, content in held.items())

    def deep(random: Random, sample: bytes) -> bytes:
        name, _, content = sample.partition(b"\n")
        if name == b"arrangement.json":
            return name + b"\n" + json.dumps(odd_value(random, json.loads(content))).encode()
        if name != b"trials.jsonl":
            return name + b"\n" + damaged(random, content)
        lines = [json.loads(line) for line in content.splitlines()]
        at = int(random.integers(len(lines)))
        lines[at] = odd_value(random, lines[at])
        return name + b"\n" + "".join(json.dumps(line) + "\n" for line in lines).encode()

    def read(path: Path) -> object:
        name, _, content = path.read_bytes().partition(b"\n")
        folder = path.parent / "run"
        for other, sound in held.items():
            (folder / other).parent.mkdir(parents=True, exist_ok=True)
            (folder / other).write_bytes(content if other.encode() == name else sound)
        there = RunFiles(folder)
        if name == b"arrangement.json" or zlib.crc32(content) % 10 == 0:
            again = run(spec, folder, executor="loop", resume=True, export=False, report=False)
            found = {outcome.id: (outcome.final, outcome.seed, outcome.cell) for outcome in again.outcomes}
            if found != true:
                raise AssertionError(f"the table is not what it was without damage to {name.decode(errors='replace')}")
        held_spec, log = read_run(folder)
        sound, _ = usable(log.records, there)
        for record in sound:
            outcome = outcome_of(record, there)
            if true.get(outcome.id) != (outcome.final, outcome.seed, outcome.cell):
                raise AssertionError(f"a trial of {name.decode(errors='replace')} is not what it was")
        return held_spec

    return Format("run", ".run", samples, read, deep)


def _search() -> Format:
    """The lines of a search: what is read of them is its first batches, and a hundredth goes on to all of them."""
    from flaxvision.sweep import parse_spec, run
    from flaxvision.sweep.search.records import SEARCHED, read_batches

    space = {"optimizer": ["sgd", "adam"], "learning_rate": {"low": 1e-3, "high": 1.0, "log": True}}
    spec = parse_spec(
        {"name": "run", "dataset": "two_clusters", "model": "linear", "data": {"limit": 64, "validation": 0.25}}
        | {"recipe": {"batch_size": 16, "epochs": 2, "loss": "binary_cross_entropy"}, "objective": "val_loss"}
        | {"search": {"space": space, "trials": 8, "batch": 4, "halving": [1], "finalists": 1}}
    )
    left_out = ("seconds", "elapsed", "checksums")

    def told(folder: Path) -> list[list[dict[str, object]]]:
        batches, _ = read_batches(folder)
        return [[{key: record[key] for key in record if key not in left_out} for record in each] for each in batches]

    def search(folder: Path) -> None:
        run(spec, folder, executor="loop", resume=folder.exists(), export=False, report=False)

    with tempfile.TemporaryDirectory() as folder:
        search(Path(folder) / "run")
        held = {path.name: path.read_bytes() for path in (Path(folder) / "run").iterdir() if path.is_file()}
        true = told(Path(folder) / "run")

    def deep(random: Random, sample: bytes) -> bytes:
        lines = [json.loads(line) for line in sample.splitlines()]
        at = int(random.integers(len(lines)))
        lines[at] = odd_value(random, lines[at])
        return "".join(json.dumps(line) + "\n" for line in lines).encode()

    def read(path: Path) -> object:
        folder, content = path.parent / "run", path.read_bytes()
        folder.mkdir()
        (folder / SEARCHED).write_bytes(content)
        if (found := told(folder)) != true[: len(found)]:
            raise AssertionError("the batches on record are not what they were")
        if zlib.crc32(content) % 100 == 0:
            (folder / "spec.toml").write_bytes(held["spec.toml"])
            search(folder)
            if told(folder) != true:
                raise AssertionError("the search went on to other trials")
        return found

    return Format("search", ".jsonl", (held[SEARCHED],), read, deep)


def _prepared() -> Format:
    """A file of a prepared copy: the data set is what it was, or, where what it says is signed anew, of one kind."""
    from PIL import Image

    from flaxvision.data import mapped

    random, root = np.random.default_rng(0), Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, root, ignore_errors=True)  # its files are asked after for as long as copies are read
    source, home = root / "images", root / "prepared"
    for number in range(12):
        (source / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(source / "ab"[number % 2] / f"{number}.png")

    def load(folder: Path) -> fv.data.Dataset:
        return fv.data.load(f"images:{source}", size=8, data_dir=folder)

    def content_of(dataset: fv.data.Dataset) -> tuple[object, ...]:
        splits = [(x.images.tobytes(), x.labels.tobytes(), list(x.files)) for x in dataset.splits.values()]
        return dataset.name, dataset.classes, splits

    true = content_of(load(home))
    held = {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}

    def deep(random: Random, sample: bytes) -> bytes:
        name, _, content = sample.partition(b"\n")
        if not name.endswith(mapped.ABOUT.encode()):
            return name + b"\n" + damaged(random, content)
        about = odd_value(random, mapped.unsealed(content.decode()))
        return name + b"\n" + (mapped.sealed(about) if isinstance(about, dict) else json.dumps(about)).encode()

    def read(path: Path) -> object:
        name, _, content = path.read_bytes().partition(b"\n")
        folder, signed = path.parent / "prepared", False
        for other, sound in held.items():
            (folder / other).parent.mkdir(parents=True, exist_ok=True)
            (folder / other).write_bytes(content if other.encode() == name else sound)
        if name.endswith(mapped.ABOUT.encode()):
            with contextlib.suppress(ValueError, RecursionError):
                signed = bool(mapped.unsealed(content.decode()))
        dataset = load(folder)
        if not signed and content_of(dataset) != true:
            raise AssertionError("the data set is not what it was")
        return dataset

    return Format("prepared", ".copy", tuple(f"{n}\n".encode() + c for n, c in held.items()), read, deep, share=0.5)


MAKERS = (_idx, _packed, _cifar, _pickled, _matlab, _archive, _npz, _images, _toml, _run, _search, _prepared)
