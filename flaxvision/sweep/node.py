"""What a task of a Ray cluster does: it trains trials on its node, which need not see a file of who sends them.

Data, starting weights, code of the user's own and settings come with the task; records, weights and histories go back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import pickle
import queue
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self

from flaxvision import __version__, runtime
from flaxvision._files import cache_folder, write_atomically
from flaxvision._own_code import code_of, refresh, take_copies
from flaxvision.errors import UserError
from flaxvision.sweep.files import DataFolders, GivenData, RunFiles
from flaxvision.sweep.finished import Finished
from flaxvision.sweep.keeping import own_functions
from flaxvision.sweep.lock import UNKNOWN, filled_by
from flaxvision.sweep.own_code import copies_wanted
from flaxvision.sweep.own_cores import own_cores
from flaxvision.sweep.records import checksum
from flaxvision.sweep.work import Cohort
from flaxvision.training.callbacks import Progress

if TYPE_CHECKING:
    import ray

    from flaxvision.data import Dataset
    from flaxvision.sweep.parts import Part
    from flaxvision.training.callbacks import Callback

UNUSED = 90 * 86_400.0  # seconds after which what a sweep has sent is deleted
_taken: dict[str, Sent] = {}  # what this process has taken up, by its key


@dataclasses.dataclass(frozen=True, slots=True)
class Sent:
    """What all tasks of a sweep read beside their data."""

    directory: Path  # the run directory, absolute
    part: Part | None  # which is filled
    holder: str  # what it says there of who fills it: a node that reads the same sees that folder
    inputs: Mapping[str, bytes]  # path below it -> content: starting weights and code of the user's own
    codes: Mapping[str, object]  # function of the user's own -> its code, as `flaxvision._own_code.code_of` gives it
    settings: Mapping[str, runtime.Setting]  # of JAX, in the process that fills the run
    version: str  # of flaxvision there

    @classmethod
    def by(cls, cohorts: Sequence[Cohort]) -> Self:
        """What this process sends for cohorts, as it is now."""
        files = cohorts[0].files
        directory = files.directory.absolute()
        functions = own_functions(trial for cohort in cohorts for trial in cohort.trials)
        codes = {name: code_of("code", name) for name in functions}
        inputs = {str(path.relative_to(directory)): path.read_bytes() for path in _inputs(RunFiles(directory))}
        holder = filled_by(directory, files.part)
        return cls(directory, files.part, holder, inputs, codes, runtime.handed_on(), __version__)

    @property
    def key(self) -> str:
        """Equal for what is equal in one process."""
        return checksum(pickle.dumps(self))

    @property
    def copies(self) -> Path:
        """The folder on a node that holds the inputs, of all its processes and as long as it is not deleted."""
        return cache_folder() / "sent" / checksum(pickle.dumps(sorted(self.inputs.items())))


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """How far some trials are that train together."""

    ids: tuple[str, ...]
    progress: Progress


@dataclasses.dataclass(frozen=True, slots=True)
class _Part(Cohort):
    """Trials of a cohort that train together on a node."""

    @property
    def name(self) -> str:
        """Its first trial's id, as which trials these are depends on the node's memory and on what was lost before.

        So what it keeps goes when that trial is over, whoever else was with it.
        """
        return self.trials[0].id


Said = Told | str | list[Finished]  # how far, what there is to say of a trial, and trials that ended


def train(
    cohort: Cohort, dataset: Dataset, stamp: str, key: str, sent: Sequence[ray.ObjectRef[Sent]], on_core: bool
) -> Iterator[Said]:
    """Train a cohort's trials as "auto" would on this node: on a GPU as many together as its memory holds.

    Args:
        cohort: The trials, of one program.
        dataset: That of the trials.
        stamp: Its checksum; two are equal if these are.
        key: Equal as long as `sent` is.
        sent: What they read beside it; only fetched if this process has something else.
        on_core: Whether a single core of the node is the task's.
    """
    import jax

    from flaxvision.sweep.arrange import arrange
    from flaxvision.sweep.executors import execute
    from flaxvision.sweep.workers import every_so_often

    if on_core:
        _take_core()
    home = _take(key, sent)
    _prepare()
    seen = home.holder != UNKNOWN and filled_by(home.directory, home.part) == home.holder
    files = RunFiles(home.directory if seen else home.copies, DataFolders(loaded=GivenData(stamp, None, dataset)))
    every = cohort.checkpoint_every if seen else math.inf
    platform = jax.default_backend()
    arranged = arrange(cohort.trials, files, "auto", platform)
    if not on_core and platform == "cpu":
        yield "is trained on the CPU of a node with a GPU, of which JAX there knows nothing: install jax[cuda12] on it"
    if every != cohort.checkpoint_every:
        yield "keeps no checkpoints, nor do others on nodes that do not see the run's folder"
    parts = [_Part(trials, files, arranged.mode, cohort.threshold, every) for trials in arranged.cohorts]
    said: queue.SimpleQueue[Said | None] = queue.SimpleQueue()

    def callbacks(part: Cohort) -> list[Callback]:
        ids = tuple(trial.id for trial in part.trials)
        return [every_so_often(lambda progress: said.put(Told(ids, progress)))]

    def work() -> None:
        for _, finished in execute(parts, arranged.executor, callbacks):
            said.put(finished)

    with ThreadPoolExecutor(1) as pool:  # callbacks are called, and a generator has to yield
        working = pool.submit(work)
        working.add_done_callback(lambda _: said.put(None))
        while (each := said.get()) is not None:
            yield each
        working.result()


@functools.cache
def _take_core() -> contextlib.ExitStack:
    """Stay on a core that no other such process has, until this one ends; before JAX counts the cores.

    Ray says how many cores a task has, and not which.
    """
    held = contextlib.ExitStack()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, held.enter_context(own_cores(1)))
    return held


@functools.cache
def _prepare() -> None:
    """Prepare this process for training, once."""
    runtime.prepare()


def _take(key: str, sent: Sequence[ray.ObjectRef[Sent]]) -> Sent:
    """What a sweep sends, taken up in place of what an earlier one sent to this process."""
    import ray

    if key not in _taken:
        (found,) = ray.get(list(sent))
        if found.version != __version__:
            raise UserError(
                f"it has flaxvision {__version__}, and the process that fills the run {found.version}: install the "
                "same on every node"
            )
        _delete_unused(found.copies.parent)
        for path, content in found.inputs.items():
            copy = found.copies / path
            if not copy.exists() or copy.read_bytes() != content:
                copy.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(copy, content)
        if found.inputs:
            os.utime(found.copies)  # it is in use
        own = runtime.handed_on()  # of which the platforms are this node's affair
        runtime.hand_on({**found.settings, "jax_platforms": own["jax_platforms"]})
        take_copies(None)  # an earlier sweep's, with which the node's own code is not to be compared
        for function in found.codes:
            refresh(function)
        take_copies(copies_wanted(found.codes, RunFiles(found.copies).code, found.codes)[0])
        _taken.clear()
        _taken[key] = found
    return _taken[key]


def _inputs(files: RunFiles) -> Iterable[Path]:
    found = [files.pretrained, *files.code.rglob("*"), *files.start("").parent.rglob("*")]
    return sorted(path for path in found if path.is_file())


def _delete_unused(folder: Path) -> None:
    """Delete what sweeps of long ago have sent to this node."""
    with contextlib.suppress(OSError):  # another task is at it, or there is nothing
        for each in folder.iterdir():
            if time.time() - each.stat().st_mtime > UNUSED:
                shutil.rmtree(each, ignore_errors=True)
