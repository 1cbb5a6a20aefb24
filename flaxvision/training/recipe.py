"""How a model is trained: one frozen, hashable, checked record."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, TypeVar

from flaxvision.errors import UserError, unknown
from flaxvision.training.metrics import selection_metrics
from flaxvision.training.optimizers import OPTIMIZERS, is_own, optimizers_with, settings_of_optimizers
from flaxvision.training.rules import FLAG, Rule, names, number, numbers, one_of, whole

if TYPE_CHECKING:
    import optax

T = TypeVar("T")
# What the learning rate is multiplied by after the warm-up: 1; a cosine or a line from 1 to 0; 1, from half of the
# training on 0.1 and from three quarters on 0.01 (He et al., CVPR 2016; `milestones` and `step_epochs` say otherwise);
# or a rise and a fall (Smith and Topin, 2017).
SCHEDULES = ("constant", "cosine", "linear", "step", "one_cycle")
DURATIONS = ("epochs", "steps", "examples")
OF_DECAY = ("weight_decay", "decay_biases")
OF_OPTIMIZER = ("learning_rate", *OF_DECAY, "clip_norm", "schedule", "warmup_epochs", *settings_of_optimizers())
MIXES = ("mixup", "cutmix")
# What changes training images, beside `augment` by names.
OF_IMAGES = ("rotation", "translation", "brightness", "contrast", "cutout", "cutmix", "test_time_flip")
BALANCED = "balanced"

_POSITIVE = number(above=True)
_SHARE = number(high=1)
_OPTIMIZER = dataclasses.replace(
    one_of(
        *OPTIMIZERS,
        in_python="; or 'my_module:make', a function of the learning rate of your own; "
        "in Python any optax transformation, such as optimizer=optax.lamb(0.001)",
    ),
    allows=lambda v: isinstance(v, str) or hasattr(v, "update"),
    words=f"one of {', '.join(OPTIMIZERS)}, 'my_module:make', or an optax transformation",
)
_AVERAGE = number(high=1, above=True).optional("a number above 0 and below 1, such as 0.999, or leave it out")
_IF_GIVEN = _POSITIVE.optional("a number above 0, or leave it out")
_EPOCHS = number(high=1e9, above=True, words="more than 0 and less than 1e9")
_COUNT = whole(1, "a whole number, more than 0")
_SOME = whole(0, "a whole number of updates, or 0")
_PATIENCE = whole(0, "a whole number of epochs, 0 or more")
_SEED = whole(0, "a whole number, 0 or more and below 2**32", 2**32)
_JITTER = number(high=1, words="a number from 0 up to but without 1: 0.2 draws factors from 0.8 to 1.2")
_SIDE = number(high=1, words="a share of the image's side, from 0 up to but without 1: of 32 pixels 16 are 0.5")
_TURN = number(high=360, words="degrees, from 0 up to but without 360")
_MIX = number(words="the alpha of its Beta distribution, such as 0.2 or 1, or 0")
_MILESTONES = numbers("epochs above 0 in increasing order, such as [100, 150]", increasing=True)
_WEIGHTS = numbers(f"a number above 0 for each class, or {BALANCED!r}")
_CLASS_WEIGHTS = dataclasses.replace(_WEIGHTS, allows=lambda v: v == (BALANCED,) or _WEIGHTS.allows(v))
_PATH = Rule(lambda v: isinstance(v, str), "the path of a weights file")
_RATE = Rule(lambda v: callable(v) or _POSITIVE.allows(v), "a number above 0, or an optax schedule")
_SCHEDULE = one_of(
    *SCHEDULES,
    in_python="; in Python any optax schedule, as learning_rate=optax.piecewise_constant_schedule(0.1, {1000: 0.1})",
)


def _setting(default: T, rule: Rule, varies: Literal["no", "number", "freely"] = "no") -> T:
    """A field of `Recipe`, what it may be, and whether it may differ among the trials of one program.

    A "number" may if all of them have one, that is, none has the default; what varies "freely" always may.
    """
    return dataclasses.field(default=default, metadata={"rule": rule, "varies": varies})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Optimizer, data order, loss, duration and selection of one training run.

    Give the duration as exactly one of `epochs`, `steps` and `examples` (without any: 10 epochs).

    Raises:
        UserError: For a value that is not allowed, the message names the allowed ones; and for a setting that another
            one leaves without effect.

    >>> Recipe(optimizer="adamw", learning_rate=1e-3, weight_decay=0.01, epochs=3).total_steps(60_000)
    1407
    """

    # One of `OPTIMIZERS`; "my_module:make" or "file.py:make", a function of the learning rate that gives an optax
    # transformation; or such a transformation, used as it is.
    optimizer: str | optax.GradientTransformation = _setting("sgd", _OPTIMIZER)
    learning_rate: float | optax.Schedule = _setting(0.1, _RATE, "freely")  # step size; or an optax schedule of it
    weight_decay: float = _setting(0.0, number(), "number")  # L2, as in PyTorch, or decoupled (adamw, lion)
    # Whether it decays all parameters; false leaves out those of one axis: biases, and scales and shifts of norms.
    decay_biases: bool = _setting(True, FLAG)
    clip_norm: float | None = _setting(None, _IF_GIVEN, "number")  # a larger L2 norm of a gradient is scaled to it
    # Settings that only some have, see `flaxvision.training.optimizers`; None: as that optimizer has it.
    momentum: float = _setting(0.0, _SHARE, "number")  # share of the last update that is kept
    nesterov: bool = _setting(False, FLAG)  # look ahead, with momentum above 0
    beta1: float | None = _setting(None, _SHARE.optional(), "number")  # kept share of the gradient's running mean
    beta2: float | None = _setting(None, _SHARE.optional(), "number")  # kept share of its square's running mean
    smoothing: float | None = _setting(None, _SHARE.optional(), "number")  # the same in rmsprop: PyTorch's alpha
    epsilon: float | None = _setting(None, _POSITIVE.optional(), "number")  # added to the root of that mean
    centered: bool = _setting(False, FLAG)  # rmsprop: the root of the variance in place of the square's mean
    momentum_decay: float | None = _setting(None, number().optional(), "number")  # nadam: PyTorch's momentum_decay
    vector_scale: float | None = _setting(None, _POSITIVE.optional(), "number")  # muon: of updates of biases and norms
    schedule: str = _setting("constant", _SCHEDULE)  # how learning_rate goes on, see `SCHEDULES`
    step_epochs: float | None = _setting(None, _IF_GIVEN)  # "step": epochs between two steps down; None: at 1/2 and 3/4
    milestones: tuple[float, ...] = _setting((), _MILESTONES)  # "step": after which epochs, counted from the first
    step_factor: float = _setting(0.1, number(high=1, above=True))  # "step": what one multiplies learning_rate by
    end_factor: float = _setting(0.0, _SHARE)  # "cosine", "linear": share of learning_rate at which they end
    warmup_epochs: float = _setting(0.0, number())  # epochs of linear rise to learning_rate
    start_factor: float = _setting(0.0, _SHARE)  # share of learning_rate from which it rises
    batch_size: int = _setting(128, whole(1, "a whole number, 1 or more examples"))  # examples an update
    shuffle: bool = _setting(True, FLAG)  # a new order of the training examples each epoch
    drop_last: bool = _setting(False, FLAG)  # leave out the short last batch of each epoch
    epochs: float | None = _setting(None, _EPOCHS.optional())  # duration in passes over the training examples
    steps: int | None = _setting(None, _COUNT.optional())  # or in updates
    examples: int | None = _setting(None, _COUNT.optional())  # or in examples seen
    # The loss that the model's output is for; any other is an error that names it: "cross_entropy" of one logit a
    # class, "binary_cross_entropy" of a single logit for two classes, "squared_error" of images, summed over pixels.
    loss: str = _setting("cross_entropy", one_of("cross_entropy", "binary_cross_entropy", "squared_error"))
    label_smoothing: float = _setting(0.0, _SHARE, "number")  # share of labels spread over all classes in training only
    # Weight of each class's examples in the training loss, as in PyTorch's `CrossEntropyLoss`; "balanced": examples
    # over classes times examples of that class.
    class_weights: tuple[float, ...] | tuple[str] | str = _setting((), _CLASS_WEIGHTS)
    # Share of the running mean of parameters and batch statistics that each update keeps; that mean is what is
    # evaluated and kept in place of the parameters (PyTorch's `AveragedModel`, which begins with those of update 1).
    ema: float | None = _setting(None, _AVERAGE, "number")
    # Lookahead (Zhang et al., NeurIPS 2019): every so many updates (0: never) slow weights, which are what is evaluated
    # and kept, go a share of the way to the parameters and batch statistics, which go on from there.
    lookahead: int = _setting(0, _SOME)
    lookahead_rate: float = _setting(0.5, number(high=1, above=True), "number")  # that share
    lookahead_growth: float = _setting(0.0, number(), "number")  # the rest of it is times (update / updates) ** this
    # uint8 to [0, 1], [-1, 1] or [0, 255], or to mean 0 and deviation 1 of each channel over the training images.
    pixels: str = _setting("unit", one_of("unit", "signed", "raw", "standard"))
    # Augmentation of training images; see `flaxvision.training.augment` for what is drawn, and in which order.
    # "crop": a window of the padded image; "flip": left to right; "alternating_flip": drawn in the first epoch, and in
    # each later one what it was not in the one before (Jordan, 2024).
    augment: tuple[str, ...] = _setting((), names("crop", "flip", "alternating_flip"))
    crop_padding: int = _setting(4, whole(1, "a whole number of pixels, 1 or more"))  # "crop": on each side
    crop_padding_mode: str = _setting("zeros", one_of("zeros", "reflect"))  # "crop": what lies there
    rotation: float = _setting(0.0, _TURN, "number")  # by up to so many degrees, either way
    translation: float = _setting(0.0, _SIDE, "number")  # by up to this share of each side, either way
    brightness: float = _setting(0.0, _JITTER, "number")  # times a factor that differs from 1 by up to this
    contrast: float = _setting(0.0, _JITTER, "number")  # likewise, of the difference from the image's mean gray
    cutout: float = _setting(0.0, _SIDE, "number")  # share of the side of a square of zeros (DeVries and Taylor, 2017)
    mixup: float = _setting(0.0, _MIX, "number")  # alpha of Zhang et al. (ICLR 2018)
    cutmix: float = _setting(0.0, _MIX, "number")  # alpha of Yun et al. (ICCV 2019); with both a coin decides
    test_time_flip: bool = _setting(False, FLAG)  # evaluate by the mean of outputs for an image and its mirror image
    frozen: tuple[str, ...] = _setting((), names())  # prefixes of layers, evaluated then, or of parameters
    warm_start: str | None = _setting(None, _PATH.optional(), "freely")  # weights file to start from
    warm_start_only: tuple[str, ...] = _setting((), names(), "freely")  # prefixes of what is taken of it; () for all
    seed: int = _setting(0, _SEED, "freely")  # of the order of examples, dropout and augmentation
    conv: str = _setting("auto", one_of("auto", "native"))  # XLA's own ("native"), or on a CPU or GPU faster forms
    # Of matmuls: the platform's "default", or "highest"; of matmuls and activations: "float64", or "bfloat16", beside
    # which parameters and their updates stay float32: for accelerators, since a CPU takes up to four times as long.
    precision: str = _setting("default", one_of("default", "highest", "bfloat16", "float64"))
    early_stopping: int = _setting(0, _PATIENCE)  # epochs without a better select_on after which to stop; 0 never stops
    select: str = _setting("last", one_of("last", "best"))  # the epoch whose parameters are kept
    # Split and metric of "best": "val_loss", "test_top1", …; None: val_loss or test_loss.
    select_on: str | None = _setting(None, one_of(*selection_metrics()).optional())
    record_gradients: bool = _setting(False, FLAG)  # keep gradient norms by layer and report E's sum of means

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, tuple):
                value = tuple(value) if isinstance(value, (list, tuple)) else (value,)
                object.__setattr__(self, field.name, value)
            if not (field.name == "optimizer" and is_own(value)):
                field.metadata["rule"].check(field.name, value)
        durations = [f"{name}={getattr(self, name)}" for name in DURATIONS if getattr(self, name) is not None]
        if len(durations) > 1:
            raise UserError(f"the duration is given {len(durations)} times ({', '.join(durations)}): give one of them")
        self._check_optimizer()
        self._check_effects()

    def _check_optimizer(self) -> None:
        """Raise for a setting that the optimizer does not have."""
        name, given, theirs = self.optimizer, self.given, settings_of_optimizers()
        if isinstance(name, str) and not is_own(name):
            for key in theirs:
                if key in given and key not in OPTIMIZERS[name].defaults:
                    default = _FIELDS[key].default
                    off = "leave it out" if default is None else f"give {key}={str(default).lower()}"
                    others = " or ".join(map(repr, optimizers_with(key)))
                    raise self._no_effect(key, f"with optimizer {name!r}: {off}, or optimizer {others}")
            return
        if isinstance(name, str):
            without: tuple[str, ...] = *OF_DECAY, *theirs
            why = f"with optimizer {name!r}, a function of the learning rate: write it there"
        else:
            without = OF_OPTIMIZER
            why = "beside an optax optimizer of your own, which is used as it is: give it to that one"
        for key in without:
            if key in given:
                raise UserError(f"{key} has no effect {why}, or name an optimizer: {', '.join(OPTIMIZERS)}")

    def _check_effects(self) -> None:
        """Raise for a setting that another one leaves without effect."""
        if self.nesterov and not self.momentum:
            raise UserError("nesterov needs momentum: give a momentum above 0, such as 0.9")
        for name in ("label_smoothing", "class_weights", *MIXES, "test_time_flip"):
            if name in self.given and self.loss == "squared_error":
                raise self._no_effect(name, f"with loss {self.loss!r}, which reads no labels: leave it out")
        for name in ("step_epochs", "step_factor", "milestones"):
            if name in self.given and self.schedule != "step":
                raise self._no_effect(name, f"with schedule {self.schedule!r}: give schedule 'step', or leave it out")
        if self.milestones and self.step_epochs is not None:
            raise UserError("both milestones and step_epochs say when the rate steps down: give one of them")
        if self.end_factor and self.schedule not in ("cosine", "linear"):
            raise self._no_effect("end_factor", f"with schedule {self.schedule!r}: give 'cosine' or 'linear'")
        if self.start_factor and not self.warmup_epochs:
            raise self._no_effect("start_factor", "without a warm-up: give warmup_epochs, or leave it out")
        for name in ("lookahead_rate", "lookahead_growth"):
            if name in self.given and not self.lookahead:
                raise self._no_effect(name, "without lookahead: give a number of updates, such as lookahead=5")
        if self.lookahead and self.ema is not None:
            raise UserError("both ema and lookahead say which mean of the weights is evaluated: give one of them")
        if {"flip", "alternating_flip"} <= set(self.augment):
            raise UserError("augment has both 'flip' and 'alternating_flip': give one of them")
        if not self.decay_biases and not self.weight_decay:
            raise self._no_effect("decay_biases", "without weight decay: give a weight_decay above 0, or leave it out")
        for name in MIXES:
            if name in self.given and self.batch_size == 1:
                raise self._no_effect(name, "in batches of one example, which has no partner: give a larger batch_size")
        for name in ("crop_padding", "crop_padding_mode"):
            if name in self.given and "crop" not in self.augment:
                raise self._no_effect(name, "without random crops: give augment=['crop'], or leave it out")
        if self.schedule == "one_cycle" and self.warmup_epochs:
            raise UserError("schedule 'one_cycle' has a rise of its own: give warmup_epochs=0, or another schedule")
        if self.warm_start_only and self.warm_start is None:
            why = "without a warm_start: give the weights file as warm_start, or leave it out"
            raise self._no_effect("warm_start_only", why)
        if self.select_on is not None and self.select == "last" and not self.early_stopping:
            why = "with select 'last': give select 'best' or early_stopping, or leave it out"
            raise self._no_effect("select_on", why)
        for name, field in _FIELDS.items():
            value = getattr(self, name)
            if field.metadata["rule"].once and len(set(value)) < len(value):
                raise UserError(f"{name} is {list(value)}: give each name once")

    def _no_effect(self, name: str, why: str) -> UserError:
        """The error for a setting without effect: beside another row of a table it would seem to make no difference."""
        value = getattr(self, name)
        return UserError(f"{name} is {list(value) if isinstance(value, tuple) else value!r} but has no effect {why}")

    @property
    def given(self) -> dict[str, object]:
        """The settings that differ from their defaults."""
        values = {name: getattr(self, name) for name in _FIELDS}
        return {name: value for name, value in values.items() if value != _FIELDS[name].default}

    @property
    def mixes(self) -> bool:
        """Whether training examples are mixed with one another."""
        return any(name in self.given for name in MIXES)

    def steps_per_epoch(self, training_examples: int) -> int:
        """Updates in a pass over so many training examples; a short last batch that is not dropped is one too."""
        whole, rest = divmod(training_examples, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def total_steps(self, training_examples: int) -> int:
        """The duration in updates for so many training examples."""
        if self.batch_size > training_examples:
            raise UserError(
                f"batch_size is {self.batch_size} but there are {training_examples} training examples: "
                f"give a batch_size of at most {training_examples}, in a sweep --set batch_size={training_examples}"
            )
        per_epoch = self.steps_per_epoch(training_examples)
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
        if self.early_stopping >= max(epochs, 1):
            why = "give fewer epochs of patience (0: none), or train for longer"
            raise self._no_effect("early_stopping", f"in {epochs} epoch{'s' * (epochs != 1)}: {why}")
        warmup = round(self.warmup_epochs * per_epoch)
        if self.warmup_epochs and not warmup:
            raise UserError(f"warmup_epochs is {self.warmup_epochs}, less than one update: give 0, or more")
        at = [warmup, *(round(milestone * per_epoch) for milestone in self.milestones), steps]
        if self.milestones and not all(a < b for a, b in itertools.pairwise(at)):
            raise UserError(
                f"milestones is {list(self.milestones)} but steps down from {warmup / per_epoch:g} to "
                f"{steps / per_epoch:g} epochs, of {per_epoch} updates, are possible: give epochs between these"
            )
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
        chosen = self.select_on or ("val_loss" if has_validation else "test_loss")
        if chosen.startswith("val_") and not has_validation:
            raise UserError(f"select_on is {chosen!r} but there is no validation split: give validation=0.2")
        return chosen

    def structure(self) -> Recipe:
        """This recipe without what may differ between trials of one compiled program."""
        alike = {name: field.default for name, field in _FIELDS.items() if field.metadata["varies"] == "freely"}
        if not isinstance(self.optimizer, str) or callable(self.learning_rate):  # which are part of the program
            del alike["learning_rate"]
        replace: Callable[..., Recipe] = dataclasses.replace
        return replace(self, **alike, **{name: 0.5 for name in VARYING if name in self.given})


_FIELDS = {field.name: field for field in dataclasses.fields(Recipe)}
# The numbers that may differ among the trials of one program, beside what varies freely.
VARYING = tuple(name for name, field in _FIELDS.items() if field.metadata["varies"] == "number")
# Those of them that the step reads itself, not through the optimizer.
OF_STEP = tuple(name for name in VARYING if name not in OF_OPTIMIZER)


def field_names() -> list[str]:
    """The names of a recipe's fields."""
    return list(_FIELDS)


def from_dict(settings: Mapping[str, object]) -> Recipe:
    """A recipe from plain settings, as a spec holds them.

    Raises:
        UserError: For an unknown key or a wrong value.
    """
    for key in settings:
        if key not in _FIELDS:
            raise unknown("recipe key", key, _FIELDS)
    make: Callable[..., Recipe] = Recipe
    return make(**{key: _plain(value) for key, value in settings.items()})


def _plain(value: object) -> object:
    """A value with plain floats: of a subclass, JAX would make float32 numbers even where 64 bits are asked for."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    return float(value) if isinstance(value, float) else value
