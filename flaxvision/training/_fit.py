"""Training loops: one model (`fit`), or several trials of one structure together (`train_cohort`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import jax

from flaxvision._own_code import refresh
from flaxvision.data import Dataset
from flaxvision.errors import UserError
from flaxvision.layers import Chain
from flaxvision.training.callbacks import Callback
from flaxvision.training.checkpoint import Keep
from flaxvision.training.history import Result
from flaxvision.training.optimizers import is_own
from flaxvision.training.population import Population
from flaxvision.training.progress import ProgressBar
from flaxvision.training.recipe import Recipe


def fit(
    model: Chain,
    dataset: Dataset,
    recipe: Recipe,
    *,
    devices: str | int | Sequence[jax.Device] = "auto",
    callbacks: Iterable[Callback] = (),
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 0.0,
    progress: bool | None = None,
) -> Result:
    """Train a model.

    Args:
        model: The model to start from; it is not changed.
        dataset: What to train and evaluate on; every image counts, in a short last batch too.
        recipe: How to train.
        devices: "auto" for all local devices, a count, or the devices; several share each batch by `jax.pmap`.
        callbacks: Functions that are called with a `Progress` after every compiled call, and with its `metrics` after
            every epoch; one that returns True stops the run after the epoch at hand.
        checkpoint: A folder in which to keep the newest state (orbax). A run that finds one goes on from there, if it
            is the same but for its duration: network, initial weights, examples and recipe are compared by content, in
            another process too. The result is then that of a run never ended, to the bit on one machine.
        checkpoint_every: Seconds between two checkpoints at most, unless one compiled call takes longer; within an
            epoch too (with an accelerator or several devices at its end); 0: one at the end of every epoch. The end of
            the run is always kept.
        progress: Whether a bar shows how far it is; None: on a terminal and in a notebook.

    Returns:
        The trained model, with `model.preprocess` and `model.classes` set, its history and timing.

    Raises:
        UserError: If the model, the data and the recipe do not fit each other, or the checkpoint is damaged or of
            another run; it names what differs.

    >>> import flaxvision as fv
    >>> model = fv.models.create("linear", input_shape=(2,), num_classes=2)
    >>> data, recipe = fv.data.load("two_clusters", limit=64), fv.Recipe(epochs=5, batch_size=16)
    >>> def two_epochs(progress):
    ...     return bool(progress.metrics) and progress.epoch == 2 and "test_top1" in progress.metrics[0]
    >>> fv.fit(model, data, recipe, callbacks=[two_epochs]).history.epochs
    2
    """
    if not isinstance(dataset, Dataset):
        raise UserError(f"fit got a {type(dataset).__name__}: give a Dataset, such as fv.data.from_arrays(…)")
    if is_own(recipe.optimizer):
        refresh(str(recipe.optimizer))
    keep = None if checkpoint is None else Keep(Path(checkpoint), checkpoint_every)
    with ProgressBar(shown=progress) as bar:
        told: list[Callback] = [bar, *callbacks]
        return train_cohort([model], dataset, [recipe], devices=devices, callbacks=told, checkpoint=keep)[0]


def train_cohort(
    models: Sequence[Chain],
    dataset: Dataset,
    recipes: Sequence[Recipe],
    *,
    mode: str = "auto",
    devices: str | int | Sequence[jax.Device] = "auto",
    callbacks: Iterable[Callback] = (),
    checkpoint: str | Path | Keep | None = None,
) -> list[Result]:
    """Train several models of one structure together, a recipe each: a `Population` from its beginning to its end.

    Args:
        models: The models to start from, alike but for their numbers; they are not changed.
        dataset: What to train and evaluate on.
        recipes: One a model; they may differ in learning rate, in the numbers of `flaxvision.training.recipe.VARYING`,
            in seed and warm start.
        mode: As in `Population`.
        devices: As in `Population`.
        callbacks: As in `fit`.
        checkpoint: As in `fit`; the state of all models is kept together.

    Returns:
        One result a model, in order.

    Raises:
        UserError: As in `fit`, and if the members' structures differ.
    """
    population = Population(
        models, dataset, recipes, mode=mode, devices=devices, callbacks=callbacks, checkpoint=checkpoint
    )
    population.train()
    return list(population.results().values())
