"""What do large data sets cost: memory, starts, and the throughput of training from disk?

    python experiments/large_data.py --data FOLDER

Makes 200,000 images in files and an archive of 4 GB, of noise, in FOLDER (about 12 GB; a temporary one when left out),
and measures, each in a process of its own as the command line would:

- folder: the first start, the second one, and a start with `limit=1000`,
- archive: the first and the second start,
- wide_cnn, linear: examples a second of a slow and a quick network, from memory, mapped, and streamed,
- limited: those of the quick one in a control group of 1.5 GB, where the machine lets one make it,
- grain: how many examples google/grain hands out of the same copy, where it is installed.

`--part NAME` measures one of them and keeps what results.json has of the others. About ten minutes on two CPU cores.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import commit, parser_of, write_page

import flaxvision as fv
from flaxvision._memory import empty, map_of
from flaxvision.data.stream import streamed
from flaxvision.report import markdown_table
from flaxvision.training.callbacks import Progress

NAME = "large_data"
PARTS = ("folder", "archive", "wide_cnn", "linear", "limited", "grain")
SIDE, CLASSES, BATCH = 32, 100, 64
IMAGES, EXAMPLES = (200_000, 400), (1_400_000, 4_000)  # of the folder and the archive; with --quick
STEPS = {"wide_cnn": (300, 4), "linear": (20_000, 40)}  # of training; with --quick
HOW = ("memory", "mapped", "streamed", "streamed, cold")
LIMIT = 1_500 * 2**20  # bytes of memory of the control group
CGROUP = Path("/sys/fs/cgroup/memory/flaxvision-large-data")  # of version 1
LONGEST = 100  # seconds of a measurement


@dataclasses.dataclass(frozen=True)
class Start:
    """A data set loaded in a new process: seconds of `load`, and from the process's start; bytes of its own memory."""

    what: str
    seconds: float
    whole: float
    private: int
    dirty: int
    examples: int
    notes: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A training: examples a second after the first eighth, and the process's own memory at its end."""

    network: str
    how: str
    limit: int  # bytes of memory of its control group; 0: none
    rate: float
    private: int
    dirty: int


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(NAME, __doc__, "few images and steps: seconds")
    parser.add_argument("--data", type=Path, help="where the data sets are made, and kept for the next part")
    parser.add_argument("--part", choices=PARTS, action="append", help="measure this one only (several may be given)")
    parser.add_argument("--measure", nargs="+", help="what one process measures, printed as JSON")
    options = parser.parse_args(arguments)
    if options.measure:
        what, *rest = options.measure
        print(json.dumps(dataclasses.asdict({"load": loaded, "train": trained}[what](*rest))))
        return
    kept = options.out / "results.json"
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))["parts"] if kept.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        home = options.data or Path(scratch)
        os.environ["FLAXVISION_DATA_DIR"] = str(home / "prepared")
        for part in options.part or PARTS:
            rows = {"folder": folder, "archive": archive, "limited": limited, "grain": grains}
            of_network = functools.partial(training, part)
            found[part] = rows.get(part, of_network)(home, options.quick)
    write_page(options, NAME, "Large data sets", list(sections(found)), (), commit=commit(), parts=found)


# --- what is measured ------------------------------------------------------------------------------------------------


def folder(home: Path, quick: bool) -> list[dict[str, Any]]:
    """Starts with many image files."""
    from PIL import Image

    rng, place, number = np.random.default_rng(0), home / f"images-{IMAGES[quick]}", IMAGES[quick]
    if not place.exists():
        for split, share in (("train", 0.95), ("test", 0.05)):
            for label in range(CLASSES):
                (place / split / f"class{label:02}").mkdir(parents=True)
                for index in range(max(1, round(share * number / CLASSES))):
                    pixels = rng.integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
                    path = place / split / f"class{label:02}" / f"{index:05}.png"
                    Image.fromarray(pixels).save(path, compress_level=0)
    shutil.rmtree(home / "prepared" / "mapped" / "images", ignore_errors=True)
    name = f"images:{place}"
    starts = [("limit=1000", "1000"), ("first", "0"), ("second", "0"), ("second, again", "0")]
    return [measure("load", name, what, limit) for what, limit in starts]


