"""Models of one structure that train together and may be steered between epochs: dropped, changed, copied."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import jax

from flaxvision._interrupts import deferred
from flaxvision.data import Dataset
from flaxvision.errors import UserError, check_choice, check_whole
from flaxvision.layers import Chain
from flaxvision.runtime import same_draws
from flaxvision.training.callbacks import Callback
from flaxvision.training.checkpoint import Keep
from flaxvision.training.checks import check_cohort, check_numbers
from flaxvision.training.history import Result
from flaxvision.training.preparing import chosen_devices
from flaxvision.training.recipe import Recipe
from flaxvision.training.run import Run
from flaxvision.training.state import with_numbers

MODES = ("auto", "loop", "vmap")


class Population:
    """Models of one structure that train together, some epochs at a time, and may be steered in between.

    Members are called by their positions among the models given, whatever becomes of the others. Learning rates follow
    their schedules as in one run of the recipes' duration, however its epochs are parted.

    On a CPU each member trains by a program for one, which serves all of them: its numbers are those of a run of its
    own, to the bit, and dropping others compiles nothing. Vmapped members, as on an accelerator, are one program with
    as many rows as there were models, or a power of two below: those that are left move to the next such size, and the
    rows between are computed and thrown away. Members that stop early compute no more; vmapped ones where a quarter of
    the rows are left.

    Args:
        models: The models to start from, alike but for their numbers; they are not changed.
        dataset: What to train and evaluate on.
        recipes: One a model; they may differ in learning rate, in the numbers of `flaxvision.training.recipe.VARYING`,
            in seed and warm start.
        mode: "vmap" (members as one batched program), "loop" (each by a program for one, some steps of each in turn),
            or "auto": several members are vmapped on an accelerator.
        devices: "auto" for all local devices, a count, or the devices: several have some of the members each, on a CPU
            to the same bits as one, but for vmapped members, which differ by rounding; a single model's batches they
            share, as in `fit`. "batch": all local devices share each batch, of several members too.
        callbacks: As in `fit`; the `metrics` of a member that was dropped, or had stopped, are {}.
        checkpoint: As in `fit`, at the end of each `train` too. A population that finds one begins with the `epoch`,
            the `members` and the numbers that it had.

    Raises:
        UserError: As in `fit`, and if the members' structures differ.

    >>> import flaxvision as fv
    >>> data = fv.data.load("two_clusters", limit=64)
    >>> models = [fv.models.create("linear", input_shape=(2,), num_classes=2, seed=k) for k in range(4)]
    >>> recipes = [fv.Recipe(epochs=5, batch_size=16, learning_rate=0.1 * 2**k) for k in range(4)]
    >>> population = fv.training.Population(models, data, recipes)
    >>> scores = population.train(1)
    >>> population.keep(sorted(scores, key=lambda member: scores[member]["test_loss"])[:2])
    >>> scores = population.train()
    >>> {member: result.history.epochs for member, result in population.results().items()}
    {0: 5, 1: 5}
    """

    def __init__(
        self,
        models: Sequence[Chain],
        dataset: Dataset,
        recipes: Sequence[Recipe],
        *,
        mode: str = "auto",
        devices: str | int | Sequence[jax.Device] = "auto",
        callbacks: Iterable[Callback] = (),
        checkpoint: str | Path | Keep | None = None,
    ):
        check_choice("mode", mode, MODES)
        check_cohort(models, recipes)
        spread = len(models) > 1 and devices != "batch"
        chosen = chosen_devices(devices)[: len(models) if spread else None]
        stacked = mode == "vmap" or (mode == "auto" and len(models) > 1 and chosen[0].platform != "cpu")
        self._precision = "highest" if recipes[0].precision == "highest" else None
        with self._settings():
            self._run = Run(models, dataset, recipes, chosen, tuple(callbacks), stacked=stacked, spread=spread)
        if checkpoint is not None:
            with self._settings(), self._run.closing():
                self._run.go_on(checkpoint if isinstance(checkpoint, Keep) else Keep(Path(checkpoint)))

    @property
    def members(self) -> tuple[int, ...]:
        """Those there are, by their positions among the models given."""
        return self._run.members

    @property
    def running(self) -> tuple[int, ...]:
        """Those of them that have not stopped early."""
        return self._run.running

    @property
    def epoch(self) -> int:
        """How many epochs are over."""
        return self._run.epoch

    @property
    def epochs(self) -> int:
        """How many there are in all, by the recipes' duration."""
        return self._run.plan.epochs

    @property
    def seconds(self) -> dict[int, float]:
        """Seconds that members have trained for, dropped ones too and before an interruption, without compiling."""
        run, found = self._run, {}
        for member, track in enumerate(run.tracks):
            epochs = track.history.epochs
            dropped = run.ends[epochs - 1][1] if epochs else 0.0
            until = run.clock.total if member in run.members else dropped
            found[member] = max(0.0, until - run.clock.compiling)
        return found

    def train(self, epochs: int | None = None) -> dict[int, dict[str, float]]:
        """Train so many more epochs, or until the end; a callback, or all members stopping, may end it sooner.

        Returns:
            The metrics of each member's newest epoch by name, such as "val_loss" and "test_top1".

        Raises:
            UserError: If there are not so many epochs left.
        """
        left = self.epochs - self.epoch
        if epochs is None:
            epochs = left
        else:
            check_whole("epochs", epochs, 1)
        if epochs > left:
            most = f"give at most {left}, or" if left else "make"
            raise UserError(
                f"train({epochs}) goes beyond the recipes' duration: {self.epoch} epochs of {self.epochs} are over; "
                f"{most} a population of longer recipes"
            )
        with self._settings(), self._run.closing():
            self._run.train(self.epoch + epochs)
        scores = self.scores()
        return {member: scores[member] for member in self.members}

    def scores(self, epoch: int | None = None, *, selected: bool = False) -> dict[int, dict[str, float]]:
        """The metrics of all members that trained, those that were dropped too, by name.

        Args:
            epoch: At the end of which epoch, from 1: of a member that had stopped before, its last one, and none of one
                that was dropped before. None for the newest of each.
            selected: Those of the epoch until then whose parameters are kept: with `select="best"` the best one.

        Raises:
            UserError: For an epoch that is not over.
        """
        if epoch is not None and not 1 <= epoch <= self.epoch:
            raise UserError(f"scores({epoch}) asks for an epoch that is not over: {self.epoch} of {self.epochs} are")
        wanted, found = self.epoch if epoch is None else epoch, {}
        for member, track in enumerate(self._run.tracks):
            if track.history.epochs and (epoch is None or track.knows(epoch)):
                at = track.selected(wanted, self._run.selection) if selected else wanted
                found[member] = track.history.row(at)
        return found

    def keep(self, members: Iterable[int]) -> None:
        """Drop all members but these; what is dropped leaves no result.

        Raises:
            UserError: For a member that is not there, or without any.
        """
        kept = self._known(members)
        if not kept:
            raise UserError("keep() got no member, which would drop all: name one at least")
        with self._settings():
            self._run.keep(kept)

    def set(self, member: int, **numbers: float) -> None:
        """Give a member other numbers from now on: its learning rate, or others of `VARYING` that its recipe has.

        Raises:
            UserError: For a number that the program does not read, a value that is not allowed, or a member that is not
                there or has stopped.

        >>> population.set(3, learning_rate=0.05, momentum=0.8)  # doctest: +SKIP
        """
        self._check_running(member)
        track, states = self._run.tracks[member], self._run.states
        recipe = check_numbers(track.recipe, numbers)
        with self._settings():
            row = self._run.rows.index(member)
            self._run.become(states.edit(row, lambda state: with_numbers(state, numbers)))
        track.recipe = recipe

    def copy(self, source: int, target: int) -> None:
        """Make one member what another one is: its state, numbers, history and selection, but not its seed.

        A target that had stopped goes on.

        Raises:
            UserError: If one of them is not there, or the source has stopped.
        """
        self._check_running(source)
        self._known([target])
        if source != target:
            with self._settings():
                self._run.copy(source, target)

    def results(self, members: Iterable[int] | None = None) -> dict[int, Result]:
        """What members have come to so far; all there are, or these.

        Raises:
            UserError: For a member that is not there, or before the first epoch.
        """
        wanted = self.members if members is None else self._known(members)
        if not self.epoch:
            raise UserError("a population has no results before its first epoch: call train()")
        with self._settings():
            return self._run.results(wanted)

    @contextlib.contextmanager
    def _settings(self) -> Iterator[None]:
        """Numbers depend on the recipes, not on how JAX is set; Ctrl-C waits for a safe place."""
        precision = jax.default_matmul_precision(self._precision) if self._precision else contextlib.nullcontext()
        with precision, same_draws(), deferred():
            yield

    def _known(self, members: Iterable[int]) -> tuple[int, ...]:
        """Those members, if they are there."""
        try:
            wanted = tuple(members)
        except TypeError as error:
            raise UserError(f"members are {members!r}: give several, or [{members!r}]") from error
        for member in wanted:
            if member not in self.members:
                raise UserError(f"there is no member {member!r}: there are {_listed(self.members)}")
        return wanted

    def _check_running(self, member: int) -> None:
        self._known([member])
        if member not in self.running:
            raise UserError(f"member {member} stopped early: those that go on are {_listed(self.running) or 'none'}")


def _listed(members: Iterable[int]) -> str:
    return ", ".join(map(str, members))
