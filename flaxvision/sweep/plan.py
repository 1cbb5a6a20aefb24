"""What a sweep will do, checked: all that is wrong is found before anything is trained or written."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Hashable, Iterable, Sequence

from flaxvision._interrupts import stop_if_asked
from flaxvision.data import Dataset
from flaxvision.errors import ELSEWHERE, UserError, unknown
from flaxvision.identity import Identity
from flaxvision.models.registry import argument_names
from flaxvision.sweep.files import RunFiles
from flaxvision.sweep.inputs import check, check_numbers, dataset_of, identity_of, look_again, shared_by
from flaxvision.sweep.keys import setting_keys
from flaxvision.sweep.search.checks import check_tables, check_trials
from flaxvision.sweep.spec import AUTO, Spec, as_typed, config_hash
from flaxvision.sweep.trials import Trial, every_trial
from flaxvision.training.metrics import check_metric
from flaxvision.training.optimizers import optimizers_with, settings_of_optimizers


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The trials of a sweep, of which every one can train."""

    spec: Spec  # its objective is a metric
    stages: tuple[Trial, ...]  # the pretraining, if a trial starts from it
    trials: tuple[Trial, ...]  # of a search, before it: some that stand for its space
    data: tuple[str, ...]  # a line for each data set, and one for whatever there is to say about it
    parameters: dict[str, int]  # trial's id -> parameters of its network
    identity: Identity  # what they rest on beside their settings, by content


def plan(spec: Spec, files: RunFiles) -> Plan:
    """The trials of `spec`, checked: `UserError` for what would not train or would have no effect, with its cell."""
    check_tables(spec)
    everything = every_trial(spec)
    stages = [trial for trial in everything if trial.stage == "pretrain"]
    trials = [trial for trial in everything if trial.stage in ("search", "sweep")]
    datasets: dict[str, Sequence[str]] = {}
    counted: dict[str, int] = {}
    checked: dict[Hashable, int] = {}  # what trials share -> parameters
    samples = one_each(everything)
    identity: Identity = {}
    look_again(samples)
    _check_optimizers(one_each(trials), spec)

    def fault(trial: Trial) -> UserError | None:
        try:
            _check_effects(trial)
            if (shared := shared_by(trial)) in checked:
                check_numbers(trial, files)
            else:
                checked[shared] = check(trial, files, *stages)
            counted[config_hash(trial.settings)] = checked[shared]
        except UserError as error:
            return error
        return None

    for trial in samples:
        stop_if_asked()
        known = len(checked)
        if (error := fault(trial)) is not None:
            whole = trial is samples[0] and str(fault(samples[-1])) == str(error)
            raise UserError(str(error) if whole else f"{error}{_where(trial)}") from error
        if len(checked) > known:
            identity |= identity_of(trial, files)
            dataset = dataset_of(trial, files)
            datasets.setdefault(description_of(dataset), (*dataset.loading_notes, *dataset.source.notes))
    spec = dataclasses.replace(spec, objective=_objective(spec, trials, files))
    check_trials(spec, trials, files)
    _check_limits(trials, files)
    return Plan(
        spec,
        tuple(stages),
        tuple(trials),
        tuple(line for head, notes in datasets.items() for line in (head, *(f"  {note}" for note in notes))),
        {trial.id: counted[config_hash(trial.settings)] for trial in trials},
        identity,
    )


def one_each(trials: Iterable[Trial]) -> list[Trial]:
    """One trial of every distinct setting but for the seed."""
    return list({config_hash(trial.settings): trial for trial in trials}.values())


def description_of(dataset: Dataset) -> str:
    """A data set in a line: its splits, the shape of an example, its classes.

    >>> import flaxvision as fv
    >>> print(description_of(fv.data.load("two_clusters", limit=100)))
    two_clusters: train 100, test 100; 2 numbers an example, 2 classes
    """
    splits = ", ".join(f"{name} {len(split):,}" for name, split in dataset.splits.items())
    shape = dataset.input_shape
    example = f"{' x '.join(map(str, shape))} pixels" if len(shape) > 1 else f"{shape[0]} numbers an example"
    text = f"{dataset.name}: {splits}; {example}, {dataset.num_classes} class{'es' * (dataset.num_classes != 1)}"
    return f"{text}; {dataset.source.note}" if dataset.source.note else text


