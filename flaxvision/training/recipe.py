"""How a model is trained: one frozen, hashable, checked record."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flaxvision.errors import UserError, check_choice

if TYPE_CHECKING:
    import optax

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "linear")
LOSSES = ("cross_entropy", "binary_cross_entropy", "squared_error")
PIXELS = ("unit", "signed", "raw")
PRECISIONS = ("default", "highest", "bfloat16", "float64")
AUGMENTATIONS = ("crop", "flip")
SELECTS = ("last", "best")
METRICS = ("loss", "top1", "top3")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Optimiser, data order, loss, duration and selection of one training run.

    Give the duration as exactly one of `epochs`, `steps` and `examples` (without any: 10 epochs).

    Raises:
        UserError: For a value that is not allowed; the message names the allowed ones.
    """

    optimizer: str | optax.GradientTransformation = "sgd"  # "sgd", "adam", "adamw", or optax's own, used as it is
    learning_rate: float | Callable = 0.1  # step size of an update; or an optax schedule, step -> step size
    momentum: float = 0.0  # sgd: share of the last update that is kept, in [0, 1)
    nesterov: bool = False  # sgd: look ahead, with momentum above 0
    weight_decay: float = 0.0  # L2 added to the gradient (sgd, adam, as in PyTorch), decoupled in adamw
    schedule: str = "constant"  # how learning_rate goes on: "constant", "cosine" or "linear" to zero at the end
    warmup_epochs: float = 0.0  # epochs of linear rise to learning_rate
    batch_size: int = 128  # examples an update
    shuffle: bool = True  # a new order of the training examples each epoch
    epochs: float | None = None  # duration in passes over the training examples
    steps: int | None = None  # or in updates
    examples: int | None = None  # or in examples seen
    loss: str = "cross_entropy"  # "cross_entropy", "binary_cross_entropy" or "squared_error" (summed over pixels)
    pixels: str = "unit"  # uint8 images to [0, 1] ("unit"), [-1, 1] ("signed") or [0, 255] ("raw")
    augment: tuple[str, ...] = ()  # of "crop" (4 pixels of padding) and "flip" (left to right)
    frozen: tuple[str, ...] = ()  # name prefixes of layers that do not learn and run in evaluation mode
    warm_start: str | None = None  # weights file to start from
    warm_start_only: tuple[str, ...] = ()  # name prefixes of what is taken from it; () for everything
    seed: int = 0  # of the order of examples, dropout and augmentation
    precision: str = "default"  # matmuls: the platform's "default", "highest", "bfloat16" compute, or "float64"
    early_stopping: int = 0  # epochs without a better select_on after which to stop; 0 never stops
    select: str = "last"  # whose parameters are kept: those of the "last" or of the "best" epoch
    select_on: str | None = None  # split and metric of "best": "val_loss", "test_top1", …; None: val_loss or test_loss
    record_gradients: bool = False  # keep each step's gradient norm by layer and report E's mean-gradient sum

    def __post_init__(self) -> None:
        for field in ("augment", "frozen", "warm_start_only"):
            value = getattr(self, field)
            object.__setattr__(self, field, (value,) if isinstance(value, str) else tuple(value))
        _check_types(self)
        if isinstance(self.optimizer, str):
            check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("loss", self.loss, LOSSES)
        check_choice("pixels", self.pixels, PIXELS)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("select", self.select, SELECTS)
        for name in self.augment:
            check_choice("augment", name, AUGMENTATIONS)
        if self.select_on is not None:
            check_choice("select_on", self.select_on, selection_metrics())
        if not callable(self.learning_rate) and not self.learning_rate > 0:
            raise UserError(f"learning_rate is {self.learning_rate}: give a number above 0")
        for field in ("weight_decay", "warmup_epochs", "early_stopping", "seed"):
            if getattr(self, field) < 0:
                raise UserError(f"{field} is {getattr(self, field)}: give 0 or more")
        if not 0 <= self.momentum < 1:
            raise UserError(f"momentum is {self.momentum}: give a number from 0 up to but without 1")
        if self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size}: give 1 or more examples")
        durations = {k: getattr(self, k) for k in ("epochs", "steps", "examples") if getattr(self, k) is not None}
        if len(durations) > 1:
            given = ", ".join(f"{key}={value}" for key, value in durations.items())
            raise UserError(f"the duration is given {len(durations)} times ({given}): give one of them")
        for key, value in durations.items():
            if not value > 0:
                raise UserError(f"{key} is {value}: give more than 0")

    def total_steps(self, training_examples: int) -> int:
        """The duration in updates for so many training examples; a short last batch is an update too."""
        if self.batch_size > training_examples:
            raise UserError(
                f"batch_size is {self.batch_size} but there are {training_examples} training examples: "
                f"give a batch_size of at most {training_examples}"
            )
        per_epoch = -(-training_examples // self.batch_size)
        if self.steps is not None:
            return self.steps
        if self.examples is not None:
            return max(1, -(-self.examples * per_epoch // training_examples))
        return max(1, round((10 if self.epochs is None else self.epochs) * per_epoch))

    def selection(self, has_validation: bool) -> str:
        """The split and metric that picks the best epoch, such as "val_loss"."""
        if self.select_on is None:
            return "val_loss" if has_validation else "test_loss"
        if self.select_on.startswith("val_") and not has_validation:
            raise UserError(f"select_on is {self.select_on!r} but there is no validation split: give validation=0.2")
        return self.select_on

    def structure(self) -> Recipe:
        """This recipe without what may differ between trials of one compiled program."""
        return dataclasses.replace(
            self,
            learning_rate=self.learning_rate if callable(self.learning_rate) else 1.0,
            momentum=0.5 if self.momentum else 0.0,
            weight_decay=1.0 if self.weight_decay else 0.0,
            seed=0,
            warm_start=None,
            warm_start_only=(),
        )


def selection_metrics() -> tuple[str, ...]:
    """What `select_on` and a sweep's objective may be."""
    return tuple(f"{split}_{metric}" for split in ("val", "test") for metric in METRICS)


_NUMBER = (int, float)
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": (_NUMBER, "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "a string"),
}


def _check_types(recipe: Recipe) -> None:
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if field.name in ("optimizer", "learning_rate") and not isinstance(value, (str, bool, list)):
            if isinstance(value, _NUMBER) != (field.name == "learning_rate") and not callable(value):
                if field.name == "learning_rate":
                    raise UserError(f"learning_rate is {value!r}: give a number above 0 or an optax schedule")
                if not hasattr(value, "update"):
                    raise UserError(f"optimizer is {value!r}: give one of {', '.join(OPTIMIZERS)} or optax's own")
            continue
        if str(field.type).startswith("tuple"):
            if not all(isinstance(item, str) for item in value):
                raise UserError(f"{field.name} is {value!r}: give strings")
            continue
        first = str(field.type).split(" | ")[0]
        allowed, words = _TYPES[first]
        if value is None and "None" in str(field.type):
            continue
        if not isinstance(value, allowed) or (isinstance(value, bool) and first != "bool"):
            raise UserError(f"{field.name} is {value!r}: give {words}")


def field_names() -> list[str]:
    """The names of a recipe's fields."""
    return [field.name for field in dataclasses.fields(Recipe)]


def from_dict(settings: dict[str, Any]) -> Recipe:
    """A recipe from plain settings, as a spec holds them.

    Raises:
        UserError: For an unknown key or a wrong value.
    """
    from flaxvision.errors import unknown

    for key in settings:
        if key not in field_names():
            raise unknown("recipe key", key, field_names())
    return Recipe(**settings)
