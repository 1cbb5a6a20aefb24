"""How a model is trained: one frozen, hashable, checked record."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flaxvision.errors import UserError, unknown
from flaxvision.training.metrics import selection_metrics
from flaxvision.training.optimizers import NUMBERS, OPTIMIZERS, Number, is_own, optimizers_with, settings_of_optimizers

if TYPE_CHECKING:
    import optax

# What the learning rate is multiplied by after the warm-up: 1; a cosine or a line from 1 to 0; 1, from half of the
# training on 0.1 and from three quarters on 0.01 (He et al., CVPR 2016); or a rise and a fall (Smith and Topin, 2017).
SCHEDULES = ("constant", "cosine", "linear", "step", "one_cycle")
LOSSES = ("cross_entropy", "binary_cross_entropy", "squared_error")
PIXELS = ("unit", "signed", "raw")
CONVS = ("auto", "native")
PRECISIONS = ("default", "highest", "bfloat16", "float64")
AUGMENTATIONS = ("crop", "flip")
SELECTS = ("last", "best")
OF_OPTIMIZER = ("learning_rate", "weight_decay", "clip_norm", "schedule", "warmup_epochs", *settings_of_optimizers())
# With the learning rate, the numbers that may differ among the trials of one program.
VARYING = ("weight_decay", "clip_norm", "label_smoothing", *NUMBERS)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Optimiser, data order, loss, duration and selection of one training run.

    Give the duration as exactly one of `epochs`, `steps` and `examples` (without any: 10 epochs).

    Raises:
        UserError: For a value that is not allowed, the message names the allowed ones; and for a setting that another
            one leaves without effect.
    """

    optimizer: str | optax.GradientTransformation = "sgd"
    # one of `OPTIMIZERS`; "my_module:make" or "file.py:make", a function of the learning rate that gives an optax
    # transformation; or such a transformation, used as it is
    learning_rate: float | Callable = 0.1  # step size of an update; or an optax schedule, step -> step size
    weight_decay: float = 0.0  # L2 added to the gradient, as in PyTorch, or decoupled (adamw, lion)
    clip_norm: float | None = None  # largest L2 norm of a gradient over all parameters; scaled down to it
    # Settings that only some have, see `flaxvision.training.optimizers`; None: as that optimizer has it.
    momentum: float = 0.0  # share of the last update that is kept, in [0, 1)
    nesterov: bool = False  # look ahead, with momentum above 0
    beta1: float | None = None  # share of the gradient's running mean that is kept
    beta2: float | None = None  # share of its square's running mean that is kept
    smoothing: float | None = None  # the same in rmsprop: PyTorch's alpha
    epsilon: float | None = None  # added to the root of that mean
    centered: bool = False  # rmsprop: the root of the variance in place of the square's mean
    schedule: str = "constant"  # how learning_rate goes on, see `SCHEDULES`
    step_epochs: float | None = None  # schedule "step": a step down every so many epochs; None: at 1/2 and 3/4
    step_factor: float = 0.1  # schedule "step": what a step down multiplies learning_rate by
    warmup_epochs: float = 0.0  # epochs of linear rise to learning_rate
    batch_size: int = 128  # examples an update
    shuffle: bool = True  # a new order of the training examples each epoch
    epochs: float | None = None  # duration in passes over the training examples
    steps: int | None = None  # or in updates
    examples: int | None = None  # or in examples seen
    loss: str = "cross_entropy"  # "cross_entropy", "binary_cross_entropy" or "squared_error" (summed over pixels)
    label_smoothing: float = 0.0  # share of each label that is spread over all classes, in what training minimises only
    pixels: str = "unit"  # uint8 images to [0, 1] ("unit"), [-1, 1] ("signed") or [0, 255] ("raw")
    augment: tuple[str, ...] = ()  # of "crop" (4 pixels of padding) and "flip" (left to right)
    frozen: tuple[str, ...] = ()  # name prefixes of layers that do not learn and run in evaluation mode
    warm_start: str | None = None  # weights file to start from
    warm_start_only: tuple[str, ...] = ()  # name prefixes of what is taken from it; () for everything
    seed: int = 0  # of the order of examples, dropout and augmentation
    conv: str = "auto"  # on a CPU or GPU forms that train fast, elsewhere XLA's own ("auto"); or XLA's own ("native")
    precision: str = "default"  # matmuls: the platform's "default", "highest", "bfloat16" compute, or "float64"
    early_stopping: int = 0  # epochs without a better select_on after which to stop; 0 never stops
    select: str = "last"  # whose parameters are kept: those of the "last" or of the "best" epoch
    select_on: str | None = None  # split and metric of "best": "val_loss", "test_top1", …; None: val_loss or test_loss
    record_gradients: bool = False  # keep each step's gradient norm by layer and report E's mean-gradient sum

    def __post_init__(self) -> None:
        for name in ("augment", "frozen", "warm_start_only"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, (list, tuple)) else (value,))
        for name, (allowed, words) in _RULES.items():
            if not allowed(getattr(self, name)):
                raise UserError(f"{name} is {getattr(self, name)!r}: give {words}")
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            for item in value if isinstance(value, tuple) else (value,):
                if isinstance(item, str) and item not in choices and not (name == "optimizer" and is_own(item)):
                    raise UserError(f"{unknown(name, item, choices)}{_IN_PYTHON.get(name, '')}")
        durations = {k: getattr(self, k) for k in ("epochs", "steps", "examples") if getattr(self, k) is not None}
        if len(durations) > 1:
            given = ", ".join(f"{key}={value}" for key, value in durations.items())
            raise UserError(f"the duration is given {len(durations)} times ({given}): give one of them")
        self._check_effects()

    def _check_effects(self) -> None:
        """Raise for a setting that has no effect: beside another row of a table it would seem to make no difference."""
        if not isinstance(self.optimizer, str):
            for name in OF_OPTIMIZER:
                if name in self.given:
                    raise UserError(
                        f"{name} has no effect beside an optax optimizer of your own, which is used as it is: "
                        f"give it to that one, or name an optimizer: {', '.join(OPTIMIZERS)}"
                    )
        elif is_own(self.optimizer):
            for name in ("weight_decay", *settings_of_optimizers()):
                if name in self.given:
                    raise UserError(
                        f"{name} has no effect with optimizer {self.optimizer!r}, a function of the learning rate: "
                        f"write it there, or name an optimizer: {', '.join(OPTIMIZERS)}"
                    )
        else:
            for name in settings_of_optimizers():
                if name in self.given and name not in OPTIMIZERS[self.optimizer].defaults:
                    value = getattr(self, name)
                    off = f"give {name}={str(_default(name)).lower()}" if _default(name) is not None else "leave it out"
                    raise UserError(
                        f"{name} is {value} but has no effect with optimizer {self.optimizer!r}: {off}, "
                        f"or optimizer {' or '.join(map(repr, optimizers_with(name)))}"
                    )
        if self.nesterov and not self.momentum:
            raise UserError("nesterov needs momentum: give a momentum above 0, such as 0.9")
        if self.label_smoothing and self.loss == "squared_error":
            raise UserError(
                f"label_smoothing is {self.label_smoothing} but has no effect with loss 'squared_error', "
                "which reads no labels: leave it out"
            )
        for name in ("step_epochs", "step_factor"):
            if name in self.given and self.schedule != "step":
                raise UserError(
                    f"{name} is {getattr(self, name)} but has no effect with schedule {self.schedule!r}: "
                    "give schedule 'step', or leave it out"
                )
        if self.schedule == "one_cycle" and self.warmup_epochs:
            raise UserError("schedule 'one_cycle' has a rise of its own: give warmup_epochs=0, or another schedule")
        if self.warm_start_only and self.warm_start is None:
            raise UserError(
                f"warm_start_only is {list(self.warm_start_only)} but has no effect without a warm_start: "
                "give the weights file as warm_start, or leave it out"
            )
        if self.select_on is not None and self.select == "last" and not self.early_stopping:
            raise UserError(
                f"select_on is {self.select_on!r} but has no effect with select 'last': "
                "give select 'best' or early_stopping, or leave it out"
            )
        for name in ("augment", "frozen", "warm_start_only"):
            value = getattr(self, name)
            if len(set(value)) < len(value):
                raise UserError(f"{name} is {list(value)}: give each name once")

    @property
    def given(self) -> dict[str, Any]:
        """The settings that differ from their defaults."""
        values = {field.name: (getattr(self, field.name), field.default) for field in dataclasses.fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}

    def total_steps(self, training_examples: int) -> int:
        """The duration in updates for so many training examples; a short last batch is an update too."""
        if self.batch_size > training_examples:
            raise UserError(
                f"batch_size is {self.batch_size} but there are {training_examples} training examples: "
                f"give a batch_size of at most {training_examples}, in a sweep --set batch_size={training_examples}"
            )
        per_epoch = -(-training_examples // self.batch_size)
        if self.steps is not None:
            steps = self.steps
        elif self.examples is not None:
            steps = max(1, -(-self.examples * per_epoch // training_examples))
        else:
            steps = max(1, round((10 if self.epochs is None else self.epochs) * per_epoch))
        self._check_duration(steps, per_epoch)
        return steps

    def _check_duration(self, steps: int, per_epoch: int) -> None:
        """Raise for a setting that has no effect in so many updates."""
        epochs = -(-steps // per_epoch)
        if self.early_stopping >= max(epochs, 1) and self.early_stopping:
            raise UserError(
                f"early_stopping is {self.early_stopping} but has no effect in {epochs} epoch{'s' * (epochs != 1)}: "
                "give fewer epochs of patience (0: none), or train for longer"
            )
        warmup = round(self.warmup_epochs * per_epoch)
        if self.warmup_epochs and not warmup:
            raise UserError(f"warmup_epochs is {self.warmup_epochs}, less than one update: give 0, or more")
        if self.step_epochs is not None and not 1 <= round(self.step_epochs * per_epoch) < steps - warmup:
            raise UserError(
                f"step_epochs is {self.step_epochs} but there are {(steps - warmup) / per_epoch:g} epochs of "
                f"{per_epoch} updates to step down in: give an update or more, and less than all of them"
            )
        if self.schedule != "constant" and warmup >= steps:
            raise UserError(
                f"schedule {self.schedule!r} has no effect: the training is over when its warmup_epochs, "
                f"{self.warmup_epochs}, are; give fewer, or train for longer"
            )

    def selection(self, has_validation: bool) -> str:
        """The split and metric that picks the best epoch, such as "val_loss"."""
        if self.select_on is None:
            return "val_loss" if has_validation else "test_loss"
        if self.select_on.startswith("val_") and not has_validation:
            raise UserError(f"select_on is {self.select_on!r} but there is no validation split: give validation=0.2")
        return self.select_on

    def structure(self) -> Recipe:
        """This recipe without what may differ between trials of one compiled program."""
        alike: dict[str, Any] = {name: 0.5 for name in VARYING if name in self.given}
        if isinstance(self.optimizer, str) and not callable(self.learning_rate):  # else they are part of the program
            alike["learning_rate"] = 1.0
        return dataclasses.replace(self, **alike, seed=0, warm_start=None, warm_start_only=())


def _whole(low: int, high: float = math.inf) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v < high


def _optional(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda v: v is None or rule(v)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_str(value: Any) -> bool:
    return isinstance(value, str)


def _default(name: str) -> Any:
    return {field.name: field.default for field in dataclasses.fields(Recipe)}[name]


def _rule_of(setting: str) -> tuple[Callable[[Any], bool], str]:
    """The rule of a setting that only some optimizers have; raises for one that is no field."""
    default = _default(setting)
    if setting not in NUMBERS:
        return _is_bool, "true or false"
    allows = NUMBERS[setting].allows
    return (allows if default is not None else _optional(allows)), str(NUMBERS[setting])


def _are_strings(value: Any) -> bool:
    return all(isinstance(item, str) for item in value)


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "optimizer": (
        lambda v: isinstance(v, str) or hasattr(v, "update"),
        f"one of {', '.join(OPTIMIZERS)}, 'my_module:make', or an optax transformation",
    ),
    "learning_rate": (lambda v: callable(v) or Number(above=True).allows(v), "a number above 0, or an optax schedule"),
    **{name: _rule_of(name) for name in settings_of_optimizers()},
    "weight_decay": (Number().allows, "0 or more"),
    "clip_norm": (_optional(Number(above=True).allows), "a number above 0, or leave it out"),
    "label_smoothing": (Number(high=1).allows, str(Number(high=1))),
    "schedule": (_is_str, f"one of {', '.join(SCHEDULES)}"),
    "step_epochs": (_optional(Number(above=True).allows), "a number above 0, or leave it out"),
    "step_factor": (Number(high=1, above=True).allows, str(Number(high=1, above=True))),
    "warmup_epochs": (Number().allows, "0 or more"),
    "batch_size": (_whole(1), "a whole number, 1 or more examples"),
    "shuffle": (_is_bool, "true or false"),
    "epochs": (_optional(Number(high=1e9, above=True).allows), "more than 0 and less than 1e9"),
    "steps": (_optional(_whole(1)), "a whole number, more than 0"),
    "examples": (_optional(_whole(1)), "a whole number, more than 0"),
    "loss": (_is_str, f"one of {', '.join(LOSSES)}"),
    "pixels": (_is_str, f"one of {', '.join(PIXELS)}"),
    "augment": (_are_strings, "strings"),
    "frozen": (_are_strings, "strings"),
    "warm_start": (_optional(_is_str), "the path of a weights file"),
    "warm_start_only": (_are_strings, "strings"),
    "seed": (_whole(0, 2**32), "a whole number, 0 or more and below 2**32"),
    "precision": (_is_str, f"one of {', '.join(PRECISIONS)}"),
    "early_stopping": (_whole(0), "a whole number of epochs, 0 or more"),
    "select": (_is_str, f"one of {', '.join(SELECTS)}"),
    "select_on": (_optional(_is_str), f"one of {', '.join(selection_metrics())}"),
    "record_gradients": (_is_bool, "true or false"),
}
_CHOICES = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "loss": LOSSES,
    "pixels": PIXELS,
    "augment": AUGMENTATIONS,
    "conv": CONVS,
    "precision": PRECISIONS,
    "select": SELECTS,
    "select_on": selection_metrics(),
}


_IN_PYTHON = {
    "optimizer": "; or 'my_module:make', a function of the learning rate of your own; "
    "in Python any optax transformation, such as optimizer=optax.lamb(0.001)",
    "schedule": "; in Python any optax schedule, as learning_rate=optax.piecewise_constant_schedule(0.1, {1000: 0.1})",
}


def field_names() -> list[str]:
    """The names of a recipe's fields."""
    return [field.name for field in dataclasses.fields(Recipe)]


def from_dict(settings: dict[str, Any]) -> Recipe:
    """A recipe from plain settings, as a spec holds them.

    Raises:
        UserError: For an unknown key or a wrong value.
    """
    for key in settings:
        if key not in field_names():
            raise unknown("recipe key", key, field_names())
    # Plain floats: of a subclass, JAX would make float32 numbers even where 64 bits are asked for.
    plain: dict[str, Any] = {key: float(v) if isinstance(v, float) else v for key, v in settings.items()}
    return Recipe(**plain)
