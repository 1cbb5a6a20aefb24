"""Keras models into models."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from flaxvision._text import some
from flaxvision.errors import UserError
from flaxvision.layers import Network, TorchModule

if TYPE_CHECKING:
    import keras

_LOG = logging.getLogger("flaxvision")


def from_keras(source: str | Path | keras.Model) -> Network:
    """The network of a Keras model, with its weights; layers with `trainable=False` do not learn here either.

    What surrounds the network becomes what it is here, and is said on standard error: Rescaling and Normalization at
    the start become `model.preprocess`, a Reshape there the input's shape; a softmax at the end, or a sigmoid on one
    output, is left out, since `predict` applies it; augmentation and noise act in training only, and belong into the
    recipe. Then the outputs are compared with Keras's own on random examples: within 1e-4 of the largest, or 0.01 and
    0.05 where the model computes in float16 and bfloat16; here it is float32.

    Args:
        source: A `.keras` or `.h5` file, or a model, Sequential or functional, from one input to one output: with
            branches, sums, products and concatenations, layers used twice, models within it, and operations of
            `keras.ops` among them; channels last.

    Returns:
        The model; layers are named as in Keras, where "conv.0" is "conv_0", those of a model within "MODEL.LAYER".
        A Keras file knows no class names: set `classes` where they matter.

    Raises:
        UserError: If Keras is missing or the file is not a Keras file; for a layer that has no counterpart, with what
            would do instead; and where the network would differ from the model.

    >>> import export, flaxvision as fv
    >>> twin = export.to_keras(fv.models.create("linear", num_classes=3), "three.keras")
    >>> fv.models.from_keras("three.keras").output_shape
    (3,)
    """
    from flaxvision.models.keras_reader.load import import_keras, load
    from flaxvision.models.keras_reader.read import input_shape, read
    from flaxvision.models.reading.compare import check_same, examples

    keras = import_keras()
    twin: Any = load(Path(source)) if isinstance(source, (str, os.PathLike)) else source
    if not isinstance(twin, keras.Model):
        raise UserError(f"from_keras got a {type(twin).__name__}: give a Keras model or the path of a .keras file")
    network, reader = read(twin)
    shape = input_shape(twin)

    def theirs(inputs: np.ndarray) -> np.ndarray:
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # as Keras counts on
            try:
                given = twin(inputs.reshape(len(inputs), *shape), training=False)
                return np.asarray(keras.ops.convert_to_numpy(given))
            except Exception as error:  # whatever a strange configuration makes Keras and its backend raise
                reason = " ".join(str(error).split())[:200]
                raise UserError(f"Keras model {twin.name!r} cannot be run ({reason}): build it anew") from error

    check_same(f"Keras model {twin.name!r}", network, reader, theirs, examples(network))
    frozen = tuple(name for name in network.names if name in reader.frozen)
    if frozen:
        network.torch = TorchModule((), frozen=frozen)
        reader.say(f"{some(frozen)} with trainable=False: not trained here either")
    if reader.said:
        _LOG.warning("Keras model %r: %s", twin.name, "; ".join(reader.said))
    return network
