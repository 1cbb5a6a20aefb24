"""Trials in Keras 3 on JAX: `model.compile` and `model.fit` on arrays."""

from __future__ import annotations

import os
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"  # read when Keras is imported

import jax
import keras
import numpy as np
from contestants import arrays, prepare

import export
import flaxvision as fv
from flaxvision.data import Dataset

Settings = dict[str, Any]
Start = dict[str, list[np.ndarray]]  # a layer's weights by the layer's name
OPTIMIZERS = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}
__all__ = ["prepare", "train"]

jax.config.update("jax_numpy_rank_promotion", "allow")  # JAX's defaults, on which Keras relies
jax.config.update("jax_numpy_dtype_promotion", "standard")


def train(
    settings: Settings, sizes: Settings, seed: int, data: Dataset, start: Start, peer: str
) -> tuple[float, Start]:
    keras.utils.set_random_seed(seed)
    shape = {"input_shape": data.input_shape, "num_classes": data.num_classes}
    model = export.to_keras(fv.models.create(settings["model"], seed=seed, **shape, **sizes))
    frozen = tuple(name.replace(".", "_") for name in settings.get("frozen", ()))
    for layer in model.layers:
        if settings.get("warm_start") and layer.name in start:
            layer.set_weights(start[layer.name])
        layer.trainable = not (frozen and layer.name.startswith(frozen))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(OPTIMIZERS[settings["optimizer"]](float(settings["learning_rate"])), loss, metrics=["accuracy"])
    pixels = settings.get("pixels", "unit")
    others = [arrays(data, split, pixels) for split in data.splits if split != "train"]
    evaluate = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: [model.evaluate(*split, 500, verbose=0) for split in others[:-1]]
    )
    each = {"validation_data": others[-1], "validation_batch_size": 500, "callbacks": [evaluate], "verbose": 0}
    shuffle, epochs = settings.get("shuffle", True), int(settings["epochs"])
    found = model.fit(*arrays(data, "train", pixels), settings["batch_size"], epochs, shuffle=shuffle, **each)
    accuracy = float(found.history["val_accuracy"][-1])  # of the last split, the test images
    return accuracy, {layer.name: layer.get_weights() for layer in model.layers}
