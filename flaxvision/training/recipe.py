"""How a model is trained: one frozen, hashable, checked record."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, TypeVar

from flaxvision.errors import UserError, unknown
from flaxvision.training import rules
from flaxvision.training.effects import MIXES, OF_OPTIMIZER, check_duration, check_effects
from flaxvision.training.metrics import selection_metrics
from flaxvision.training.optimizers import OPTIMIZERS, is_own
from flaxvision.training.rules import FLAG, Rule, names, number, numbers, one_of, whole

if TYPE_CHECKING:
    import optax

T = TypeVar("T")
SCHEDULES = ("constant", "cosine", "linear", "step", "one_cycle")
# What changes training images, beside `augment` by names.
OF_IMAGES = ("rotation", "translation", "brightness", "contrast", "cutout", "cutmix", "test_time_flip")
BALANCED = "balanced"

_OPTIMIZER = dataclasses.replace(
    one_of(
        *OPTIMIZERS,
        in_python="; or 'my_module:make', a function of the learning rate of your own; "
        "in Python any optax transformation, such as optimizer=optax.lamb(0.001)",
    ),
    allows=lambda v: isinstance(v, str) or hasattr(v, "update"),
    words=f"one of {', '.join(OPTIMIZERS)}, 'my_module:make', or an optax transformation",
)
_DECOUPLED = ", ".join(name for name, optimizer in OPTIMIZERS.items() if optimizer.decoupled)
_WEIGHTS = numbers(f"a number above 0 for each class, or {BALANCED!r}")
_CLASS_WEIGHTS = dataclasses.replace(_WEIGHTS, allows=lambda v: v == (BALANCED,) or _WEIGHTS.allows(v))
_RATE = Rule(lambda v: callable(v) or rules.POSITIVE.allows(v), "a number above 0, or in Python an optax schedule")
_SCHEDULE = one_of(
    *SCHEDULES,
    in_python="; in Python any optax schedule, as learning_rate=optax.piecewise_constant_schedule(0.1, {1000: 0.1})",
)


def _setting(default: T, rule: Rule, meaning: str, varies: Literal["no", "number", "freely"] = "no") -> T:
    """A field of `Recipe`: what it may be, what it means, and whether it may differ among the trials of one program.

    A "number" may if all of them have one, that is, none has the default; what varies "freely" always may.
    """
    return dataclasses.field(default=default, metadata={"rule": rule, "meaning": meaning, "varies": varies})


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

    optimizer: str | optax.GradientTransformation = _setting(
        "sgd",
        _OPTIMIZER,
        "how gradients become updates; also 'my_module:make' or 'file.py:make', a function of the learning rate that "
        "gives an optax transformation, or in Python such a transformation, used as it is; nadam keeps the product of "
        "its momenta in the parameters' type, PyTorch in float32",
    )
    learning_rate: float | optax.Schedule = _setting(0.1, _RATE, "step size of the updates", "freely")
    weight_decay: float = _setting(0.0, number(), f"L2, as in PyTorch, or decoupled ({_DECOUPLED})", "number")
    decay_biases: bool = _setting(
        True,
        FLAG,
        "whether weight decay is of all parameters; false leaves out those of one axis: biases, and scales and shifts "
        "of normalizations",
    )
    clip_norm: float | None = _setting(
        None, rules.IF_GIVEN, "a gradient of a larger L2 norm is scaled down to this one", "number"
    )
    # Settings that only some optimizers have, see `flaxvision.training.optimizers`; None: as that optimizer has it.
    momentum: float = _setting(0.0, rules.SHARE, "share of the last update that is kept", "number")
    nesterov: bool = _setting(False, FLAG, "look ahead along the momentum, which must be above 0")
    beta1: float | None = _setting(
        None, rules.SHARE.optional(), "share of the running mean of gradients that is kept", "number"
    )
    beta2: float | None = _setting(
        None, rules.SHARE.optional(), "share of the running mean of their squares that is kept", "number"
    )
    smoothing: float | None = _setting(
        None, rules.SHARE.optional(), "rmsprop (PyTorch's alpha), adadelta (rho): as beta2", "number"
    )
    epsilon: float | None = _setting(
        None, rules.POSITIVE.optional(), "added to the root of the running mean of squares", "number"
    )
    centered: bool = _setting(
        False, FLAG, "divide by the root of the gradients' variance, in place of that of their mean square"
    )
    momentum_decay: float | None = _setting(
        None, number().optional(), "how fast the momentum grows, PyTorch's momentum_decay", "number"
    )
    vector_scale: float | None = _setting(
        None, rules.POSITIVE.optional(), "what updates of biases and normalizations are multiplied by", "number"
    )
    schedule: str = _setting(
        "constant",
        _SCHEDULE,
        "what learning_rate is multiplied by after the warm-up: 1; a cosine or a line from 1 to 0; 1, from half of the "
        "training on 0.1 and from three quarters on 0.01 (He et al., CVPR 2016); or a rise and a fall (Smith and "
        "Topin, 2017)",
    )
    step_epochs: float | None = _setting(
        None, rules.IF_GIVEN, "schedule 'step': epochs between two steps down, in place of half and three quarters"
    )
    milestones: tuple[float, ...] = _setting(
        (), rules.MILESTONES, "schedule 'step': the epochs, counted from the first, after which the rate steps down"
    )
    step_factor: float = _setting(
        0.1, number(high=1, above=True), "schedule 'step': what a step multiplies the rate by"
    )
    end_factor: float = _setting(
        0.0, rules.SHARE, "schedules 'cosine' and 'linear': share of learning_rate at which they end"
    )
    base_momentum: float | None = _setting(
        None,
        rules.SHARE.optional(),
        "schedule 'one_cycle': what momentum, or beta1, falls to while the rate rises, and rises from again, as in "
        "PyTorch's OneCycleLR; left out, momentum stays",
        "number",
    )
    warmup_epochs: float = _setting(0.0, number(), "epochs in which the rate rises in a line to learning_rate")
    start_factor: float = _setting(0.0, rules.SHARE, "share of learning_rate at which the warm-up begins")
    batch_size: int = _setting(128, whole(1, "a whole number, 1 or more examples"), "examples an update")
    shuffle: bool = _setting(True, FLAG, "draw a new order of the training examples each epoch")
    drop_last: bool = _setting(False, FLAG, "leave out the short last batch of each epoch")
    epochs: float | None = _setting(
        None,
        rules.EPOCHS.optional(),
        "duration in passes over the training examples; without any of epochs, steps and examples it is 10 epochs",
    )
    steps: int | None = _setting(None, rules.COUNT.optional(), "duration in updates")
    examples: int | None = _setting(None, rules.COUNT.optional(), "duration in training examples seen")
    loss: str = _setting(
        "cross_entropy",
        one_of("cross_entropy", "binary_cross_entropy", "squared_error"),
        "of one score a class, of a single score for two classes, or of images, summed over pixels; any but the one "
        "that the network's output is for is an error",
    )
    label_smoothing: float = _setting(
        0.0, rules.SHARE, "share of each label that is spread over all classes, in training only", "number"
    )
    class_weights: tuple[float, ...] | tuple[str] | str = _setting(
        (),
        _CLASS_WEIGHTS,
        "what the training loss of each class's examples is weighted by, as in PyTorch's CrossEntropyLoss; 'balanced': "
        "examples over classes times examples of that class",
    )
    ema: float | None = _setting(
        None,
        rules.AVERAGE,
        "share of the running mean of parameters and batch statistics that each update keeps; that mean is what is "
        "evaluated and kept (PyTorch's AveragedModel)",
        "number",
    )
    lookahead: int = _setting(
        0,
        rules.SOME,
        "every so many updates (0: never) slow weights, which are what is evaluated and kept, go a share of the way to "
        "the parameters, which go on from there (Zhang et al., NeurIPS 2019)",
    )
    lookahead_rate: float = _setting(0.5, number(high=1, above=True), "share of the way that slow weights go", "number")
    lookahead_growth: float = _setting(
        0.0, number(), "the rest of their way is multiplied by (update / updates) to this power", "number"
    )
    pixels: str = _setting(
        "unit",
        one_of("unit", "signed", "raw", "standard"),
        "bytes become numbers from 0 to 1, -1 to 1 or 0 to 255, or have mean 0 and deviation 1 in each channel over "
        "the training images",
    )
    augment: tuple[str, ...] = _setting(
        (),
        names("crop", "flip", "alternating_flip"),
        "changes of training images: a window of the padded image; left to right by chance; or that drawn in the first "
        "epoch, and in each later one what it was not in the one before (Jordan, 2024)",
    )
    crop_padding: int = _setting(
        4, whole(1, "a whole number of pixels, 1 or more"), "augment 'crop': pixels on each side"
    )
    crop_padding_mode: str = _setting("zeros", one_of("zeros", "reflect"), "augment 'crop': what the padding is")
    rotation: float = _setting(0.0, rules.TURN, "turn training images by up to so many degrees, either way", "number")
    translation: float = _setting(
        0.0, rules.SIDE, "move training images by up to this share of each side, either way", "number"
    )
    brightness: float = _setting(
        0.0, rules.JITTER, "multiply training images by a factor that differs from 1 by up to this", "number"
    )
    contrast: float = _setting(
        0.0, rules.JITTER, "multiply what differs from an image's mean gray by such a factor", "number"
    )
    cutout: float = _setting(
        0.0,
        rules.SIDE,
        "share of the side of a square of zeros in training images (DeVries and Taylor, 2017)",
        "number",
    )
    mixup: float = _setting(
        0.0, rules.MIX, "mix training images in pairs, and their labels (Zhang et al., 2018)", "number"
    )
    cutmix: float = _setting(
        0.0,
        rules.MIX,
        "paste a rectangle of one training image into another (Yun et al., 2019); with mixup a coin decides",
        "number",
    )
    test_time_flip: bool = _setting(
        False, FLAG, "evaluate by the mean of the outputs for an image and its mirror image"
    )
    frozen: tuple[str, ...] = _setting(
        (), names(), "prefixes of layers, which are then as in evaluation, or of parameters that do not learn"
    )
    warm_start: str | None = _setting(
        None, rules.PATH.optional(), "weights file, or run whose winner's weights, to start from", "freely"
    )
    warm_start_only: tuple[str, ...] = _setting(
        (), names(), "prefixes of the layers that are taken of it; empty for all", "freely"
    )
    seed: int = _setting(0, rules.SEED, "of the order of examples, dropout and augmentation", "freely")
    conv: str = _setting(
        "auto", one_of("auto", "native"), "on a CPU or GPU the faster forms of convolution, or always XLA's own"
    )
    precision: str = _setting(
        "default",
        one_of("default", "highest", "bfloat16", "float64"),
        "of matrix products, the platform's or the highest; or of matrix products and activations: bfloat16 is for "
        "accelerators, a CPU takes up to four times as long",
    )
    early_stopping: int = _setting(
        0, rules.PATIENCE, "epochs without a better select_on after which training stops; 0: it never does"
    )
    select: str = _setting("last", one_of("last", "best"), "the epoch whose parameters and scores are kept")
    select_on: str | None = _setting(
        None,
        one_of(*selection_metrics()).optional(),
        "split and metric that select and early_stopping go by; left out, val_loss where there is a validation split, "
        "else test_loss",
    )
    record_gradients: bool = _setting(
        False, FLAG, "keep the norms of gradients by layer, and report E's sum of means, of every update"
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, tuple):
                value = tuple(value) if isinstance(value, (list, tuple)) else (value,)
                object.__setattr__(self, field.name, value)
            if not (field.name == "optimizer" and is_own(value)):
                field.metadata["rule"].check(field.name, value)
        check_effects(self)

    def __repr__(self) -> str:
        return f"Recipe({', '.join(f'{name}={value!r}' for name, value in self.given.items())})"

    def _repr_html_(self) -> str:
        from flaxvision.report.notebook import recipe_html

        return recipe_html(self)

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
        check_duration(self, steps, per_epoch)
        return steps

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
NUMBERS = ("learning_rate", *VARYING)
# Those of VARYING that the step reads itself, not through the optimizer.
OF_STEP = tuple(name for name in VARYING if name not in OF_OPTIMIZER)


_SETTINGS = [f"        {name}: {field.metadata['meaning']}." for name, field in _FIELDS.items()]
_ARGS = "\n".join(textwrap.fill(text, 120, subsequent_indent=" " * 12) for text in _SETTINGS)
Recipe.__doc__ = str(Recipe.__doc__).replace("    Raises:", f"    Args:\n{_ARGS}\n\n    Raises:", 1)


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
