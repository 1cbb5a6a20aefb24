"""The walk: the calls of a Keras model's layers, in the order of its graph, into a network."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flaxvision.errors import UserError
from flaxvision.layers import Network, Preprocess
from flaxvision.layers.kinds import Shape
from flaxvision.models.keras_reader import pointwise, shaping, weighted  # noqa: F401 (they fill the table)
from flaxvision.models.keras_reader.load import import_keras
from flaxvision.models.keras_reader.table import At, carry_out
from flaxvision.models.reading.graph import Held
from flaxvision.models.reading.reader import Operation, Reader, a
from flaxvision.models.reading.shaping import channels_first

Place = tuple[str, int, int]  # a value: the operation that gives it, which of its calls, which of its outputs
TENSOR = "__keras_tensor__"


@dataclasses.dataclass(frozen=True, slots=True)
class Calls:
    """A functional model by its configuration: layers may stand in other models, too, so that they do not tell."""

    operations: Mapping[str, Any]
    waiting: Sequence[tuple[str, int, Any]]  # each call: the operation's name, which of its calls, arguments
    entry: Place
    exit: Place

    @classmethod
    def of(cls, model: Any) -> Calls:
        """Those of a model.

        Raises:
            UserError: If it is a class of one's own, or has several inputs or outputs.
        """
        try:
            config = model.get_config()
            waiting = [
                (entry["name"], number, node)
                for entry in config["layers"]
                for number, node in enumerate(entry["inbound_nodes"])
            ]
            ends = [_places(config[key]) for key in ("input_layers", "output_layers")]
        except (NotImplementedError, KeyError, TypeError) as error:
            raise UserError(
                f"Keras model {model.name!r} is a class of one's own, {type(model).__name__}, whose layers have no "
                "order: give a Sequential or functional model"
            ) from error
        if [len(end) for end in ends] != [1, 1]:
            raise _several(model, len(ends[0]), len(ends[1]))
        return cls({each.name: each for each in model.operations}, waiting, ends[0][0], ends[1][0])


def read(model: Any) -> tuple[Network, Reader]:
    """The network of a Keras model, and what was found on the way.

    Raises:
        UserError: For what cannot be read; it names the layer.
    """
    reader, entry = Reader.taking(model.name, input_shape(model), last=True)
    given = _model(reader, model, entry, "")
    end = Operation(f"Keras model {model.name!r}", "what it gives", "output", owns_name=False)
    network = reader.network(end, reader.plain(end, channels_first(end, given)))
    if reader.preprocess != Preprocess():
        reader.say(f"preprocess is value * {reader.preprocess.scale} + {reader.preprocess.offset}")
    return network, reader


def input_shape(model: Any) -> Shape:
    """What one example of a model is.

    Raises:
        UserError: If it is not built, or takes more than one value, or values of any size.
    """
    keras = import_keras()
    inputs = getattr(model, "inputs", None)
    if not inputs and isinstance(model, keras.Sequential) and isinstance(next(iter(model.layers), None), keras.Model):
        return input_shape(model.layers[0])
    if not inputs:
        raise UserError(
            f"Keras model {model.name!r} is not built: begin it with keras.Input(shape), or call build((None, *shape))"
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise _several(model, len(model.inputs), len(model.outputs))
    shape = tuple(model.inputs[0].shape[1:])
    if None in shape:
        raise UserError(f"Keras model {model.name!r} takes examples of shape {shape}: build it for one size")
    if not 1 <= len(shape) <= 3:
        raise UserError(f"Keras model {model.name!r} takes examples of shape {shape}: images or vectors are read")
    return tuple(int(size) for size in shape)


def _several(model: Any, inputs: int, outputs: int) -> UserError:
    return UserError(
        f"Keras model {model.name!r} has {inputs} inputs and {outputs} outputs: "
        "give one from one to one, such as keras.Model(model.inputs[0], model.outputs[0])"
    )


def _model(reader: Reader, model: Any, entry: Held, prefix: str) -> Held:
    """What a model gives, layer by layer; those of a model within it have its name before theirs."""
    if isinstance(model, import_keras().Sequential):
        held = entry
        for layer in model.layers:
            held = _call(reader, layer, (held,), {}, prefix)
        return held
    calls = Calls.of(model)
    uses = Counter(place for _, _, node in calls.waiting for place in dict.fromkeys(_within(node)))
    uses[calls.exit] += 1
    values = {calls.entry: entry}
    waiting = list(calls.waiting)
    while waiting:
        ready = [each for each in waiting if all(place in values for place in _within(each[2]))]
        if not ready:
            raise UserError(f"Keras model {model.name!r} has no order of its layers: it is damaged")
        for name, number, node in ready:
            inputs, named = _arguments(node, values)
            reader.shared |= {values[place].value.name for place in _within(node) if uses[place] > 1}
            values[name, number, 0] = _call(reader, calls.operations[name], inputs, named, prefix)
        waiting = [each for each in waiting if each not in ready]
    return values[calls.exit]


def _call(
    reader: Reader,
    layer: Any,
    inputs: tuple[Held | np.ndarray, ...],
    named: dict[str, Any],
    prefix: str,
) -> Held:
    keras = import_keras()
    kind, name = type(layer).__name__, f"{prefix}{layer.name}"
    if isinstance(layer, keras.Model):
        if len(inputs) != 1 or not isinstance(inputs[0], Held):
            raise _several(layer, len(inputs), 1)
        return _model(reader, layer, inputs[0], f"{name}.")
    if isinstance(layer, keras.layers.InputLayer):
        return inputs[0] if isinstance(inputs[0], Held) else _refused(name)
    module = type(layer).__module__
    if type(layer) is not getattr(keras.layers, kind, None) and not module.startswith("keras.src.ops."):
        raise UserError(
            f"Keras layer {name!r} is a {module}.{kind}, a class of one's own, which cannot be read as a flaxvision "
            "network: layers of keras.layers would do"
        )
    operation = Operation(f"Keras layer {name!r}", a(kind), name)
    return carry_out(At(reader, operation, name, layer, layer.get_config(), inputs, named))


def _refused(name: str) -> Held:
    raise UserError(f"Keras layer {name!r} takes no value: give a model from one input to one output")


def _within(node: Any) -> list[Place]:
    """The values that a call takes, in order."""
    if isinstance(node, dict) and node.get("class_name") == TENSOR:
        name, number, output = node["config"]["keras_history"]
        return [(name, number, output)]
    if isinstance(node, (dict, list, tuple)):
        parts = node.values() if isinstance(node, dict) else node
        return [place for part in parts for place in _within(part)]
    return []


def _arguments(node: Any, values: Mapping[Place, Held]) -> tuple[tuple[Held | np.ndarray, ...], dict[str, Any]]:
    """The values and constants that a call takes in order, and its other arguments by name."""
    given = node["args"] if isinstance(node, dict) else node
    found: list[Held | np.ndarray] = []

    def add(part: Any) -> None:
        if isinstance(part, dict) and part.get("class_name") == TENSOR:
            found.extend(values[place] for place in _within(part))
        elif isinstance(part, dict) and part.get("class_name") in ("__tensor__", "__numpy__"):
            found.append(np.asarray(part["config"]["value"]))
        elif isinstance(part, (list, tuple)):
            for each in part:
                add(each)
        elif isinstance(part, (int, float)) and not isinstance(part, bool):
            found.append(np.asarray(part))

    add(given)
    named = dict(node.get("kwargs", {})) if isinstance(node, dict) else {}
    for value in named.values():
        if _within(value):
            add(value)
    return tuple(found), {key: value for key, value in named.items() if not _within(value)}


def _places(given: Any) -> list[Place]:
    """The values that a configuration names as inputs or outputs: one, or a list or dict of them."""
    if isinstance(given, (list, tuple)) and len(given) == 3 and isinstance(given[0], str):
        return [(given[0], int(given[1]), int(given[2]))]
    parts = given.values() if isinstance(given, dict) else given
    return [place for part in parts for place in _places(part)]
