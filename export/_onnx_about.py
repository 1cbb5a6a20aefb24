"""What an ONNX file says about itself: its metadata, and descriptions for whoever opens it."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

import flaxvision
from flaxvision.errors import UserError
from flaxvision.layers import Chain, Preprocess
from flaxvision.models._ending import ending_of
from flaxvision.models._from_onnx import DESCRIPTION
from flaxvision.models.files import describe_model
from flaxvision.training.losses import loss_of

PREFIX = "flaxvision."  # what metadata entries of our own begin with
CLASSES, PREPROCESS, IN_GRAPH = "classes", "preprocess", "preprocess in the graph"
OWN = (CLASSES, PREPROCESS, IN_GRAPH)
LISTED = 20  # class names in a description; all are in the metadata


def metadata_of(model: Chain, extra: Mapping[str, object], normalize: bool) -> dict[str, str]:
    """The file's metadata: the chain, class names, what to do to a pixel before the graph, and the `extra` entries.

    Raises:
        UserError: For an extra entry that has the name of one of ours, or holds what JSON does not.
    """
    about = {
        DESCRIPTION: json.dumps(describe_model(model)),
        CLASSES: json.dumps(model.classes),
        PREPROCESS: (Preprocess() if normalize else model.preprocess).formula,
    }
    if normalize:
        about[IN_GRAPH] = model.preprocess.formula
    return about | dict(sorted((key, _text(key, value)) for key, value in extra.items()))


def is_ours(key: str) -> bool:
    """Whether an entry of this name is for us to write."""
    return key.startswith(PREFIX) or key in OWN


def _text(key: str, value: object) -> str:
    if not isinstance(key, str) or is_ours(key):
        own = ", ".join(map(repr, OWN))
        raise UserError(f"metadata {key!r}: give a name that is text, does not begin with {PREFIX!r} and is not {own}")
    try:
        return value if isinstance(value, str) else json.dumps(value, default=lambda number: number.tolist())
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"metadata {key!r} is a {type(value).__name__}: give text, numbers, lists or a dict") from error


def describe_input(model: Chain, dims: tuple[object, ...], layout: str, normalize: bool) -> str:
    """What to feed the graph."""
    if len(dims) != 4:
        return f"Examples {_shape(dims)}, of {model.dtype}."
    order = "channels first" if layout == "NCHW" else "channels last"
    if normalize:
        return f"Images {_shape(dims)}, {order}, of uint8: 0 to 255. The graph scales them itself."
    images = f"Images {_shape(dims)}, {order}, of {model.dtype}"
    if model.preprocess == Preprocess():
        return f"{images}, with values as the network was trained on: they are not scaled."
    ends = np.outer((0, 255), np.asarray(model.preprocess.scale)) + np.asarray(model.preprocess.offset)
    each = ", one number per channel" if ends.shape[1] > 1 else ""
    scaled = f"{model.preprocess.formula} of pixels from 0 to 255{each}"
    return f"{images}: {scaled}, which gives {ends.min():.6g} to {ends.max():.6g}."


def describe_output(model: Chain, dims: tuple[object, ...], layout: str, softmax: bool) -> str:
    """What the graph gives."""
    loss = loss_of(model.output_shape)
    if loss == "squared_error":
        return f"Images {_shape(dims)}, {'channels first' if layout == 'NCHW' else 'channels last'}."
    names = [str(name) for name in model.classes]
    listed = f", of the classes {', '.join(names[:LISTED])}{', …' if len(names) > LISTED else ''}" if names else ""
    ended = "" if softmax else ending_of(model)
    if ended == "log_softmax":
        return f"Logarithms of probabilities {_shape(dims)}{listed}."
    if ended == "sigmoid":
        return f"The probability {_shape(dims)} of the second class{listed}."
    if softmax or ended:
        return f"Probabilities {_shape(dims)}{listed}."
    if loss == "binary_cross_entropy":
        return f"A score {_shape(dims)}: its sigmoid is the probability of the second class{listed}."
    return f"Scores {_shape(dims)} before softmax{listed}."


def describe_network(model: Chain, taken: str, given: str) -> str:
    """The whole file in a few lines."""
    return f"{model.kind} in evaluation mode, by flaxvision {flaxvision.__version__}.\nInput: {taken}\nOutput: {given}"


def _shape(dims: tuple[object, ...]) -> str:
    return f"({', '.join(map(str, dims))})"
