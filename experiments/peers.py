"""Plain PyTorch and Keras on the same data: the reports' own way, as users of these would write it.

PyTorch's networks are `export.references`, hand-written; images lie in memory as tensors. Each framework trains in a
process of its own, since PyTorch's and XLA's waiting threads hinder each other within one.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import functools
import multiprocessing
import os
import time
from typing import Any

import numpy as np

import flaxvision as fv

SCALES = {"unit": (1 / 255, 0.0), "signed": (1 / 127.5, -1.0), "raw": (1.0, 0.0)}  # and "standard", by the images


@functools.cache
def _process(framework: str) -> concurrent.futures.ProcessPoolExecutor:
    """The process of a framework, which thus is imported once."""
    process = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    atexit.register(process.shutdown)
    return process


def train_torch(*args: Any, **settings: Any) -> dict[str, np.ndarray]:
    """Train a hand-written PyTorch network in PyTorch's process: see `_train_torch`."""
    return _process("torch").submit(_train_torch, *args, **settings).result()


def _train_torch(
    name: str,
    dataset: fv.data.Dataset,
    recipe: fv.Recipe,
    *,
    weights: dict[str, np.ndarray] | None = None,
    orders: np.ndarray | None = None,
    frozen: tuple[str, ...] = (),
    **sizes: Any,
) -> dict[str, np.ndarray]:
    """Train a hand-written PyTorch network, and evaluate it after each epoch.

    Args:
        name: A network of `export.references.reference`, with PyTorch's own initialisation from `recipe.seed`.
        dataset: What to train and evaluate on.
        recipe: Optimizer (one that PyTorch has), rates, batch size, epochs, shuffle, pixels, loss and seed are read.
        weights: Tensors by their `state_dict` names that replace the initial ones, as many as are given.
        orders: The order of the examples in every epoch, (epochs, examples), in place of PyTorch's own.
        frozen: Name prefixes of parameters that do not learn.
        **sizes: As in `flaxvision.models.create`.

    Returns:
        "train_loss", "train_top1" (running, in training mode), "test_loss", "test_top1", "test_top3" (also "val_…"
        where the data set has such a split), a value an epoch; "step_loss" (steps,); "seconds" ().
    """
    import torch

    from export._torch_optimizers import torch_optimizer
    from export.references import reference

    torch.set_num_threads(len(fv.runtime.cores()))
    torch.manual_seed(recipe.seed)
    outputs = 1 if recipe.loss == "binary_cross_entropy" else dataset.num_classes
    model = reference(name, input_shape=dataset.input_shape, num_classes=outputs, **sizes)
    if weights:
        model.load_state_dict({k: torch.tensor(v) for k, v in weights.items()}, strict=False)
    for key, parameter in model.named_parameters():
        parameter.requires_grad = not key.startswith(frozen) if frozen else True
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch_optimizer(recipe, learning)
    splits = {"train": dataset.train, "val": dataset.validation, "test": dataset.test}
    scaling = _scaling(dataset, recipe.pixels)
    tensors = {key: _tensors(split, *scaling) for key, split in splits.items() if split is not None}
    images, labels = tensors.pop("train")

    def loss_of(output: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if recipe.loss == "squared_error":
            return ((output - x) ** 2).flatten(1).sum(1).mean()
        if recipe.loss == "binary_cross_entropy":
            return torch.nn.functional.binary_cross_entropy_with_logits(output[:, 0], y.float())
        return torch.nn.functional.cross_entropy(output, y)

    found: dict[str, list[Any]] = {"step_loss": []}
    began = time.perf_counter()
    steps = recipe.total_steps(len(labels))
    per_epoch = -(-len(labels) // recipe.batch_size)
    for epoch in range(-(-steps // per_epoch)):
        model.train()
        order = torch.randperm(len(labels)) if recipe.shuffle else torch.arange(len(labels))
        order = order if orders is None else torch.tensor(orders[epoch]).long()
        total = right = seen = 0.0
        for batch in order.split(recipe.batch_size)[: steps - epoch * per_epoch]:
            x, y = images[batch], labels[batch]
            output = model(x)
            loss = loss_of(output, x, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found["step_loss"].append(loss.item())
            total, seen = total + loss.item() * len(y), seen + len(y)
            right += _top(output.detach(), y, 1)
        rows = {"train_loss": total / seen, "train_top1": right / seen}
        model.eval()
        for key, (x_all, y_all) in tensors.items():
            with torch.inference_mode():
                output = torch.cat([model(x) for x in x_all.split(500)])
            rows[f"{key}_loss"] = float(loss_of(output, x_all, y_all))
            rows |= {f"{key}_top{k}": _top(output, y_all, k) / len(y_all) for k in (1, 3)}
        for key, value in rows.items():
            found.setdefault(key, []).append(value)
    arrays = {key: np.asarray(values) for key, values in found.items()}
    arrays["seconds"] = np.asarray(time.perf_counter() - began)
    return arrays


def _scaling(dataset: fv.data.Dataset, pixels: str) -> tuple[Any, Any]:
    """What pixels are multiplied by and what is added then: numbers, or one a channel (C, 1, 1)."""
    if pixels != "standard" or dataset.train.images.dtype != np.uint8:
        return SCALES.get(pixels, (1.0, 0.0))
    values = dataset.train.images.reshape(-1, dataset.train.images.shape[-1])
    mean, deviation = (each[:, None, None] for each in (values.mean(0, np.float64), values.std(0, np.float64)))
    return 1 / deviation, -mean / deviation


def _tensors(split: fv.data.Split, scale: Any, offset: Any) -> tuple[Any, Any]:
    import torch

    images = split.images
    if images.dtype == np.uint8:
        images = images.transpose(0, 3, 1, 2).astype(np.float32) * np.float32(scale) + np.float32(offset)
    return torch.tensor(images), torch.tensor(split.labels, dtype=torch.long)


def _top(output: Any, labels: Any, k: int) -> float:
    """How many labels are among the k best."""
    if output.ndim > 2:
        return 0.0
    if output.shape[1] == 1:
        return float(((output[:, 0] > 0).long() == labels).sum()) if k == 1 else float(len(labels))
    return float((output.topk(min(k, output.shape[1]), 1).indices == labels[:, None]).any(1).sum())


def train_keras(*args: Any, **settings: Any) -> dict[str, np.ndarray]:
    """Train report A's Keras network in Keras's process: see `_train_keras`."""
    return _process("keras").submit(_train_keras, *args, **settings).result()


def _train_keras(
    dataset: fv.data.Dataset,
    recipe: fv.Recipe,
    *,
    weights: list[np.ndarray] | None = None,
    orders: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Train report A's Keras network with Keras on JAX, with Keras's own initialisation from `recipe.seed`.

    Like `_train_torch`, but that of the recipe, SGD without momentum, only rate, batch size, epochs and seed are read,
    that `weights` are in the order of Keras's, and that there are no "test_top3" and "step_loss".
    """
    os.environ["KERAS_BACKEND"] = "jax"  # read when Keras is imported
    import jax
    import keras
    from keras import layers

    jax.config.update("jax_numpy_rank_promotion", "allow")  # JAX's default, on which Keras relies
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # and this
    keras.utils.set_random_seed(recipe.seed)
    model = keras.Sequential([keras.Input(dataset.input_shape)])
    for channels in (32, 64):
        model.add(layers.Conv2D(channels, 5, activation="relu"))
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(1024, activation="relu"))
    model.add(layers.Dense(dataset.num_classes))
    model.compile(
        keras.optimizers.SGD(recipe.learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    if weights is not None:
        model.set_weights(weights)
    train, test = ((split.images.astype("float32") / 255, split.labels) for split in (dataset.train, dataset.test))
    fit = functools.partial(model.fit, batch_size=recipe.batch_size, validation_data=test, verbose=0)
    began = time.perf_counter()
    if orders is None:
        found = [fit(*train, epochs=int(recipe.epochs or 10)).history]
    else:
        found = [fit(*(part[order] for part in train), shuffle=False).history for order in orders]
    names = {"train_loss": "loss", "train_top1": "accuracy", "test_loss": "val_loss", "test_top1": "val_accuracy"}
    arrays = {ours: np.concatenate([part[theirs] for part in found]) for ours, theirs in names.items()}
    return arrays | {"seconds": np.asarray(time.perf_counter() - began)}