def archive(home: Path, quick: bool) -> list[dict[str, Any]]:
    """Starts with a large archive."""
    name = archive_in(home, quick)
    shutil.rmtree(home / "prepared" / "mapped" / "npz", ignore_errors=True)
    return [measure("load", name, what, "0") for what in ("first", "second")]


def training(network: str, home: Path, quick: bool) -> list[dict[str, Any]]:
    """From memory, mapped and streamed, in turn and twice."""
    name, steps = archive_in(home, quick), str(STEPS[network][quick])
    return [measure("train", name, network, how, steps, "0") for _ in range(2 - quick) for how in HOW]


def limited(home: Path, quick: bool) -> list[dict[str, Any]]:
    """Mapped and streamed within less memory than the examples take."""
    name, rows = archive_in(home, quick), []
    try:
        CGROUP.mkdir(exist_ok=True)
        (CGROUP / "memory.limit_in_bytes").write_text(str(LIMIT))
    except OSError:
        return []
    for how in ("streamed, cold", "mapped"):
        steps = str(STEPS["linear"][quick])
        with contextlib.suppress(subprocess.TimeoutExpired):  # it reads a page for each example, and more
            rows.append(measure("train", name, "linear", how, steps, str(LIMIT), within=CGROUP))
    CGROUP.rmdir()
    return rows


