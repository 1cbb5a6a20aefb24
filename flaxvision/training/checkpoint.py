"""Keeps the newest state of a run on disk (orbax), so that a killed run goes on as if nothing had happened."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import shutil
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from flaxvision._files import write_atomically
from flaxvision.errors import UserError
from flaxvision.identity import AROUND, Identity, differences, listed
from flaxvision.training.identity import with_defaults
from flaxvision.training.members import PyTree
from flaxvision.training.selection import Best
from flaxvision.training.step import StepRecord

if TYPE_CHECKING:
    from orbax.checkpoint import CheckpointManager

Arrays = dict[str, np.ndarray]
Like = Callable[[int], dict[str, PyTree]]
About = dict[str, Any]  # what a checkpoint holds beside its arrays, as JSON
CHECKSUM = "checksum"  # a file in each checkpoint
CALLS, SLACK = 3, 2.0  # the next call is taken to last as long as the longest of so many, times this
OF_BEST = ("value", "at", "epoch", "stopped")  # fields of `Best` that are written as JSON


@dataclasses.dataclass(frozen=True, slots=True)
class Keep:
    """Where a run keeps its state, and how often."""

    folder: Path
    every: float = 0.0  # seconds between two; 0: at the end of every epoch
    # Set by a caller that knows what the run is, and to whom the folder is a convenience: what it holds of another run,
    # or damaged, begins anew, and a folder that cannot be written is no error. What becomes of it is said.
    identity: Identity | None = None


@dataclasses.dataclass(slots=True)
class Kept:
    """A run, or a cohort, between two updates."""

    step: int  # updates done in all
    epochs: int  # that are over
    updates: int  # of the next one that are done
    trees: dict[str, PyTree]  # "states" and, within an epoch, "sums" and "records"
    histories: list[Arrays]  # one a member
    best: list[Best]  # likewise
    seconds: tuple[float, float]  # so far, and of these for compiling
    ends: list[tuple[int, float]]  # of each epoch that is over, its last update and the seconds until then
    members: tuple[int, ...]  # those that were not dropped
    rows: tuple[int, ...]  # whose the first rows of the states are

    @property
    def fewer(self) -> dict[str, tuple[int, ...]]:
        """Members and rows where they are not all, which they were in an earlier version."""
        everybody = tuple(range(len(self.best)))
        return {name: x for name, x in (("members", self.members), ("rows", self.rows)) if x != everybody}

    def check(self, total_steps: int, steps_per_epoch: int) -> None:
        """Raise `UserError` unless it is the beginning of a run of so many updates."""
        epochs = self.epochs + bool(self.updates)
        if self.step > total_steps:
            raise UserError(
                f"the checkpoint is {self.step} updates on ({epochs} epochs) but the recipe ends after {total_steps}: "
                "give a longer duration, or another folder"
            )
        if not self.updates and self.step < min(epochs * steps_per_epoch, total_steps):
            raise UserError(
                f"the checkpoint ends after {self.step} updates, within epoch {epochs}, and cannot be continued from "
                "there: give the same duration, or another folder"
            )

    def records(self, steps: int) -> StepRecord:
        """Those of an epoch of `steps` steps, zero where nothing is known."""

        def of_length(rows: np.ndarray) -> np.ndarray:
            return np.concatenate([rows[:steps], np.zeros((max(0, steps - len(rows)), *rows.shape[1:]), rows.dtype)])

        return jax.tree.map(of_length, self.trees["records"])


class Checkpoints:
    """The checkpoints of one run in one folder; `say` is told what becomes of one that is a convenience.

    Raises:
        UserError: If the folder cannot be used, and is no convenience.
    """

    def __init__(self, keep: Keep, identity: Identity, say: Callable[[str], object]):
        self.keep, self.say, self.convenience = keep, say, keep.identity is not None
        self.identity = json.loads(json.dumps(identity))
        self.on = True
        self.last = self.asked = time.monotonic()  # when a state was last kept, and last could be
        self.saving = 0.0  # seconds that it took to keep the last one
        self.calls: collections.deque[float] = collections.deque(maxlen=CALLS)  # seconds that the last ones took
        self.manager: CheckpointManager | None = None
        if not self.convenience:
            self._make()

    def wanted(self, *, over: bool) -> bool:
        """Whether it is time to keep the state; `over`: the caller gets the run back now, who may leave it so."""
        if over and not self.convenience:
            return True
        now = time.monotonic()
        self.calls.append(now - self.asked)
        self.asked = now
        # After the next call the state must be on disk within the interval, on a busy machine too. Where keeping it
        # takes most of that, it trains for as long before, or for the interval if that is shorter.
        elapsed = now - self.last
        pays = elapsed >= min(self.saving, self.keep.every)
        return self.on and pays and elapsed + SLACK * (max(self.calls) + self.saving) >= self.keep.every

    def save(self, kept: Kept) -> None:
        """Keep a state."""
        began = time.monotonic()
        try:
            self._save(kept)
        except Exception as error:
            if not self.convenience:
                raise
            self.on = False
            self.say(f"keeps no checkpoint: {_reason(error)}")
        self.last = self.asked = time.monotonic()
        self.saving = self.last - began

    def restore(self, like: Like) -> Kept | None:
        """The newest state; None without one.

        Args:
            like: Trees of the structures that those of so many rows have; "best" is the selected state.

        Raises:
            UserError: If the folder holds the checkpoints of another run, or damaged ones only.
        """
        try:
            return self._restore(like) if self.keep.folder.exists() else None
        except Exception as error:
            if not self.convenience:
                raise
            self.say(f"begins anew: {_reason(error)}")
            self.close()
            if self.keep.folder.is_dir():  # what is there must not be taken for this run's
                shutil.rmtree(self.keep.folder, ignore_errors=True)
            return None

    def close(self) -> None:
        """Let go of the folder."""
        if self.manager is not None:
            self.manager.close()
            self.manager = None

    def _make(self) -> None:
        try:
            self.keep.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot keep checkpoints in {self.keep.folder}: {error.strerror}; give another folder"
            ) from error

    def _open(self) -> CheckpointManager:
        import orbax.checkpoint as ocp

        if self.manager is None:
            self._make()
            options = ocp.CheckpointManagerOptions(
                max_to_keep=2, cleanup_tmp_directories=True, enable_async_checkpointing=False
            )
            self.manager = ocp.CheckpointManager(self.keep.folder.absolute(), options=options)
        return self.manager

    def _save(self, kept: Kept) -> None:
        import orbax.checkpoint as ocp

        arrays = _arrays(kept)
        about = {
            "identity": self.identity,
            **{name: getattr(kept, name) for name in ("step", "epochs", "updates", "seconds", "ends")},
            "best": [{name: getattr(best, name) for name in OF_BEST} for best in kept.best],
            **kept.fewer,
            "histories": [list(rows) for rows in kept.histories],  # as a tree of arrays loses its order
            "empty": {name: (x.shape, str(x.dtype)) for name, x in arrays.items() if not x.size},
        }
        tree = ocp.args.StandardSave({name: x for name, x in arrays.items() if x.size})
        self._open().save(kept.step, args=ocp.args.Composite(tree=tree, about=ocp.args.JsonSave(about)))
        folder = self.keep.folder / str(kept.step)
        write_atomically(folder / CHECKSUM, str(_checksum(folder)))

    def _restore(self, like: Like) -> Kept | None:
        self._make()
        folder = self.keep.folder
        found = sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda p: int(p.name))[::-1]
        damaged = list(itertools.takewhile(lambda path: not _is_whole(path), found))
        if len(damaged) < len(found):
            import orbax.checkpoint as ocp

            for newer in damaged:  # or it would count as the newest for ever
                shutil.rmtree(newer, ignore_errors=True)
            step, manager = int(found[len(damaged)].name), self._open()
            about = manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore())).about
            tree = manager.restore(step, args=ocp.args.Composite(tree=ocp.args.StandardRestore())).tree
            empty = {name: np.empty(shape, dtype) for name, (shape, dtype) in about["empty"].items()}
            self._check(about["identity"])
            return _kept(about, {**{name: np.asarray(x) for name, x in tree.items()}, **empty}, like)
        if self.convenience and damaged:
            raise UserError("the checkpoint is damaged")
        if any((path / CHECKSUM).exists() for path in damaged):  # else a first one was not finished
            raise UserError(f"the checkpoints in {folder} are damaged: delete that folder to begin anew")
        return None

    def _check(self, held: Identity) -> None:
        changed = differences(*({**with_defaults(each), AROUND: 0} for each in (held, self.identity)))
        # Of another network the initial weights differ anyway.
        changed = [each for each in changed if "initial weights" not in each] or changed
        if changed:
            moved = differences(held.get(AROUND), self.identity.get(AROUND))
            why = f"{listed(changed)}{f' (and {listed(moved)})' if moved else ''}"
            if self.convenience:
                raise UserError(f"the checkpoint is of something else: {why}")
            raise UserError(f"{self.keep.folder} holds checkpoints of another run: {why}: give another folder")


def _arrays(kept: Kept) -> Arrays:
    """All arrays on the host by name; those of trees by number: container types are the running code's business."""
    trees = {**kept.trees, **{f"best{k}": best.state for k, best in enumerate(kept.best)}}
    named = {
        **{f"{name}.{i}": x for name, tree in trees.items() for i, x in enumerate(jax.tree.leaves(tree))},
        **{f"history{k}.{name}": x for k, rows in enumerate(kept.histories) for name, x in rows.items()},
    }
    return {name: np.array(x) for name, x in named.items()}  # copies, as the next update takes the state's memory


