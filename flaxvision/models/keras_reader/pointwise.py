"""How Keras's activations, arithmetic, preprocessing and what acts in training only are read."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from flaxvision.layers import Affine, Dropout, DropPath, SpatialDropout
from flaxvision.models.keras_reader.load import as_numpy, import_keras
from flaxvision.models.keras_reader.table import At, Handler, carry_out, reads
from flaxvision.models.reading import arithmetic
from flaxvision.models.reading.graph import Held

FUNCTIONS = {  # Keras's activations -> ours
    **{name: name for name in ("relu", "relu6", "tanh", "sigmoid", "gelu", "silu", "softplus", "mish", "elu")},
    **{"swish": "silu", "hard_silu": "hardswish", "hard_swish": "hardswish"},
    **{"hard_sigmoid": "hardsigmoid", "hard_tanh": "hardtanh"},
}
OPERATIONS = {  # classes of keras.ops -> ours
    **{name.capitalize(): name for name in ("relu", "relu6", "tanh", "sigmoid", "silu", "softplus", "mish")},
    **{"HardSilu": "hardswish", "HardSigmoid": "hardsigmoid", "HardTanh": "hardtanh"},
}
# Layers that do something while training only.
TRAINING = (
    *("RandomBrightness", "RandomColorDegeneration", "RandomColorJitter", "RandomContrast", "RandomElasticTransform"),
    *("RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale", "RandomHue", "RandomInvert"),
    *("RandomPerspective", "RandomPosterization", "RandomRotation", "RandomSaturation", "RandomSharpness"),
    *("RandomShear", "RandomTranslation", "RandomZoom", "RandAugment", "AugMix", "CutMix", "MixUp"),
    *("GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization"),
)


# Activations.


def activated(at: At, held: Held) -> Held:
    """The value after the activation of a layer that has one."""
    function = getattr(at.layer, "activation", None)
    name = at.config.get("activation")
    if name in (None, "linear"):
        return held
    if isinstance(function, import_keras().Layer):
        call, config = at.part(function.name), function.get_config()
        inner = At(at.reader, call, at.name, function, config, (held,), {})
        return carry_out(inner)
    return _function(at, at.part(str(name)), held, name)


def _function(at: At, call: Any, held: Held, name: object) -> Held:
    """An activation by Keras's name."""
    if name == "linear":
        return held
    if name in ("softmax", "log_softmax"):
        return arithmetic.over_axis(at.reader, call, held, name, len(held.shape) - 1)
    if name == "leaky_relu":
        return arithmetic.activation(at.reader, call, held, "leaky_relu", 0.2)
    if name in ("selu", "celu"):
        return arithmetic.selu(at.reader, call, held) if name == "selu" else arithmetic.celu(at.reader, call, held, 1.0)
    if not isinstance(name, str) or name not in FUNCTIONS:
        allowed = ", ".join(sorted({*FUNCTIONS, "softmax", "log_softmax", "leaky_relu", "selu", "celu"}))
        own = getattr(getattr(at.layer, "activation", None), "__name__", name)
        at.call.refuse(f"the activation {own!r}", f"one of these would do: {allowed}")
    return arithmetic.activation(at.reader, call, held, FUNCTIONS[name])


@reads("Activation")
def _activation(at: At) -> Held:
    if isinstance(at.layer.activation, import_keras().Layer):
        return activated(at, at.held())
    return _function(at, at.call, at.held(), at.config["activation"])


def _operation(name: str) -> Handler:
    return lambda at: arithmetic.activation(at.reader, at.call, at.held(), name)


for operation, ours in OPERATIONS.items():
    reads(operation)(_operation(ours))


@reads("Gelu")
def _gelu(at: At) -> Held:
    return arithmetic.activation(at.reader, at.call, at.held(), "gelu_tanh" if at.layer.approximate else "gelu")


@reads("ReLU")
def _relu(at: At) -> Held:
    top, slope = at.config["max_value"], float(at.config["negative_slope"] or 0)
    if at.config["threshold"] or (slope and top is not None):
        at.call.refuse(f"{at.call.words} with threshold, or with max_value and negative_slope", "one of them would do")
    if slope:
        return arithmetic.activation(at.reader, at.call, at.held(), "leaky_relu", slope)
    return arithmetic.clipped(at.reader, at.call, at.held(), 0.0, top)