def _where(trial: Trial) -> str:
    cell = ", ".join(f"{key}={label}" for key, label in trial.cell)
    stage = f"[{trial.stage}]" if trial.stage != "sweep" else ""
    return f" (in {', '.join(filter(None, (stage, cell)))})" if stage or cell else ""


def _check_effects(trial: Trial) -> None:
    """Raise for a setting beside the recipe that has no effect, and for one that other libraries have."""
    data, model = trial.config.data, trial.config.model
    for key in model.arguments.keys() & ELSEWHERE.keys():
        with contextlib.suppress(TypeError):  # of what is no function, of which building it says more
            taken = argument_names(model.name)
            if taken is not None and key not in taken:
                raise unknown("setting", key, setting_keys())
    if data.validation_seed is not None and data.validation is None:
        raise UserError(
            "validation_seed has no effect without a validation split: give validation=0.2, or leave it out"
        )


def _check_optimizers(trials: Sequence[Trial], spec: Spec) -> None:
    """Raise for a setting of one optimizer of the table that would be given to another, too."""
    named = [(str(trial.config.recipe.get("optimizer", "sgd")), trial) for trial in trials]
    names = dict.fromkeys(name for name, _ in named)
    with_key = {key: [name for name in names if name in optimizers_with(key)] for key in settings_of_optimizers()}
    for (name, trial), (key, having) in itertools.product(named, with_key.items()):
        if (given := trial.config.recipe.get(key)) and having and name not in having:
            value = as_typed(given)
            if spec.search is not None and key in spec.search.space:
                raise UserError(
                    f"{key} is searched for optimizer {name!r} too, where it has no effect: give it on a condition, "
                    f"{key} = {{ …, when = {{ optimizer = '{having[0]}' }} }}"
                )
            raise UserError(
                f"{key} is {value} for optimizer {name!r} too, where it has no effect: give it with the optimizer that "
                f"has it, optimizer = [{{ name = '{having[0]}', optimizer = '{having[0]}', {key} = {value} }}, "
                f"{{ name = '{name}', optimizer = '{name}' }}]{_where(trial)}"
            )


def _check_limits(trials: Sequence[Trial], files: RunFiles) -> None:
    """Raise for a limit that every split of every trial stays below."""
    least: dict[int, int] = {}  # limit -> how much of it the largest split has
    for trial in one_each(trials):
        data = trial.config.data
        if data.limit is None:
            continue
        dataset = dataset_of(trial, files)
        held_out = len(dataset.validation or ()) if data.validation is not None else 0
        most = max(len(dataset.train) + held_out, *map(len, dataset.splits.values()))
        least[data.limit] = max(most, least.get(data.limit, 0))
        if data.drawn is not None and len(dataset.test) == data.limit:  # which is the beginning of any longer draw
            raise UserError(f"drawn is {data.drawn} but has no effect with limit {data.limit}: leave one of them out")
    for limit, most in least.items():
        if most < limit:
            raise UserError(f"limit is {limit} but has no effect: no split has more than {most} examples; leave it out")


def _objective(spec: Spec, trials: Sequence[Trial], files: RunFiles) -> str:
    """The metric that chooses the winner: as given, if all trials have it; else by the data and the loss."""
    samples = one_each(trials)
    datasets = [dataset_of(trial, files) for trial in samples]
    without = any(dataset.validation is None for dataset in datasets)
    scored = all(trial.config.recipe.get("loss") != "squared_error" for trial in samples)
    if not scored and spec.convergence_threshold is not None:
        raise UserError(
            "convergence_threshold applies to top-1, which loss 'squared_error' does not have: leave it out"
        )
    if spec.objective == AUTO:
        return f"{'test' if without else 'val'}_{'top1' if scored else 'loss'}"
    if spec.objective.startswith("val_") and without:
        raise UserError(f"objective is {spec.objective!r} but there is no validation split: give validation=0.2")
    check_metric("objective", spec.objective, "cross_entropy" if scored else "squared_error", datasets[0].num_classes)
    return spec.objective