def _kept(about: About, arrays: Arrays, like: Like) -> Kept:
    parts: dict[str, Arrays] = collections.defaultdict(dict)
    for name, array in arrays.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = array

    def shaped(part: str, tree: PyTree) -> PyTree:
        found = parts[part]
        return jax.tree.unflatten(jax.tree.structure(tree), [found[str(i)] for i in range(len(found))])

    everybody = range(len(about["best"]))
    members, rows = (tuple(about.get(name, everybody)) for name in ("members", "rows"))
    shapes = like(len(rows))
    trees = {name: shaped(name, tree) for name, tree in shapes.items() if name in parts}
    best = [
        Best(**one, state=shaped(f"best{k}", shapes["best"]) if f"best{k}" in parts else None)
        for k, one in enumerate(about["best"])
    ]
    histories = [{name: parts[f"history{k}"][name] for name in names} for k, names in enumerate(about["histories"])]
    total, compiling = about["seconds"]
    unknown = [(0, 0.0)] * about["epochs"]  # an earlier version did not count
    ends = [(step, seconds) for step, seconds in about.get("ends", unknown)]
    seconds, done = (total, compiling), (about["step"], about["epochs"], about["updates"])
    return Kept(*done, trees, histories, best, seconds, ends, members, rows)


def _is_whole(folder: Path) -> bool:
    """Whether a checkpoint is as it was written: of damage orbax tells in many ways, if at all."""
    try:
        return (folder / CHECKSUM).read_bytes() == str(_checksum(folder)).encode()
    except OSError:
        return False


def _checksum(folder: Path) -> int:
    """Of all files in a folder, by name and content."""
    value = 0
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != CHECKSUM:
            value = zlib.crc32(path.read_bytes(), zlib.crc32(str(path.relative_to(folder)).encode(), value))
    return value


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text[:100]}"
