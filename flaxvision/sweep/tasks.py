"""Cohorts as tasks of a Ray cluster, whose nodes share no file with this machine.

What trials read is put into the cluster, what they leave comes back, and this process alone writes; `node` is what a
task does. Ray starts no task again by itself: a stream of progress begins anew, and who takes it in has to know.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxvision._interrupts import stop_if_asked
from flaxvision.data import Dataset, Split
from flaxvision.errors import UserError
from flaxvision.sweep import node
from flaxvision.sweep.cluster import ClusterGone, Nodes, connect, line_of, nodes, of_node
from flaxvision.sweep.executors import failure, in_turn, reason
from flaxvision.sweep.files import GivenData
from flaxvision.sweep.finished import Finished
from flaxvision.sweep.inputs import dataset_of
from flaxvision.sweep.workers import EVERY
from flaxvision.training.callbacks import Progress

if TYPE_CHECKING:
    import ray

    from flaxvision.sweep.config import DataConfig
    from flaxvision.sweep.executors import Callbacks, Trained
    from flaxvision.sweep.trials import Trial
    from flaxvision.sweep.work import Cohort
    from flaxvision.training.callbacks import Callback

TRIES = 4  # of trials whose worker or node is lost, or cannot train
AHEAD = 2  # tasks handed out for each core and GPU, so that none waits for this process
LOOK = 1.0  # seconds between two looks at what the cluster has
DATA_SETS = 2  # that are kept in the cluster for tasks to come
HANDED_ON = ("FLAXVISION_", "JAX_", "XLA_")  # how variables of the environment begin that nodes have as this process
_BEGINNING = Progress(0, 1, 1, 0)


def run_on_cluster(cohorts: Sequence[Cohort], callbacks: Callbacks) -> Trained:
    """Train each cohort by a task of a GPU or, where the cluster has none, of a core.

    Cores of nodes without a GPU train single trials of cohorts that no GPU has begun; what they are at when nothing is
    left for a GPU, that one takes over. Trials whose node or worker is lost, or whose node cannot train, are trained
    again elsewhere, `TRIES` times in all.

    Raises:
        UserError: If no node can train, or the cluster is gone.
    """
    import ray

    connect()
    ready, held = in_turn(cohorts)
    tasks = _Tasks(callbacks)
    try:
        tasks.add(ready)
        while tasks.left:
            stop_if_asked()
            tasks.hand_out()
            for cohort, finished in tasks.take_in():
                yield cohort, finished
                if cohort.pretrains:
                    tasks.add(held)
    except (ClusterGone, ray.exceptions.RayError) as error:  # errors of tasks are taken in
        why = str(error) if isinstance(error, ClusterGone) else f"Ray says {line_of(error)}"
        raise UserError(
            f"{why}: what has ended is kept; when there is a cluster again: flaxvision resume "
            f"{cohorts[0].files.directory}"
        ) from error
    finally:
        tasks.cancel()


@dataclasses.dataclass(slots=True, eq=False)
class _Open:
    """A cohort that is not over, and who is told of it."""

    cohort: Cohort
    listeners: tuple[Callback, ...]
    shares: dict[str, float]  # trial's id -> how much of it is done
    last: Progress = _BEGINNING

    def tell(self, ids: Sequence[str], progress: Progress) -> None:
        """Some of its trials have come further."""
        self.shares |= dict.fromkeys(ids, progress.step / progress.steps)
        if len(ids) < len(self.shares):
            step = round(sum(self.shares.values()) / len(self.shares) * progress.steps)
            progress = dataclasses.replace(progress, step=step, metrics=())
        self.last = dataclasses.replace(progress, examples=0, metrics=(), note="")
        for listener in self.listeners:
            listener(progress)

    def note(self, line: str) -> None:
        """There is something to say of it."""
        for listener in self.listeners:
            listener(dataclasses.replace(self.last, note=line))


@dataclasses.dataclass(slots=True, eq=False)
class _Task:
    """Trials of a cohort that one task trains."""

    of: _Open
    trials: tuple[Trial, ...]  # those that are not over
    on_gpu: bool = False
    heard: bool = False  # whether it has said anything: else it may still wait for its node
    lost: int = 0  # times that Ray lost it, or its node could not train


class _Tasks:
    """The tasks of a sweep."""

    def __init__(self, callbacks: Callbacks):
        self.callbacks = callbacks
        self.waiting: collections.deque[_Task] = collections.deque()
        self.running: dict[ray.ObjectRefGenerator, _Task] = {}
        self.data: dict[DataConfig, tuple[ray.ObjectRef, str]] = {}
        self.noted: set[str] = set()
        self.looked, self.nodes = -LOOK, Nodes()
        self.failing: set[str] = set()  # addresses of nodes that could not train
        self.heard = False  # whether any task has said anything

    @property
    def left(self) -> bool:
        """Whether any are not over."""
        return bool(self.waiting or self.running)

    def add(self, cohorts: Sequence[Cohort]) -> None:
        """Train these, too; what they read is there."""
        import ray

        if cohorts:
            sent = node.Sent.by(cohorts)
            self.key, self.sent = sent.key, [ray.put(sent)]  # a list is not fetched for every task
        for cohort in cohorts:
            shares = dict.fromkeys((trial.id for trial in cohort.trials), 0.0)
            self.waiting.append(_Task(_Open(cohort, tuple(self.callbacks(cohort)), shares), cohort.trials))

    def hand_out(self) -> None:
        """Start as many tasks as there is room for."""
        if time.monotonic() >= self.looked + LOOK:
            self._look()
        gpus, cores = self.nodes.gpus, self.nodes.cores
        if not gpus and not cores:
            cores = 1  # a cluster that grows does so for tasks that wait
            self._note(
                next(iter((*self.running.values(), *self.waiting))),
                "waits: the cluster has no GPU and no core for it; add a node: ray start --address HOST:PORT",
            )
        on_gpus, on_cores = (self._within(AHEAD * gpus, on_gpu=True), self._within(AHEAD * cores, on_gpu=False))
        if on_cores and on_gpus < gpus and not self.waiting:
            self._take_over()
            on_cores = 0
        while self.waiting and on_gpus < AHEAD * gpus:
            self._start(self.waiting.popleft(), on_gpu=True)
            on_gpus += 1
        while self.waiting and on_cores < AHEAD * cores:
            self._start(self._single(), on_gpu=False)
            on_cores += 1

    def _look(self) -> None:
        """See what the cluster has; where all nodes but failing ones are gone, these are as good as others."""
        self.nodes = nodes(self.failing)
        if self.failing and not self.nodes.gpus and not self.nodes.cores:
            self.failing.clear()
            self.nodes = nodes()
        self.looked = time.monotonic()

    def _within(self, room: int, *, on_gpu: bool) -> int:
        """How many tasks GPUs have, or cores, once those are taken back for which there is no room any more.

        They would wait in Ray for a node that is gone. Those that have begun end or are lost by themselves.
        """
        there = [stream for stream, task in self.running.items() if task.on_gpu == on_gpu]
        waits = [stream for stream in there if not self.running[stream].heard]
        back = waits[::-1][: max(0, len(there) - room)]  # those handed out last
        for stream in back:
            _cancel(stream)
            self.waiting.appendleft(self.running.pop(stream))
        return len(there) - len(back)

    def take_in(self) -> Iterator[tuple[Cohort, list[Finished]]]:
        """Take in what tasks have said, waiting a moment; yields the trials that are over."""
        import ray

        for stream in self._ready():
            task = self.running[stream]
            try:
                said: node.Said = ray.get(next(stream))
            except StopIteration:
                del self.running[stream]
                if task.trials:
                    yield self._failed(task, "its task ended without it")
            except ray.exceptions.RayError as error:
                del self.running[stream]
                yield from self._lost(task, error)
            else:
                self.heard = task.heard = True
                if isinstance(said, node.Told):
                    task.of.tell(said.ids, said.progress)
                elif isinstance(said, str):
                    self._note(task, said)
                else:
                    yield self._over(task, said)

    def _ready(self) -> list[ray.ObjectRefGenerator]:
        """The streams that have something, each of which gets its turn."""
        import ray

        streams = list(self.running)
        found, _ = ray.wait(streams, num_returns=len(streams), timeout=0)
        if not found:
            found, _ = ray.wait(streams, timeout=EVERY)
        ready = set(found)
        return [stream for stream in streams if stream in ready]

    def cancel(self) -> None:
        """End what still runs."""
        for stream in self.running:
            _cancel(stream)

    def _start(self, task: _Task, *, on_gpu: bool) -> None:
        import ray

        task.on_gpu, task.heard = on_gpu, False
        cohort = dataclasses.replace(task.of.cohort, trials=task.trials)
        (dataset, stamp), variables, others = self._data_of(cohort), _environment(), self.nodes.avoided
        if on_gpu:
            needs: dict[str, Any] = {"num_cpus": 0, "num_gpus": 1}
        else:
            needs, variables = {"num_cpus": 1}, variables | {"JAX_PLATFORMS": "cpu"}
            others += self.nodes.with_gpus
        if others:
            needs["label_selector"] = {"ray.io/node-id": f"!in({','.join(others)})"}
        options = {"num_returns": "streaming", "max_retries": 0, "runtime_env": {"env_vars": variables}, **needs}
        remote = ray.remote(**options)(node.train)
        self.running[remote.remote(cohort, dataset, stamp, self.key, self.sent, not on_gpu)] = task

    def _data_of(self, cohort: Cohort) -> tuple[ray.ObjectRef, str]:
        """A cohort's data set in the cluster, with its checksum; nodes keep what their tasks need."""
        import ray

        config = cohort.trials[0].config.data
        if config not in self.data:
            dataset = dataset_of(cohort.trials[0], cohort.files)
            try:
                self.data[config] = ray.put(_plain(dataset)), GivenData.of(dataset).checksum
            except (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError) as error:
                raise UserError(
                    f"Ray cannot take the data set {config.dataset} ({reason(error)}): start it with a larger "
                    "--object-store-memory, or give a smaller limit"
                ) from error
            while len(self.data) > DATA_SETS:
                del self.data[next(iter(self.data))]
        return self.data[config]

    def _single(self) -> _Task:
        """One trial for a core: of the last cohort that waits, where GPUs begin with the first."""
        end = -1 if self.nodes.gpus else 0
        task = self.waiting[end]
        if len(task.trials) > 1:
            self.waiting[end] = dataclasses.replace(task, trials=task.trials[:-1])
        else:
            del self.waiting[end]
        return dataclasses.replace(task, trials=task.trials[-1:])

    def _take_over(self) -> None:
        """Let trials wait for a GPU that cores are at, those of a cohort together."""
        together: dict[int, _Task] = {}
        for stream, task in list(self.running.items()):
            if not task.on_gpu:
                _cancel(stream)
                del self.running[stream]
                same = together.setdefault(id(task.of), dataclasses.replace(task, trials=()))
                same.trials += task.trials
        self.waiting.extend(together.values())

    def _over(self, task: _Task, finished: list[Finished]) -> tuple[Cohort, list[Finished]]:
        ids = [each.record["id"] for each in finished]
        task.trials = tuple(trial for trial in task.trials if trial.id not in ids)
        task.of.shares |= dict.fromkeys(ids, 1.0)
        return task.of.cohort, finished

    def _lost(self, task: _Task, error: ray.exceptions.RayError) -> Iterator[tuple[Cohort, list[Finished]]]:
        """Train again what a lost node or worker was at, or a node that cannot train; no trial's own error comes so.

        Such a node is avoided, as it answers at once and all that waits would go to it.
        """
        from ray.exceptions import RayTaskError

        task.lost += 1
        why = f"Ray lost it by {line_of(error)}"
        if isinstance(error, RayTaskError):
            address, said = of_node(error)
            why = f"the node at {address} cannot train: {said}"
            self.failing.add(address)
        self._look()
        none_left = not self.failing
        if isinstance(error, RayTaskError) and not self.heard and (none_left or task.lost == TRIES):
            raise UserError(f"no node of the Ray cluster can train: {said}")
        if task.lost == TRIES:
            yield self._failed(task, f"given up after {TRIES} tries: {why}")
            return
        task.of.note(f"begins anew, as {why}")
        last = task.lost == TRIES - 1  # perhaps the fault of one of them
        for trials in [(trial,) for trial in task.trials] if last else [task.trials]:
            self.waiting.appendleft(dataclasses.replace(task, trials=trials))

    def _failed(self, task: _Task, message: str) -> tuple[Cohort, list[Finished]]:
        return self._over(task, [failure(trial, message) for trial in task.trials])

    def _note(self, task: _Task, line: str) -> None:
        """Say what holds of many trials once."""
        if line not in self.noted:
            self.noted.add(line)
            task.of.note(line)


def _cancel(stream: ray.ObjectRefGenerator) -> None:
    import ray

    with contextlib.suppress(ray.exceptions.RayError, ValueError):  # it is over, or there is no cluster any more
        ray.cancel(stream, force=True)


def _plain(dataset: Dataset) -> Dataset:
    """The same in arrays that the processes of a node share: Ray copies those of another type, such as mapped ones."""
    splits = {
        name: Split(np.asarray(split.images), np.asarray(split.labels), split.files)
        for name, split in dataset.splits.items()
    }
    return dataset.with_splits(**splits)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(HANDED_ON)}
