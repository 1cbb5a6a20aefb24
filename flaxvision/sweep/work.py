"""Trains one cohort of trials and leaves their weights and histories: what every executor calls, in any process."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxvision._cache import shared_cache
from flaxvision.errors import UserError
from flaxvision.runtime import cores, on_host
from flaxvision.sweep.parse import DATA_KEYS
from flaxvision.sweep.results import converged
from flaxvision.sweep.spec import PRETRAINED, as_typed, config_hash
from flaxvision.sweep.trials import Trial
from flaxvision.training.optimizers import code_of_optimizer
from flaxvision.training.recipe import field_names, from_dict

if TYPE_CHECKING:
    from flaxvision.data import Dataset
    from flaxvision.identity import Identity
    from flaxvision.layers import Chain
    from flaxvision.training import Recipe, Result
    from flaxvision.training._fit import Callback


@dataclasses.dataclass(frozen=True, slots=True)
class Places:
    """Where a sweep reads and writes."""

    directory: Path  # the run directory
    raw_dir: str | None = None  # see `flaxvision.data.load`
    data_dir: str | None = None

    def weights(self, trial_id: str) -> Path:
        """A trial's weights file."""
        return self.directory / "trials" / f"{trial_id}.safetensors"

    def history(self, trial_id: str) -> Path:
        """A trial's history file."""
        return self.directory / "trials" / f"{trial_id}.npz"

    @property
    def checkpoints(self) -> Path:
        """The folder of the states of trials that are not over."""
        return self.directory / "checkpoints"

    @property
    def pretrained(self) -> Path:
        """The weights that the [pretrain] stage leaves."""
        return self.directory / "pretrain.safetensors"


@dataclasses.dataclass(frozen=True, slots=True)
class Cohort:
    """Trials to train together."""

    trials: tuple[Trial, ...]
    places: Places
    mode: str  # of `flaxvision.training.train_cohort`
    threshold: float | None  # of convergence
    checkpoint_every: float = math.inf  # seconds

    @property
    def name(self) -> str:
        """A trial's id; of several that train together a hash of theirs."""
        return name_of([trial.id for trial in self.trials])

    @property
    def checkpoint(self) -> Path:
        """The folder of its state."""
        return self.places.checkpoints / self.name

    @property
    def pretrains(self) -> bool:
        """Whether others start from the weights that it leaves."""
        return any(trial.stage == "pretrain" for trial in self.trials)

    @property
    def starts_pretrained(self) -> bool:
        """Whether it starts from the weights that the [pretrain] stage leaves."""
        return any(trial.starts_pretrained for trial in self.trials)

    def run(self, callbacks: Iterable[Callback] = ()) -> list[dict[str, Any]]:
        """Train, write weights and histories, and return each trial's record for trials.jsonl."""
        from flaxvision.training import train_cohort
        from flaxvision.training.checkpoint import Keep

        dataset = load_dataset(self.trials[0], self.places)
        models = [create_model(trial, dataset) for trial in self.trials]
        recipes = [recipe_of(trial, self.places) for trial in self.trials]
        identities = [identity_of(trial, self.places) for trial in self.trials]
        keep = Keep(self.checkpoint, self.checkpoint_every, self._identity(identities))
        results = train_cohort(models, dataset, recipes, mode=self.mode, callbacks=callbacks, checkpoint=keep)
        return [self._record(*each) for each in zip(self.trials, results, identities, strict=True)]

    def _identity(self, identities: Iterable[Identity]) -> Identity:
        """What a checkpoint of it rests on: also what may move the last bits, so that it is that of a whole run."""
        import jax

        from flaxvision.identity import AROUND, circumstances

        rest = {key: value for each in identities for key, value in each.items() if key != AROUND}
        devices = [device.device_kind for device in jax.local_devices()]
        machine = {**circumstances(), "cores": len(cores()), "devices": devices}
        return {"trials": [trial.id for trial in self.trials], "mode": self.mode, **rest, **machine}

    def _record(self, trial: Trial, result: Result, identity: Identity) -> dict[str, Any]:
        from flaxvision.models import count_parameters, save_model

        final = {k: v if np.isfinite(v) else None for k, v in result.history.row(result.best_epoch).items()}
        save_model(result.model, self.places.weights(trial.id), trial=trial.config, final=final)
        write_history(self.places.history(trial.id), result.history.arrays)
        accuracy = result.history["test_top1"]
        scored = self.threshold is not None and bool(np.isfinite(accuracy).all())
        return {
            "id": trial.id,
            "stage": trial.stage,
            "cell": dict(trial.cell),
            "seed": trial.seed,
            "status": "diverged" if result.diverged else "ok",
            "final": final,
            "best_epoch": result.best_epoch,
            "converged_epoch": converged(accuracy, self.threshold or 0.0) if scored else None,
            "parameters": count_parameters(result.model),
            "seconds": round(max(0.0, result.timing.total - result.timing.compilation), 3),
            "cores": len(cores()),
            "config": trial.config,
            "identity": identity,
        }


def name_of(ids: Sequence[str]) -> str:
    """The name of a cohort of these trials."""
    return ids[0] if len(ids) == 1 else config_hash({"trials": list(ids)})


