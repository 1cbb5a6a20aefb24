"""Keras models whose layers stand one after the other to ours, with what surrounds the network in them."""

from __future__ import annotations

import dataclasses
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from export._keras import import_keras
from export._keras_layers import ALLOWED, WEIGHTS, Shape, as_numpy, check_plain, cut, function_of, made_layer
from flaxvision.errors import UserError
from flaxvision.layers import Activation, Chain, Flatten, Preprocess
from flaxvision.models._flattened import flatten_as_pytorch
from flaxvision.models.files import assign, variables

if TYPE_CHECKING:
    import keras

Layers = list[tuple[str, nnx.Module]]

# Layers that do something while training only.
TRAINING = (
    *("RandomBrightness", "RandomColorDegeneration", "RandomColorJitter", "RandomContrast", "RandomElasticTransform"),
    *("RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale", "RandomHue", "RandomInvert"),
    *("RandomPerspective", "RandomPosterization", "RandomRotation", "RandomSaturation", "RandomSharpness"),
    *("RandomShear", "RandomTranslation", "RandomZoom", "RandAugment", "AugMix", "CutMix", "MixUp"),
    *("GaussianNoise", "GaussianDropout", "SpatialDropout2D", "ActivityRegularization"),
)
_LOG = logging.getLogger("flaxvision")


def from_keras(source: str | Path | keras.Model) -> Chain:
    """The chain of a Keras model whose layers stand one after the other, with its weights.

    What surrounds the network becomes what it is here, and is said on standard error: Rescaling and Normalization at
    the start become `model.preprocess`, a Reshape there the input's shape; a softmax at the end, or a sigmoid on one
    output, is left out, since `predict` applies it; augmentation and noise act in training only, and belong into the
    recipe.

    Args:
        source: A `.keras` or `.h5` file, or a model, Sequential or functional: Dense, Conv2D, Conv2DTranspose,
            BatchNormalization, Dropout, Flatten, pools, activations, zero padding before a Conv2D and cropping after a
            Conv2DTranspose, channels last; models of these within it. Bare operations are not taken, and so not what
            `to_keras` makes of a PolarTransform.

    Returns:
        The model; layers are named as in Keras, where "conv.0" is "conv_0", those of a model within "MODEL.LAYER".
        A Keras file knows no class names: set `classes` where they matter.

    Raises:
        UserError: If Keras is missing, the file is not a Keras file, the model is not a chain, or a layer has no
            counterpart; it is named.

    >>> import export, flaxvision as fv
    >>> twin = export.to_keras(fv.models.create("linear", num_classes=3), "three.keras")
    >>> export.from_keras("three.keras").output_shape
    (3,)
    """
    twin: Any = _load(Path(source)) if isinstance(source, (str, os.PathLike)) else source
    if not isinstance(twin, import_keras().Model):
        raise UserError(f"from_keras got a {type(twin).__name__}: give a Keras model or the path of a .keras file")
    reader = _Reader(_input_shape(twin))
    steps = list(_steps(twin, ""))
    for position, (name, layer) in enumerate(steps):
        reader.read(name, layer, last=position == len(steps) - 1)
    reader.end()
    chain = Chain(reader.layers, input_shape=reader.input_shape, kind=twin.name)
    assign(chain, flatten_as_pytorch(chain, variables(chain)), twin.name, keep_types=True)
    chain.preprocess = reader.preprocess
    if reader.said:
        _LOG.warning("Keras model %r: %s", twin.name, "; ".join(dict.fromkeys(reader.said)))
    return chain


def _input_shape(twin: Any) -> Shape:
    keras = import_keras()
    inputs = getattr(twin, "inputs", None)
    if not inputs and isinstance(twin, keras.Sequential) and isinstance(next(iter(twin.layers), None), keras.Model):
        return _input_shape(twin.layers[0])
    if not inputs:
        raise UserError(
            f"Keras model {twin.name!r} is not built: begin it with keras.Input(shape), or call build((None, *shape))"
        )
    if len(twin.inputs) != 1 or len(twin.outputs) != 1:
        raise UserError(
            f"Keras model {twin.name!r} has {len(twin.inputs)} inputs and {len(twin.outputs)} outputs: "
            "give a plain chain from one to one, such as keras.Model(model.inputs[0], model.outputs[0])"
        )
    shape = tuple(twin.inputs[0].shape[1:])
    if None in shape:
        raise UserError(f"Keras model {twin.name!r} takes examples of shape {shape}: build it for one size")
    return tuple(int(size) for size in shape)


def _output(layer: Any, shape: Shape) -> Shape:
    """What a Keras layer makes of an example of `shape`."""
    return tuple(int(size) for size in layer.compute_output_shape((None, *shape))[1:])


