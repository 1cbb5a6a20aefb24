"""What a trial takes: its data set, model, recipe and identity; and whether it can train."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flaxvision._cache import shared_cache
from flaxvision._files import weights_in
from flaxvision.data import Dataset, load
from flaxvision.data._stamp import stamp as stamp_of
from flaxvision.data.stream import streamed
from flaxvision.errors import UserError
from flaxvision.identity import AROUND, Identity, checksum_of, checksum_of_file, circumstances, switches
from flaxvision.models.registry import code_of, grown, numbers_of, refresh
from flaxvision.runtime import on_host
from flaxvision.sweep.config import DataConfig
from flaxvision.sweep.files import ARRAYS, DataFolders, RunFiles
from flaxvision.sweep.room import check_room
from flaxvision.sweep.spec import PRETRAINED, as_typed
from flaxvision.sweep.trials import Trial
from flaxvision.training.optimizers import code_of_optimizer
from flaxvision.training.recipe import from_dict

if TYPE_CHECKING:
    from flaxvision.layers import Chain
    from flaxvision.training import Recipe


def check(trial: Trial, files: RunFiles, pretraining: Trial | None = None) -> int:
    """Raise `UserError` for a trial that cannot train, before anything is written; gives its number of parameters."""
    import jax
    from flax import nnx

    from flaxvision.models import count_parameters
    from flaxvision.models.files import assign, read, variables
    from flaxvision.training.checks import check_fit

    dataset, recipe = check_numbers(trial, files)
    with _one_line(trial):
        model = nnx.eval_shape(lambda: create_model(trial, dataset))
        check_fit(model, dataset, recipe)
    check_room(dataset, count_parameters(model), jax.default_backend())
    if recipe.warm_start is not None:
        if trial.starts_pretrained and pretraining is not None:
            tensors = variables(create_model(pretraining, dataset_of(pretraining, files)))
        else:
            tensors, _ = read(recipe.warm_start)
        with on_host():
            assign(create_model(trial, dataset), tensors, recipe.warm_start, recipe.warm_start_only)
    return count_parameters(model)


def check_numbers(trial: Trial, files: RunFiles) -> tuple[Dataset, Recipe]:
    """The part of `check` that trials do not share, see `shared_by`."""
    from flaxvision.training.checks import check_images

    dataset, recipe = dataset_of(trial, files), recipe_of(trial, files)
    recipe.total_steps(len(dataset.train))
    recipe.selection(dataset.validation is not None)
    check_images(dataset, recipe)
    if (stream := trial.config.data.stream) is not None and not recipe.shuffle:
        raise UserError(
            f"stream is {as_typed(stream)} but has no effect with shuffle false, which takes examples in their own "
            "order: leave it out"
        )
    return dataset, recipe


def shared_by(trial: Trial) -> Hashable:
    """Equal for trials of one program that start from the same weights: one `check` is that of all of them.

    Of a network of one's own every dropout is tried, as its function may take some only.
    """
    dropout, *start = (trial.settings.get(key) for key in ("dropout", "warm_start", "warm_start_only"))
    alike = isinstance(dropout, float) and 0 < dropout < 1 and ":" not in trial.config.model.name
    return trial.program, str(start), "" if alike else str(dropout)


def dataset_of(trial: Trial, files: RunFiles) -> Dataset:
    """A trial's data set."""
    return load_dataset(trial.config.data, files.data)


def load_dataset(config: DataConfig, folders: DataFolders) -> Dataset:
    """A data set, kept in memory for the next trial that asks for it; `UserError` as by `flaxvision.data.load`."""
    for key, value in config.options.items():
        if key not in ("size", "fit", "skip_damaged", "stream"):  # `load` checks these
            wanted, words = ((int, float), "fraction") if key == "validation" else ((int,), "whole number")
            if not isinstance(value, wanted) or isinstance(value, bool) or value < 0:
                raise UserError(f"{key} is {as_typed(value)}: give a {words}, not negative")
    return _load(config, folders, _stamp(config.dataset, folders))


def look_again(trials: Iterable[Trial]) -> None:
    """Take up what has changed on disk since this process read it: data sets, and networks of one's own."""
    _stamp.cache_clear()
    configs = [trial.config for trial in trials]
    for name in dict.fromkeys(str(name) for c in configs for name in (c.model.name, c.recipe.get("optimizer", ""))):
        refresh(name)