def check(trial: Trial, places: Places, pretraining: Trial | None = None) -> int:
    """Raise `UserError` for a trial that cannot train, before anything is written; gives its number of parameters."""
    from flax import nnx

    from flaxvision.models import count_parameters
    from flaxvision.models.files import assign, read, variables
    from flaxvision.training._fit import check_fit

    dataset = load_dataset(trial, places)
    recipe = recipe_of(trial, places)
    recipe.total_steps(len(dataset.train))
    recipe.selection(dataset.validation is not None)
    with _one_line(trial):
        model = nnx.eval_shape(lambda: create_model(trial, dataset))
        check_fit(model, dataset, recipe)
    if recipe.warm_start is not None:
        if trial.settings["warm_start"] == PRETRAINED and pretraining is not None:
            tensors = variables(create_model(pretraining, load_dataset(pretraining, places)))
        else:
            tensors, _ = read(recipe.warm_start)
        with on_host():
            assign(create_model(trial, dataset), tensors, recipe.warm_start, recipe.warm_start_only)
    return count_parameters(model)


def load_dataset(trial: Trial, places: Places) -> Dataset:
    """A trial's data set, kept in memory for the next trial that asks for it."""
    options = trial.part(DATA_KEYS[1:])
    for key, value in options.items():
        if key in ("size", "fit", "skip_damaged"):
            continue  # `load` checks these
        wanted = (int, float) if key == "validation" else (int,)
        if not isinstance(value, wanted) or isinstance(value, bool) or value < 0:
            words = "fraction" if key == "validation" else "whole number"
            raise UserError(f"{key} is {as_typed(value)}: give a {words}, not negative")
    return _load(*_data_key(trial, places))


def look_again(trials: Iterable[Trial], places: Places) -> None:
    """Take up what has changed on disk since this process read it: data sets, and networks of one's own."""
    from flaxvision._own_code import refresh

    _stamp.cache_clear()
    for name in dict.fromkeys(str(trial.settings.get(key, "")) for trial in trials for key in ("model", "optimizer")):
        if ":" in name:
            refresh(name)


def identity_of(trial: Trial, places: Places) -> Identity:
    """What a trial rests on beside its configuration, by content, see `flaxvision.identity`."""
    from flaxvision.identity import AROUND, checksum_of_file, circumstances, switches
    from flaxvision.models.registry import code_of

    load_dataset(trial, places)  # which refuses options that no key may hold
    key = _data_key(trial, places)
    options = "".join(f" {option}={as_typed(value)}" for option, value in key[3])
    identity: Identity = {f"data {key[0]}{options}": _checksum(*key)}
    model, optimizer = trial.settings["model"], trial.settings.get("optimizer")
    for name, code in ((model, code_of(model)), (optimizer, code_of_optimizer(optimizer))):
        if code is not None:
            identity[f"code {name}"] = code
    start = recipe_of(trial, places).warm_start
    if start is not None and not trial.starts_pretrained:
        identity[f"weights {trial.settings['warm_start']}"] = checksum_of_file(start)
    return {**identity, **switches(), AROUND: circumstances()}


def _data_key(trial: Trial, places: Places) -> tuple:
    given = trial.part(DATA_KEYS[1:])
    options = tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in given.items())
    name = trial.settings["dataset"]
    return name, places.raw_dir, places.data_dir, options, _stamp(name, places.raw_dir)


@shared_cache(64)
def _stamp(name: str, raw_dir: str | None) -> str:
    from flaxvision.data._stamp import stamp

    return stamp(name, raw_dir=raw_dir)


@shared_cache(2)
def _load(
    name: str, raw_dir: str | None, data_dir: str | None, given: tuple[tuple[str, Any], ...], stamp: str
) -> Dataset:
    from flaxvision.data import load

    options = {"examples" if key == "drawn" else key: value for key, value in given}
    return load(name, raw_dir=raw_dir, data_dir=data_dir, **options)


@shared_cache(64)
def _checksum(*key: Any) -> Identity:
    from flaxvision.identity import checksum_of

    return checksum_of(_load(*key))


def create_model(trial: Trial, dataset: Dataset) -> Chain:
    """A trial's model before training."""
    from flaxvision.models.registry import grown

    outputs = 1 if trial.settings.get("loss") == "binary_cross_entropy" else dataset.num_classes
    with _one_line(trial):
        return grown(
            trial.settings["model"],
            input_shape=dataset.input_shape,
            num_classes=outputs,
            seed=trial.seed,
            **trial.sizes,
        )


@contextlib.contextmanager
def _one_line(trial: Trial) -> Iterator[None]:
    """Raise as a `UserError` what building a model raises, such as a function of the user's own."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"model {trial.settings['model']!r} cannot be built: {type(error).__name__}: {error}; mend it or its sizes"
        ) from error


def recipe_of(trial: Trial, places: Places) -> Recipe:
    """A trial's recipe, its warm start as a path."""
    settings = {**trial.part(field_names()), "seed": trial.seed}
    start = settings.get("warm_start")
    if start == PRETRAINED:
        settings["warm_start"] = str(places.pretrained)
    elif isinstance(start, str) and Path(start).is_dir():
        settings["warm_start"] = str(Path(start) / "winner.safetensors")
    return from_dict(settings)


def write_history(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a history atomically, as a compressed npz."""
    import io

    from flaxvision._files import write_atomically

    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomically(path, buffer.getvalue())