def _steps(twin: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Names and layers in order, those of models within at their place."""
    keras = import_keras()
    for layer in twin.layers if isinstance(twin, keras.Sequential) else _in_order(twin):
        if isinstance(layer, keras.Model):
            yield from _steps(layer, f"{prefix}{layer.name}.")
        elif not isinstance(layer, keras.layers.InputLayer):
            yield f"{prefix}{layer.name}", layer


def _in_order(twin: Any) -> Iterator[Any]:
    """The operations of a functional model from its input to its output, by the graph of its configuration.

    A layer object may stand in other models, too, so that its own `input` and `output` do not tell.
    """
    try:
        entries = twin.get_config()["layers"]
        nodes = {entry["name"]: entry["inbound_nodes"] for entry in entries}
    except (NotImplementedError, KeyError, TypeError) as error:
        raise UserError(
            f"Keras model {twin.name!r} is a class of one's own, {type(twin).__name__}, whose layers have no order: "
            "give a Sequential or functional model"
        ) from error
    operations = {operation.name: operation for operation in twin.operations}
    before: str | None = None
    for name in nodes:  # in the order of the graph
        if not isinstance(operations[name], import_keras().Layer):
            raise UserError(f"the Keras operation {name!r} has no counterpart: give a chain of layers")
        sources = [source for node in nodes[name] for source in _sources(node)]
        if before is not None and sources != [before]:
            raise UserError(f"Keras layer {name!r} does not stand right after {before!r} alone: give a plain chain")
        before = name
        yield operations[name]


def _sources(node: Any) -> Iterator[str]:
    """Names of the layers whose outputs one call of a layer takes."""
    if isinstance(node, dict) and node.get("class_name") == "__keras_tensor__":
        yield node["config"]["keras_history"][0]
    elif isinstance(node, (dict, list, tuple)):
        for part in node.values() if isinstance(node, dict) else node:
            yield from _sources(part)


@dataclasses.dataclass(slots=True)
class _Reader:
    """Takes Keras layers one after the other."""

    shape: Shape  # of what the next layer gets
    input_shape: Shape = ()
    layers: Layers = dataclasses.field(default_factory=list)
    preprocess: Preprocess = dataclasses.field(default_factory=Preprocess)
    said: list[str] = dataclasses.field(default_factory=list)
    pads: np.ndarray | None = None  # (2 axes, before and after): zero padding that waits for its convolution
    padded: str = ""  # by which layer
    permuted: str | None = None  # the layer that moved the channels first, for a Flatten
    upsampled: tuple[Any, Shape] | None = None  # a transposed convolution just read, which a cropping may follow
    start: int = 0  # of what it became

    def __post_init__(self) -> None:
        self.input_shape = self.shape

    def read(self, name: str, layer: Any, *, last: bool) -> None:
        """Take one layer."""
        keras = import_keras()
        kind = type(layer).__name__
        if type(layer) is not getattr(keras.layers, kind, None):
            module = type(layer).__module__
            raise UserError(f"Keras layer {name!r} is a {module}.{kind}, a class of one's own: allowed are {ALLOWED}")
        upsampled, self.upsampled = self.upsampled, None
        if kind == "Permute" and tuple(layer.dims) == (3, 1, 2) and self.permuted is None:
            self.permuted = name
        elif self.permuted is not None:
            if kind != "Flatten":
                words = "a Permute goes before a Flatten only"
                raise UserError(f"Keras layer {self.permuted!r} has no counterpart: {words}")
            self.layers.append((name, Flatten()))
            self.permuted = None
        elif kind == "ZeroPadding2D":
            self.pads = np.asarray(layer.padding) + (0 if self.pads is None else self.pads)
            self.padded = name
        elif kind == "Cropping2D" and upsampled is not None:
            self.layers[self.start :] = self._made(self.layers[self.start][0], *upsampled, layer.cropping, last=False)
        elif kind in TRAINING:
            self.said.append(f"{kind} is left out: it acts in training only")
        elif not (self._surroundings(kind, layer) or (last and self._scores(kind, layer))):
            self.start = len(self.layers)
            self.layers += self._made(name, layer, self.shape, None, last=last)
            self.upsampled = (layer, self.shape) if kind == "Conv2DTranspose" else None
        self.shape = _output(layer, self.shape)

    def end(self) -> None:
        """Raise for what nothing followed."""
        if self.permuted is not None:
            raise UserError(f"Keras layer {self.permuted!r} has no counterpart but before a Flatten")
        if self.pads is not None:
            raise UserError(f"the zero padding of Keras layer {self.padded!r} at the end has no counterpart")

    def _surroundings(self, kind: str, layer: Any) -> bool:
        """Whether the layer only says how images come in."""
        first = not self.layers and self.pads is None
        if kind == "Rescaling" and first:
            self._scale(layer.scale, layer.offset)
        elif kind == "Normalization" and first and not layer.invert:
            mean, deviation = as_numpy(layer.mean), np.maximum(np.sqrt(as_numpy(layer.variance)), 1e-7)
            self._scale(1 / deviation, -mean / deviation)
        elif kind == "Reshape" and first and len(self.shape) == 1 and isinstance(self.preprocess.scale, float):
            self.input_shape = _output(layer, self.shape)
            self.said.append(f"it takes examples of shape {self.input_shape} here, not {self.shape}")
        elif kind in ("Resizing", "CenterCrop", "RandomCrop"):
            if (layer.height, layer.width) != self.shape[:2]:
                raise UserError(
                    f"Keras layer {layer.name!r} is a {kind} from {self.shape[:2]} to ({layer.height}, {layer.width}), "
                    "which has no counterpart: give images of that size, and the model without it"
                )
        else:
            return False
        return True

    def _scale(self, scale: Any, offset: Any) -> None:
        """Put `value * scale + offset` after the preprocessing so far."""
        so_far, channels = self.preprocess, self.shape[-1]
        scale, offset = (np.asarray(as_numpy(part), np.float64) for part in (scale, offset))
        both = np.broadcast_arrays(scale * so_far.scale, scale * np.asarray(so_far.offset) + offset)
        if both[0].size not in (1, channels) or (both[0].size > 1 and both[0].shape[-1] != channels):
            raise UserError(
                f"a Rescaling or Normalization by numbers of shape {both[0].shape} for examples of shape {self.shape} "
                f"has no counterpart: give one number, or one for each of the {channels} channels"
            )
        parts = [part.ravel() for part in both]
        alike = all(np.all(part == part[0]) for part in parts)
        self.preprocess = Preprocess(*(float(p[0]) if alike else tuple(map(float, p)) for p in parts))
        self.said[:] = [words for words in self.said if not words.startswith("preprocess")]
        self.said.append(f"preprocess is value * {self.preprocess.scale} + {self.preprocess.offset}")

    def _scores(self, kind: str, layer: Any) -> bool:
        """Whether the last layer only turns scores into probabilities."""
        function = {"Softmax": "softmax", "Activation": layer.get_config().get("activation")}.get(kind)
        if kind == "Softmax" and layer.axis not in (-1, len(self.shape)):
            return False
        return self._drops(function, self.shape)

    def _drops(self, function: Any, shape: Shape) -> bool:
        """Whether `predict` applies the activation at the end, so that it is left out."""
        drops = len(shape) == 1 and (function == "softmax" or (function == "sigmoid" and shape == (1,)))
        if drops:
            self.said.append(f"the {function} at the end is left out: outputs are scores, predict gives probabilities")
        return drops

    def _made(self, name: str, layer: Any, shape: Shape, crop: tuple | None, *, last: bool) -> Layers:
        kind, config = type(layer).__name__, layer.get_config()
        pads, self.pads = self.pads, None
        check_plain(name, kind, config, shape, pads is not None)
        made = made_layer(name, kind, config, shape, None if pads is None else tuple(map(tuple, pads.tolist())))
        if crop is not None:
            cut(name, made, config["padding"].upper(), crop)
        self._fill(name, made, layer)
        after = config.get("activation") if kind in ("Dense", "Conv2D", "Conv2DTranspose") else None
        extra: Layers = []
        if after not in (None, "linear") and not (last and self._drops(after, _output(layer, shape))):
            extra = [(f"{name}_{after}", Activation(function_of(name, after)))]
        squeeze = kind.startswith("Global") and not config["keepdims"]
        return [(name, made), *extra, *([(f"{name}_flatten", Flatten())] if squeeze else [])]

    def _fill(self, name: str, made: nnx.Module, layer: Any) -> None:
        if mode := getattr(layer, "quantization_mode", None):
            raise UserError(f"Keras layer {name!r} is quantized ({mode}): give it before quantization")
        if getattr(layer, "lora_enabled", False):
            self.said.append(f"the LoRA adapter of {name!r} is added to its kernel")
        if layer.compute_dtype in ("float16", "bfloat16"):
            self.said.append(f"computed in {layer.compute_dtype} there, in float32 here")
        for ours, their in WEIGHTS.get(type(made), {}).items():
            value = getattr(layer, their)
            if value is not None:
                array = as_numpy(value)
                if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
                    self.said.append("float64 weights are made float32: JAX_ENABLE_X64=1 keeps them")
                getattr(made, ours)[...] = jnp.asarray(array)


def _load(path: Path) -> Any:
    keras = import_keras()
    if path.is_dir():
        raise UserError(
            f"{path} is a folder, such as TensorFlow's SavedModel: give a .keras file, model.save('x.keras')"
        )
    if not path.is_file():
        raise UserError(f"no Keras file {path}: give a .keras file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # as in `to_keras`
            return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # whatever zip, json, h5py or Keras raise for a damaged or foreign file
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not a Keras file that can be loaded ({reason})") from error