def identity_of(trial: Trial, files: RunFiles) -> Identity:
    """What a trial rests on beside its configuration, by content, see `flaxvision.identity`."""
    config = trial.config
    dataset = load_dataset(config.data, files.data)  # which refuses options that no key may hold
    options = "".join(f" {option}={as_typed(value)}" for option, value in config.data.options.items())
    stamp = _stamp(config.data.dataset, files.data)
    identity: Identity = {f"data {config.data.dataset}{options}": _checksum(config.data, files.data, stamp)}
    model, optimizer = config.model.name, config.recipe.get("optimizer")
    for name, code in ((model, code_of(model)), (optimizer, code_of_optimizer(optimizer))):
        if code is not None:
            identity[f"code {name}"] = code
    if (numbers := numbers_of(model, _outputs(trial, dataset), config.model.arguments)) is not None:
        identity[f"weights that {model} makes"] = numbers
    start = recipe_of(trial, files).warm_start
    if start is not None and not trial.starts_pretrained:
        identity[f"weights {config.recipe['warm_start']}"] = checksum_of_file(start)
    return {**identity, **switches(), AROUND: circumstances()}


@shared_cache(64)
def _stamp(name: str, folders: DataFolders) -> str:
    if folders.loaded is not None:
        return folders.loaded.checksum
    if name.startswith(ARRAYS):
        return "" if folders.given is None else folders.given.checksum
    return stamp_of(name, raw_dir=folders.raw_dir, data_dir=folders.data_dir)


@shared_cache(2)
def _load(config: DataConfig, folders: DataFolders, stamp: str) -> Dataset:
    if folders.loaded is not None:
        return folders.loaded.load()
    if config.dataset.startswith(ARRAYS):
        return _given(config, folders)
    options = {"examples" if key == "drawn" else key: value for key, value in config.options.items()}
    return load(config.dataset, raw_dir=folders.raw_dir, data_dir=folders.data_dir, **options)


def _given(config: DataConfig, folders: DataFolders) -> Dataset:
    """A data set that was given in Python, its limit kept and its examples held out."""
    if folders.given is None:
        raise UserError(
            f"dataset is {config.dataset!r}, which stands for arrays that were given in Python: give them again, as "
            "run(…, data=dataset), or resume the run that holds them"
        )
    for key in config.options:
        if key not in ("limit", "validation", "validation_seed", "stream"):
            raise UserError(f"{key} has no effect on {config.dataset}, which is taken as it was given: leave it out")
    dataset = folders.given.load()
    if config.validation is not None and dataset.validation is not None:
        raise UserError(f"validation is {config.validation}: leave it out, the data set has a validation split")
    return streamed(dataset.limit(config.limit).hold_out(config.validation, config.validation_seed or 0), config.stream)


@shared_cache(64)
def _checksum(config: DataConfig, folders: DataFolders, stamp: str) -> Identity:
    return checksum_of(_load(config, folders, stamp))


def _outputs(trial: Trial, dataset: Dataset) -> int:
    return 1 if trial.config.recipe.get("loss") == "binary_cross_entropy" else dataset.num_classes


def create_model(trial: Trial, dataset: Dataset) -> Chain:
    """A trial's model before training."""
    model, shape = trial.config.model, dataset.input_shape
    with _one_line(trial):
        arguments = {"num_classes": _outputs(trial, dataset), **model.arguments}
        return grown(model.name, input_shape=shape, seed=trial.seed, **arguments)


@contextlib.contextmanager
def _one_line(trial: Trial) -> Iterator[None]:
    """Raise as a `UserError` what building a model raises, such as a function of the user's own."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}; fix it or its [sizes]"
        raise UserError(f"model {trial.config.model.name!r} cannot be built: {said}") from error


def recipe_of(trial: Trial, files: RunFiles) -> Recipe:
    """A trial's recipe, its warm start as a path."""
    settings = {**trial.config.recipe, "seed": trial.seed}
    start = settings.get("warm_start")
    if start == PRETRAINED:
        settings["warm_start"] = str(files.pretrained)
    elif isinstance(start, str):  # where it is gone, the run's own copy of it
        gone = not Path(start).exists() and files.start(start).exists()
        settings["warm_start"] = str(files.start(start) if gone else weights_in(start))
    return from_dict(settings)