@reads("LeakyReLU", "LeakyRelu")
def _leaky_relu(at: At) -> Held:
    slope = at.config.get("negative_slope", getattr(at.layer, "negative_slope", 0.2))
    return arithmetic.activation(at.reader, at.call, at.held(), "leaky_relu", float(slope))


@reads("ELU", "Elu")
def _elu(at: At) -> Held:
    alpha = at.config.get("alpha", getattr(at.layer, "alpha", 1.0))
    return arithmetic.activation(at.reader, at.call, at.held(), "elu", float(alpha))


@reads("Softmax", "LogSoftmax")
def _softmax(at: At) -> Held:
    name = "softmax" if type(at.layer).__name__ == "Softmax" else "log_softmax"
    axis = at.axis(at.layer.axis)
    return arithmetic.over_axis(at.reader, at.call, at.held(), name, axis)


# Arithmetic.


def _arithmetic(sign: str) -> Handler:
    def read(at: At) -> Held:
        total = functools.reduce(
            lambda a, b: arithmetic.of_two(at.reader, at.call, sign, a, b, learns=False), at.inputs
        )
        assert isinstance(total, Held)
        return total

    return read


for operation, symbol in (("Add", "+"), ("Subtract", "-"), ("Multiply", "*"), ("Divide", "/"), ("TrueDivide", "/")):
    reads(operation)(_arithmetic(symbol))


@reads("Average")
def _average(at: At) -> Held:
    total = _arithmetic("+")(at)
    return at.reader.elementwise(at.part("mean"), Affine(1 / len(at.values())), total)


@reads("Negative")
def _negative(at: At) -> Held:
    return arithmetic.affine(at.reader, at.call, at.held(), np.asarray(-1.0), np.asarray(0.0))


@reads("Square")
def _square(at: At) -> Held:
    return arithmetic.power(at.reader, at.call, at.held(), 2)


@reads("Identity")
def _identity(at: At) -> Held:
    return at.held()


# Preprocessing, and what acts in training.


@reads("Rescaling")
def _rescaling(at: At) -> Held:
    scale, offset = (np.asarray(as_numpy(each), np.float64) for each in (at.layer.scale, at.layer.offset))
    return arithmetic.affine(at.reader, at.call, at.held(), scale, offset, learns=False)


@reads("Normalization")
def _normalization(at: At) -> Held:
    mean, deviation = as_numpy(at.layer.mean), np.maximum(np.sqrt(as_numpy(at.layer.variance)), 1e-7)
    mean, deviation = (each.reshape(each.shape[1:] or (1,)) for each in (mean, deviation))
    if at.layer.invert:
        return arithmetic.affine(at.reader, at.call, at.held(), deviation, mean, learns=False)
    return arithmetic.affine(at.reader, at.call, at.held(), 1 / deviation, -mean / deviation, learns=False)


@reads("Resizing", "CenterCrop", "RandomCrop")
def _resizing(at: At) -> Held:
    wanted, given = (at.layer.height, at.layer.width), at.held().shape[:2]
    if wanted != given:
        at.call.refuse(
            f"{at.call.words} from {given} to {wanted}", "give images of that size, and the model without it"
        )
    return at.held()


@reads("Dropout")
def _dropout(at: At) -> Held:
    held, rate, noise = at.held(), float(at.config["rate"]), at.config.get("noise_shape")
    if noise is not None and tuple(noise) != (None, *(1 for _ in held.shape)):
        at.call.refuse(f"{at.call.words} with noise_shape={tuple(noise)}", "(None, 1, 1, 1), of examples, would do")
    return at.reader.elementwise(at.call, (Dropout if noise is None else DropPath)(rate), held)


@reads("SpatialDropout2D")
def _spatial_dropout(at: At) -> Held:
    rate = float(at.config["rate"])
    return at.reader.elementwise(at.call, SpatialDropout(rate), at.held())


@reads(*TRAINING)
def _left_out(at: At) -> Held:
    at.reader.say(f"{type(at.layer).__name__} is left out: it acts in training only")
    return at.held()
