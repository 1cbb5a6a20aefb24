"""Whether a model, examples and a recipe fit each other."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from flax import nnx

from flaxvision.data import Dataset, Split
from flaxvision.data.examples import as_array, check_pixels
from flaxvision.errors import UserError, unknown
from flaxvision.layers import BatchNorm, Chain, Dropout, Preprocess
from flaxvision.layers.context import matches
from flaxvision.training.losses import loss_of
from flaxvision.training.metrics import check_metric
from flaxvision.training.preparing import with_weights
from flaxvision.training.recipe import BALANCED, NUMBERS, OF_IMAGES, VARYING, Recipe
from flaxvision.training.state import split_model
from flaxvision.training.updates import check_own


def check_cohort(models: Sequence[Chain], recipes: Sequence[Recipe]) -> None:
    """Raise `UserError` unless there is one recipe a model, and they differ in what may vary within a program only."""
    if len(models) != len(recipes) or not models:
        raise UserError(f"{len(models)} models and {len(recipes)} recipes: give one recipe a model, and one at least")
    if len({recipe.structure() for recipe in recipes}) > 1:
        raise UserError(
            f"recipes of a cohort may differ in learning_rate, {', '.join(VARYING)} (all with one or all without), "
            "seed and warm start only"
        )


def check_numbers(recipe: Recipe, numbers: Mapping[str, float]) -> Recipe:
    """A recipe with other numbers; `UserError` for those that its program does not read, or that are not allowed."""
    fixed = callable(recipe.learning_rate) or not isinstance(recipe.optimizer, str)
    read = [name for name in NUMBERS if (not fixed if name == "learning_rate" else name in recipe.given)]
    for name, value in numbers.items():
        if name not in NUMBERS:
            raise unknown("number", name, read)
        if name not in read:
            why = "is a part of the program" if name == "learning_rate" else "is in none of the recipes"
            raise UserError(f"{name} {why}: {', '.join(read) or 'no number'} may be set")
        if name != "learning_rate" and value == getattr(Recipe(), name):
            raise UserError(f"{name}={value} is its default, without which the program was made: give another number")
    changed: Callable[..., Recipe] = dataclasses.replace
    return changed(recipe, **numbers)


def check_alike(models: Sequence[Chain], frozen: tuple[str, ...]) -> None:
    """Raise `UserError` unless models, which are prepared, differ in their numbers only."""
    split = [split_model(model, frozen) for model in models]
    first, *others = [(graphdef, jax.tree.map(np.shape, variables)) for graphdef, *variables in split]
    if any(other != first for other in others):
        raise UserError("models of a cohort differ in structure: give models of one name and one set of sizes")


def check_fit(model: Chain, dataset: Dataset, recipe: Recipe) -> None:
    """Raise `UserError` unless the model (which may be abstract), the data and the recipe fit each other."""
    if model.input_shape != dataset.input_shape:
        raise UserError(
            f"{model.kind} takes examples of shape {model.input_shape} but {dataset.name} has {dataset.input_shape}: "
            f"create it with input_shape={dataset.input_shape}"
        )
    if recipe.loss != "squared_error" and dataset.num_classes < 2:
        raise UserError(
            f"{dataset.name} has one class, {', '.join(dataset.classes)}: a network tells two or more apart, so give "
            "labels of as many, or of images a folder for each class, FOLDER/cat/1.png and FOLDER/dog/1.png"
        )
    output = model.output_shape
    if loss_of(output) != recipe.loss:
        raise UserError(
            f"loss {recipe.loss!r} does not fit {model.kind}, whose output for one example has shape {output}: "
            f"use loss {loss_of(output)!r}, or a model with other outputs"
        )
    wanted = {"cross_entropy": dataset.num_classes, "binary_cross_entropy": 1}.get(recipe.loss)
    if wanted is not None and output[0] != wanted:
        raise UserError(
            f"{model.kind} has {output[0]} outputs but {dataset.name} has {dataset.num_classes} classes: "
            f"create it with num_classes={wanted}"
        )
    if recipe.loss == "binary_cross_entropy" and dataset.num_classes != 2:
        raise UserError(f"loss 'binary_cross_entropy' takes 2 classes, {dataset.name} has {dataset.num_classes}")
    if recipe.loss == "squared_error" and output != dataset.input_shape:
        raise UserError(f"{model.kind} gives {output} for examples of {dataset.input_shape}: they must be equal")
    check_images(dataset, recipe)
    weights = with_weights(recipe, dataset).class_weights
    if weights and len(weights) != dataset.num_classes:
        raise UserError(
            f"class_weights has {len(weights)} numbers but {dataset.name} has {dataset.num_classes} "
            f"classes: give a number for each, or {BALANCED!r}"
        )
    if recipe.pixels != "unit" and dataset.train.images.dtype != np.uint8:
        raise UserError(
            f"pixels is {recipe.pixels!r} but has no effect: {dataset.name} holds {dataset.train.images.dtype} points, "
            "which are taken as they are; leave it out"
        )
    if recipe.select == "best" or recipe.early_stopping:
        metric = recipe.selection(dataset.validation is not None)
        check_metric("select_on", metric, recipe.loss, dataset.num_classes)
    if recipe.precision == "float64" and not jax.config.read("jax_enable_x64"):
        raise UserError("precision 'float64' needs 64-bit mode: set the environment variable JAX_ENABLE_X64=1")
    if min(recipe.batch_size, len(dataset.train)) == 1:  # would BatchNorm see a single value a channel, and no more?
        for step in model.walk():
            if isinstance(step.layer, BatchNorm) and math.prod(step.output[:-1]) == 1:
                raise UserError(
                    f"{step.node.name} of {model.kind} normalises over the batch, and batches hold one example: "
                    "give batch_size=2 or more (and as many examples), or a network without BatchNorm"
                )
    names = model.parameter_names()
    learning = [names[path] for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))]
    for prefix in recipe.frozen:
        layers = [layer for name, layer in zip(model.names, model.layers, strict=True) if matches(name, (prefix,))]
        if not layers and not any(matches(name, (prefix,)) for name in learning):
            raise unknown(f"layer of {model.kind}", prefix, dict.fromkeys(n.split(".")[0] for n in model.names))
        if layers and not any(isinstance(layer, Dropout) or jax.tree.leaves(nnx.state(layer)) for layer in layers):
            raise UserError(f"frozen={prefix!r} has no effect: those layers of {model.kind} have nothing to learn")
    params = split_model(model, recipe.frozen)[1]
    if not jax.tree.leaves(params):
        raise UserError(f"{model.kind} has nothing to learn with frozen={list(recipe.frozen)}: leave a layer to learn")
    check_own(recipe, params)


def check_images(dataset: Dataset, recipe: Recipe) -> None:
    """Raise `UserError` for a change of images that these do not allow, or that leaves them as they are."""
    shape = dataset.input_shape
    if len(shape) != 3:
        for name in ("augment", *OF_IMAGES):
            if name in recipe.given:
                raise UserError(f"{name}={getattr(recipe, name)} is for images; {dataset.name} holds points")
        return
    if recipe.crop_padding_mode == "reflect" and recipe.crop_padding >= min(shape[:2]):
        raise UserError(
            f"crop_padding is {recipe.crop_padding} but reflects images of {shape[0]} x {shape[1]} pixels: "
            f"give at most {min(shape[:2]) - 1}, or crop_padding_mode='zeros'"
        )
    for name, least in (("translation", 0.5), ("cutout", 2.0)):  # pixels that the larger side's share must be
        share = getattr(recipe, name)
        if share and share * max(shape[:2]) < least:
            raise UserError(
                f"{name} is {share}, which is less than a pixel of {shape[0]} x {shape[1]}: give "
                f"{math.ceil(100 * least / max(shape[:2])) / 100:g} or more, or 0"
            )


def as_model_takes(model: Chain, images: object) -> np.ndarray:
    """Examples as an array that fits the model; `UserError` for another shape, and for values that are no pixels."""
    check_model(model)
    if isinstance(images, (Split, Dataset)):
        raise UserError(f"examples are a {type(images).__name__}: give its images, such as data.test.images")
    where, shape = f"{model.kind} on these examples", model.input_shape
    x = as_array(where, images)
    if len(shape) == 3 and x.ndim == 3 and shape[2] == 1 and x.shape != shape and x.shape[1:] == shape[:2]:
        x = x[..., None]
    if x.shape[1:] != shape:
        raise UserError(
            f"{model.kind} takes examples of shape {shape}, given are {x.shape[1:]}: {_remedy(x.shape, shape)}"
        )
    if not x.size:
        return x
    if len(shape) == 3 and model.preprocess != Preprocess():
        low, high = check_pixels(where, x, "images")
        if x.dtype.kind == "f" and 0 < high <= 1:
            raise UserError(
                f"{where}: images are {x.dtype} from {low:g} to {high:g}, and seem scaled: the model scales pixels "
                "itself, give them as stored, 0 to 255 (np.rint(images * 255).astype('uint8'))"
            )
    elif x.dtype.kind == "f" and not np.isfinite(x).all():
        raise UserError(f"{where}: {np.count_nonzero(~np.isfinite(x))} values are not finite")
    return x


def check_model(model: object) -> None:
    """Raise `UserError` for what is no model."""
    if not isinstance(model, Chain):
        what = "result.model" if isinstance(getattr(model, "model", None), Chain) else "one of create or load_model"
        raise UserError(f"the model is a {type(model).__name__}: give {what}")


def _remedy(given: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """What to write for an array of shape `given` to become one of examples of `shape`."""
    if given == shape:
        return "give an array of several, x[None] for one"
    if len(shape) == 3 and given[1:] == (shape[2], *shape[:2]):
        return "channels come last, write x.transpose(0, 2, 3, 1)"
    if len(given) == 2 and given[1] == math.prod(shape):
        return f"write x.reshape(-1, {', '.join(map(str, shape))})"
    return f"give an array (N, {', '.join(map(str, shape))})"
