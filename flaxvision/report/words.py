"""A trial's recipe in sentences."""

from __future__ import annotations

from collections.abc import Mapping

from flaxvision._text import data_name
from flaxvision.report import formats
from flaxvision.sweep.config import DATA_KEYS, TrialConfig
from flaxvision.sweep.results import SweepResult
from flaxvision.sweep.spec import as_typed
from flaxvision.training.effects import DURATIONS
from flaxvision.training.recipe import Recipe, from_dict

_LOSSES = {
    "cross_entropy": "cross-entropy",
    "binary_cross_entropy": "binary cross-entropy",
    "squared_error": "squared error",
}
_PIXELS = {
    "unit": "Pixels are scaled to 0 to 1",
    "signed": "Pixels are scaled to −1 to 1",
    "raw": "Pixels stay 0 to 255",
    "standard": "Pixels are scaled to mean 0 and deviation 1 in each channel of the training images",
}
_AUGMENT = {
    "flip": "mirrored at random",
    "alternating_flip": "mirrored in every other epoch",
}


def recipe_words(result: SweepResult) -> list[str]:
    """How the winner was made, and what varied beside it; every setting that was given is in it.

    Empty without a winner.
    """
    if result.winner is None or "model" not in result.winner.config:
        return []
    settings = {key: value for key, value in result.winner.config.items() if key not in ("stage", "seed")}
    config = TrialConfig.of(settings)
    recipe = from_dict({**config.recipe, "seed": result.winner.seed})
    said = _Said(recipe)
    sentences = [
        _network(config, result.winner.parameters),
        said.optimizer(),
        said.batches(),
        said.loss(),
        said.images(),
        said.selection(),
    ]
    left = [f"{_name(key)} {_value(value)}" for key, value in recipe.given.items() if key not in said.keys]
    data = [f"{_name(key)} {as_typed(settings[key])}" for key in DATA_KEYS[1:] if key in settings]
    for heading, found in (("Also", left), ("Of the data", data)):
        if found:
            sentences.append(f"{heading}: {', '.join(found)}.")
    varied = [f"{_name(key)} ({', '.join(_values(result, key))})" for key in result.keys]
    if varied:
        sentences.append(f"What varies in the table: {', '.join(varied)}.")
    return sentences


class _Said:
    """Sentences about a recipe, and which of its settings they tell."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.keys: set[str] = {"seed"}

    def _given(self, *keys: str) -> dict[str, str]:
        """The settings of these that are not the defaults, as text."""
        self.keys.update(keys)
        return {key: _value(self.recipe.given[key]) for key in keys if key in self.recipe.given}

    def optimizer(self) -> str:
        recipe = self.recipe
        own = self._given("momentum", "beta1", "beta2", "smoothing", "epsilon", "weight_decay", "clip_norm")
        more = "".join(f", {_name(key)} {value}" for key, value in own.items())
        self.keys |= {"optimizer", "learning_rate", "nesterov"}
        name = recipe.optimizer if isinstance(recipe.optimizer, str) else "an optax optimizer"
        name = f"{name.upper() if name == 'sgd' else name}{' with Nesterov momentum' * recipe.nesterov}"
        rate = f"{recipe.learning_rate:g}" if isinstance(recipe.learning_rate, (int, float)) else "an optax schedule"
        course = self._given(
            "schedule", "warmup_epochs", "start_factor", "step_epochs", "milestones", "step_factor", "end_factor"
        )
        schedule = f", {course.pop('schedule').replace('_', ' ')} schedule" if "schedule" in course else ""
        return f"Optimizer {name}, learning rate {rate}{schedule}{_listed(course)}{more}."

    def batches(self) -> str:
        recipe = self.recipe
        self.keys |= {"batch_size", "shuffle", *DURATIONS}
        order = "in a new order each epoch" if recipe.shuffle else "in the stored order"
        found = [(key, value) for key in DURATIONS if (value := getattr(recipe, key)) is not None]
        key, count = found[0] if found else ("epochs", 10)
        return f"Batches of {recipe.batch_size} {order}, for {count:,g} {key if count != 1 else key[:-1]}."

    def loss(self) -> str:
        self.keys.add("loss")
        more = self._given("label_smoothing", "class_weights")
        return f"The loss is {_LOSSES[self.recipe.loss]}{_listed(more)}."

    def images(self) -> str:
        recipe = self.recipe
        self.keys |= {"pixels", "augment", "crop_padding", "crop_padding_mode"}
        crop = f"cropped at random after padding by {recipe.crop_padding} pixels ({recipe.crop_padding_mode})"
        changes = [crop if name == "crop" else _AUGMENT[name] for name in recipe.augment]
        drawn = self._given("rotation", "translation", "brightness", "contrast", "cutout", "mixup", "cutmix")
        changes += [f"changed by {_name(key)} {value}" for key, value in drawn.items()]
        training = f"; training images are {', '.join(changes)}" if changes else "; nothing is augmented"
        return f"{_PIXELS[recipe.pixels]}{training}."

    def selection(self) -> str:
        recipe = self.recipe
        self.keys |= {"select", "select_on", "early_stopping"}
        by = formats.metric_name(recipe.select_on, unit=False) if recipe.select_on else "loss"
        kept = f"the epoch with the best {by}" if recipe.select == "best" else "the last epoch"
        stop = f"; training stops after {recipe.early_stopping} epochs without a better one" * (
            recipe.early_stopping > 0
        )
        return f"The weights after {kept} are kept{stop}."


def _network(config: TrialConfig, parameters: int) -> str:
    arguments = _listed({key: as_typed(value) for key, value in config.model.arguments.items()})
    return f"{config.model.name}{arguments} on {data_name(config.data.dataset)}: {parameters:,} parameters."


def _listed(settings: Mapping[str, str]) -> str:
    return f" ({', '.join(f'{_name(key)} {value}' for key, value in settings.items())})" if settings else ""


def _name(key: str) -> str:
    return key.replace("_", " ")


def _value(value: object) -> str:
    return as_typed(list(value) if isinstance(value, tuple) else value)


def _values(result: SweepResult, key: str) -> list[str]:
    return formats.distinct(cell.where.get(key, "") for cell in result.cells if cell.stage == "sweep")