def grains(home: Path, quick: bool) -> list[dict[str, Any]]:
    """Batches of google/grain out of the mapped copy, shuffled in windows, that nobody trains on."""
    try:
        import grain
    except ImportError:
        return []
    data, number = fv.data.load(archive_in(home, quick)), BATCH * STEPS["linear"][quick]

    class Rows:
        def __len__(self) -> int:
            return len(data.train)

        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            return data.train.images[index], data.train.labels[index]

    rows = []
    for threads in (0, 1, 2, 4):
        made = grain.experimental.WindowShuffleMapDataset(grain.MapDataset.source(Rows()), window_size=40_000, seed=0)
        reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=500 if threads else 0)
        batches = iter(made.to_iter_dataset(reading).batch(BATCH))
        next(batches)
        began = time.perf_counter()
        for _ in range(number // BATCH // 20):
            next(batches)
        rows.append({"threads": threads, "rate": BATCH * (number // BATCH // 20) / (time.perf_counter() - began)})
    return rows


def measure(what: str, *rest: str, within: Path | None = None) -> dict[str, Any]:
    """What a process of its own measures, in a control group perhaps."""

    def enter() -> None:
        if within is not None:
            (within / "cgroup.procs").write_text(str(os.getpid()))

    words = [sys.executable, __file__, "--measure", what, *rest]
    done = subprocess.run(
        words, stdout=subprocess.PIPE, text=True, check=True, timeout=LONGEST if within else None, preexec_fn=enter
    )
    found = json.loads(done.stdout.splitlines()[-1])
    print(found, flush=True)
    return found


def archive_in(home: Path, quick: bool) -> str:
    """The name of an archive of noise, which is made a part at a time."""
    place, rng = home / f"archive-{EXAMPLES[quick]}", np.random.default_rng(0)
    if not place.exists():
        place.mkdir(parents=True)
        for split, number in (("train", EXAMPLES[quick]), ("test", 500)):
            header = {"descr": "|u1", "fortran_order": False, "shape": (number, SIDE, SIDE, 3)}
            with zipfile.ZipFile(place / f"{split}.npz", "w") as packed:
                with packed.open("x.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array_header_1_0(file, header)
                    for start in range(0, number, 10_000):
                        rows = min(10_000, number - start)
                        file.write(rng.integers(256, size=(rows, SIDE, SIDE, 3), dtype=np.uint8).tobytes())
                with packed.open("y.npy", "w") as file:
                    np.lib.format.write_array(file, rng.integers(10, size=number))
    return f"npz:{place}"


# --- in a process of its own -----------------------------------------------------------------------------------------


def loaded(name: str, what: str, limit: str) -> Start:
    """Load a data set."""
    began = time.perf_counter()
    data = fv.data.load(name, limit=int(limit) or None)
    seconds = time.perf_counter() - began
    started = time.clock_gettime(time.CLOCK_BOOTTIME) - started_at()
    number = sum(map(len, data.splits.values()))
    return Start(what, seconds, started, *own_memory(), number, (*data.loading_notes, *data.source.notes))


def trained(name: str, network: str, how: str, steps: str, limit: str) -> Trained:
    """Train for some steps, and see how many examples a second that makes."""
    fv.runtime.prepare()
    data = streamed(fv.data.load(name, stream=False), how.startswith("streamed"))
    if how == "memory":
        train = fv.data.Split(copy_of(data.train.images), data.train.labels)
        data = dataclasses.replace(data, train=train)
    keep_in_cache(data.train.images, wanted=not how.endswith("cold") and limit == "0")
    model = fv.models.create(network, input_shape=data.input_shape, num_classes=data.num_classes)
    recipe = fv.Recipe(steps=int(steps), batch_size=BATCH, learning_rate=0.01)
    times: list[tuple[int, float]] = []
    memory: list[tuple[int, int]] = []

    def look(progress: Progress) -> None:
        times.append((progress.step, time.perf_counter()))
        if progress.step == progress.steps and not memory:
            memory.append(own_memory())

    fv.fit(model, data, recipe, callbacks=[look])
    first = next(each for each in times if each[0] >= recipe.total_steps(len(data.train)) // 8)
    last = next(each for each in times if each[0] == recipe.total_steps(len(data.train)))
    return Trained(network, how, int(limit), BATCH * (last[0] - first[0]) / (last[1] - first[1]), *memory[0])


def copy_of(images: np.ndarray) -> np.ndarray:
    """A copy in the memory of the process, on a boundary from which JAX takes it as it is."""
    copy = empty(images.shape, images.dtype)
    copy[...] = images
    return copy


def keep_in_cache(images: np.ndarray, *, wanted: bool) -> None:
    """Have the kernel read the file of mapped images, or drop what it keeps of it."""
    file = map_of(images)
    if file is None or file.filename is None:
        return
    with open(file.filename, "rb") as opened:
        if wanted:
            while opened.read(2**24):
                pass
        else:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def own_memory() -> tuple[int, int]:
    """Bytes of this process that are in no file, and those that no other process has and were written to."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    rollup = dict(line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return (1024 * int(status["RssAnon"].split()[0]), 1024 * int(rollup["Private_Dirty"].split()[0]))


def started_at() -> float:
    """When this process began, in seconds since the machine did."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


# --- the page --------------------------------------------------------------------------------------------------------


def sections(found: dict[str, Any]) -> Iterator[str]:
    """What results.json holds, as tables."""
    for part, title in (("folder", "A folder of images"), ("archive", "An archive")):
        rows = [
            (
                f"{one['what']}, {one['examples']:,} examples",
                f"{one['seconds']:.2f} s",
                f"{one['whole']:.2f} s",
                megabytes(one["private"]),
                megabytes(one["dirty"]),
            )
            for one in found.get(part, ())
        ]
        header = ("start", "`load`", "from the process's start", "RssAnon", "Private_Dirty")
        yield f"## {title}\n\n{markdown_table(header, rows)}\n" if rows else ""
    rows = [
        (
            one["network"],
            one["how"],
            megabytes(one["limit"]) if one["limit"] else "none",
            f"{one['rate']:,.0f}",
            megabytes(one["private"]),
            megabytes(one["dirty"]),
        )
        for part in ("wide_cnn", "linear", "limited")
        for one in found.get(part, ())
    ]
    header = ("network", "examples are", "limit of memory", "examples a second", "RssAnon", "Private_Dirty")
    about = (
        f"{EXAMPLES[0]:,} images of {SIDE} x {SIDE} x 3, 4.3 GB, in batches of {BATCH}. Memory: held by the process. "
        "Mapped: all examples in a new order. Streamed: in blocks. Cold: the kernel has dropped the copy before. What "
        f"did not end within {LONGEST} s is left out."
    )
    yield f"## Training\n\n{markdown_table(header, rows)}\n\n{about}\n" if rows else ""
    rows = [(f"{one['threads']}", f"{one['rate']:,.0f}") for one in found.get("grain", ())]
    about = (
        "google/grain hands out examples of the same mapped copy, shuffled in windows of 40,000; nobody trains on them."
    )
    yield f"## grain\n\n{about}\n\n{markdown_table(('threads', 'examples a second'), rows)}\n" if rows else ""


def megabytes(size: int) -> str:
    """ "217 MB"."""
    return f"{size / 2**20:,.0f} MB"


if __name__ == "__main__":
    main()
