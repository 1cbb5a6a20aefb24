"""Asks for settings and is told what they reached: Optuna's samplers, in batches, to the same trials each time.

A study lives in memory. What it asks for rests on the search's seed and on all that it was told in the order of the
trials' numbers, so a search goes on after a kill by asking and telling once more what is on record. Its journal in the
run directory is a copy for readers such as optuna-dashboard; nothing is read from it.
"""

from __future__ import annotations

import contextlib
import math
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import flaxvision
from flaxvision.errors import UserError
from flaxvision.sweep.search.draw import Drawn, draw
from flaxvision.sweep.search.records import SEARCHED, Batch
from flaxvision.sweep.spec import Choices, Range, Search
from flaxvision.sweep.trials import NOT_GIVEN

if TYPE_CHECKING:
    import optuna
    from optuna import Trial
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.samplers import BaseSampler

    Distribution = CategoricalDistribution | FloatDistribution | IntDistribution

JOURNAL = "study.journal"


class Study:
    """A study of a search; trials have the numbers 0, 1, … in the order in which they are asked for."""

    def __init__(self, search: Search, *, lower_is_better: bool):
        self.search = search
        self.space = {key: _distribution(each) for key, each in search.space.items()}
        self.asked: list[Trial] = []
        self.direction = "minimize" if lower_is_better else "maximize"
        with _quiet():
            self.study = _optuna().create_study(sampler=_sampler(search, self.space), direction=self.direction)

    def ask(self, count: int) -> list[Drawn]:
        """Settings for so many trials, none of which waits for another."""
        drawn = []
        with _quiet():
            for _ in range(count):
                self.asked.append(self.study.ask())
                drawn.append(draw(self.search.space, self._suggested))
        return drawn

    def _suggested(self, key: str, _: Range | Choices) -> float | str:
        from optuna.distributions import CategoricalDistribution, IntDistribution

        trial, values = self.asked[-1], self.space[key]
        if isinstance(values, CategoricalDistribution):
            return str(trial.suggest_categorical(key, values.choices))  # a label
        if isinstance(values, IntDistribution):
            return trial.suggest_int(key, values.low, values.high, step=values.step, log=values.log)
        return trial.suggest_float(key, values.low, values.high, step=values.step, log=values.log)

    def tell(self, batch: Batch) -> None:
        """What the trials of a batch reached.

        One that diverged is told as one that ended early and reached no number: TPE then takes its settings for bad
        ones, where it would pass over those of a failed trial and ask for them again.
        """
        from optuna.trial import TrialState

        with _quiet():
            for record in batch:
                trial = self.asked[record["number"]]
                for epochs, value in record["rungs"]:
                    trial.report(math.nan if value is None else value, epochs)
                trial.set_user_attr("status", record["status"])
                if record["status"] == "ok":
                    self.study.tell(trial, record["rungs"][-1][1])
                else:
                    failed = record["status"] == "failed"
                    self.study.tell(trial, state=TrialState.FAIL if failed else TrialState.PRUNED)

    def repeat(self, batches: Sequence[Batch]) -> None:
        """Ask and tell what is on record.

        Raises:
            UserError: If other trials are asked for than those on record.
        """
        for batch in batches:
            for record, drawn in zip(batch, self.ask(len(batch)), strict=True):
                labels = {key: drawn[key].label if key in drawn else NOT_GIVEN for key in self.search.space}
                if record["cell"] != labels:
                    raise UserError(
                        f"{SEARCHED} has other settings for trial {record['number']} than the sampler asks for, by "
                        f"flaxvision {flaxvision.__version__} and Optuna {_optuna().__version__}: install the versions "
                        "that began the search, or give another --out DIR"
                    )
            self.tell(batch)

    def importances(self) -> dict[str, float]:
        """The share of each key in what tells good trials from bad ones (PED-ANOVA), the largest first.

        It goes by what all trials reached after the first of their rungs; a key that some trials are not given has
        none. Empty where there is too little to tell.
        """
        optuna = _optuna()
        with _quiet():
            study = optuna.create_study(direction=self.direction)
            for trial in self.study.trials:
                value = trial.intermediate_values.get(min(trial.intermediate_values, default=0), math.nan)
                if math.isfinite(value):
                    told = {"params": trial.params, "distributions": trial.distributions, "value": value}
                    study.add_trial(optuna.trial.create_trial(**told))
            try:
                warnings.simplefilter("error", UserWarning)  # of too few trials, to which all keys would be equal
                evaluator = optuna.importance.PedAnovaImportanceEvaluator()
                return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
            except (ValueError, RuntimeError, UserWarning):  # or where all trials are as good
                return {}


class Journal:
    """The copy of a study in a run directory, written anew when a run begins or goes on."""

    def __init__(self, study: Study, directory: Path, name: str):
        optuna = _optuna()
        from optuna.storages.journal import JournalFileBackend

        path = directory / JOURNAL
        for left in (path, path.with_name(f"{JOURNAL}.lock")):
            left.unlink(missing_ok=True)
        with _quiet():
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
            self.copy = optuna.create_study(storage=storage, study_name=name, direction=study.direction)
        self.study, self.count = study, 0

    def update(self) -> None:
        """Add the trials that were told since."""
        trials = self.study.study.trials
        with _quiet():
            self.copy.add_trials(trials[self.count :])
        self.count = len(trials)


def check_installed() -> None:
    """Raise `UserError` where Optuna is not."""
    _optuna()


def _optuna() -> types.ModuleType:
    try:
        import optuna
    except ImportError as error:
        raise UserError("a search needs Optuna: pip install 'flaxvision[search]'") from error
    return optuna


def _sampler(search: Search, space: Mapping[str, Distribution]) -> BaseSampler:
    from optuna.samplers import RandomSampler, TPESampler

    if search.sampler == "random":
        return RandomSampler(seed=search.seed)
    if search.sampler == "sobol":
        return _sobol(search.seed, space)
    return TPESampler(seed=search.seed, constant_liar=True)  # apart from those of its batch, which nobody told yet


def _sobol(seed: int, space: Mapping[str, Distribution]) -> BaseSampler:
    """Points of one sequence over all keys, those whose conditions do not hold among them, from the first trial on.

    Optuna's own has the keys of the first trial that ended, and draws what comes before it, and other keys, at random.
    """
    from optuna.samplers import QMCSampler

    class Sobol(QMCSampler):
        def infer_relative_search_space(
            self, study: optuna.Study, trial: optuna.trial.FrozenTrial
        ) -> dict[str, BaseDistribution]:
            return dict(space)

    return Sobol(scramble=True, seed=seed)


def _distribution(each: Range | Choices) -> Distribution:
    """What Optuna calls the values of a key."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(each, Choices):
        return CategoricalDistribution(each.labels)
    if each.whole:
        return IntDistribution(int(each.low), int(each.high), log=each.log, step=int(each.step or 1))
    return FloatDistribution(each.low, each.high, log=each.log, step=each.step)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna says nothing within it, also not of what is experimental, and its own level comes back."""
    logging = _optuna().logging
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", _optuna().exceptions.ExperimentalWarning)
            yield
    finally:
        logging.set_verbosity(before)
