"""What only the winner's network and its data show: samples, mistakes, doubts, first weights, layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flaxvision.report.pictures import Gallery, Picture, picture, weights_picture
from flaxvision.report.tables import Section

if TYPE_CHECKING:
    from flaxvision.data import Dataset, Split
    from flaxvision.layers import Network

MOST = 16  # pictures of a gallery
WEIGHTS = 32  # and of one of weights


@dataclasses.dataclass(frozen=True, slots=True)
class Insight:
    """What a page shows of a winner beside its numbers."""

    data: tuple[Gallery, ...] = ()  # of the data set
    errors: tuple[Gallery, ...] = ()  # of test examples
    weights: tuple[Gallery, ...] = ()
    layers: Section | None = None


def look_at(model: Network, dataset: Dataset, *, test_time_flip: bool = False) -> Insight:
    """Look at a trained model and its data; every test example is predicted once.

    Args:
        model: As it was trained.
        dataset: What it was trained on.
        test_time_flip: Whether it is scored with mirror images, as its recipe has it.
    """
    images = dataset.train.images.ndim == 4
    samples = (_samples(dataset),) if images else ()
    errors: list[Gallery] = []
    if images and len(model.output_shape) == 3:
        errors = [_reproduced(model, dataset.test)]
    elif images:
        from flaxvision.training import predict

        chances = predict(model, dataset.test.images, test_time_flip=test_time_flip)
        errors = [_mistakes(dataset, chances), _doubts(dataset, chances)]
    weights = _weights(model)
    return Insight(samples, tuple(filter(None, errors)), (weights,) if weights else (), _layers(model))


def _samples(dataset: Dataset) -> Gallery:
    """Training examples of as many classes as there is room for, one of each in turn."""
    labels, classes = dataset.train.labels, dataset.num_classes
    chosen = np.linspace(0, classes - 1, min(classes, MOST)).round().astype(int)
    rounds = -(-MOST // len(chosen))
    of_class = [np.flatnonzero(labels == number)[:rounds].tolist() for number in chosen]
    order = [found[turn] for turn in range(rounds) for found in of_class if turn < len(found)]
    pictures = [
        picture(dataset.train.images[i], f"an example of {dataset.classes[labels[i]]}", dataset.classes[labels[i]])
        for i in order[:MOST]
    ]
    return Gallery("Samples", "Training examples, the first of their classes.", tuple(pictures))


def _mistakes(dataset: Dataset, chances: np.ndarray) -> Gallery:
    """The wrong answers of which the network is most certain."""
    test, answers, certain = dataset.test, chances.argmax(axis=1), chances.max(axis=1)
    wrong = np.flatnonzero(answers != test.labels)
    order = wrong[np.argsort(-certain[wrong], kind="stable")][:MOST]
    note = (
        f"The mistakes of which the winner is most certain, of {len(wrong):,} in {len(test):,} test images: "
        "true → predicted, the probability that it gives, and which image it is."
    )
    return Gallery("Most confident mistakes", note, tuple(_answered(dataset, chances, order)))


def _doubts(dataset: Dataset, chances: np.ndarray) -> Gallery:
    """The answers of which it is least certain, right or wrong."""
    order = np.argsort(chances.max(axis=1), kind="stable")[:MOST]
    note = "The test images whose most probable class has the lowest probability, right or wrong."
    return Gallery("Least certain", note, tuple(_answered(dataset, chances, order)))


def _answered(dataset: Dataset, chances: np.ndarray, order: Sequence[int] | np.ndarray) -> list[Picture]:
    test, names = dataset.test, dataset.classes
    found = []
    for i in map(int, order):
        true, answer = names[test.labels[i]], names[chances[i].argmax()]
        head = f"{true} → {answer}"
        lines = (head, f"{100 * chances[i].max():.1f} %", test.name(i))
        found.append(picture(test.images[i], f"test image {test.name(i)}: {head}", *lines))
    return found


def _reproduced(model: Network, test: Split) -> Gallery:
    """Of a network that gives images: those that it reproduces worst, beside what it makes of them."""
    from flaxvision.training import predict

    scale, offset = (np.asarray(value, np.float32) for value in (model.preprocess.scale, model.preprocess.offset))
    outputs = (predict(model, test.images) - offset) / scale
    if outputs.shape != test.images.shape:
        return Gallery("", "", ())
    errors = np.square(outputs - test.images).mean(axis=(1, 2, 3))
    made = np.clip(np.round(outputs), 0, 255).astype(np.uint8)
    pictures = []
    for i in np.argsort(-errors, kind="stable")[: MOST // 2].tolist():
        both = np.concatenate([test.images[i], made[i]], axis=1)
        pictures.append(picture(both, f"test image {test.name(i)} and its copy", test.name(i)))
    return Gallery("Worst reproduced", "Test images and what the winner makes of them.", tuple(pictures))


def _weights(model: Network) -> Gallery | None:
    """The first layer's weights as pictures: of a convolution, or of a linear layer that takes all pixels."""
    from flax.nnx import Conv, Linear

    if len(model.input_shape) != 3:
        return None
    height, width, channels = model.input_shape
    for step in model.walk():
        layer = step.layer
        if isinstance(layer, Conv) and layer.kernel[...].ndim == 4:
            kernels = np.moveaxis(np.asarray(layer.kernel[...], np.float32), -1, 0)
            if max(kernels.shape[1:3]) < 2:
                return None
            what, title = "filters", "What the first layer looks for"
        elif isinstance(layer, Linear) and step.inputs == ((height * width * channels,),):
            rows = np.asarray(layer.kernel[...], np.float32).T.reshape(-1, channels, height, width)
            kernels, what, title = rows.transpose(0, 2, 3, 1), "units", "What the first layer looks for"
        elif isinstance(layer, Conv | Linear):
            return None
        else:
            continue
        colored = kernels.shape[-1] == 3
        how = "gray is 0" if colored else "orange adds, blue subtracts, white is 0"
        few = f"the first {WEIGHTS} of {len(kernels):,}" if len(kernels) > WEIGHTS else f"all {len(kernels)}"
        note = f"The weights of {step.node.name}, {few} {what}; {how}, each scaled by itself."
        pictures = [weights_picture(kernel, f"{what[:-1]} {i}") for i, kernel in enumerate(kernels[:WEIGHTS])]
        return Gallery(title, note, tuple(pictures), small=True)
    return None


def _layers(model: Network) -> Section:
    from flaxvision.models import summary

    found = summary(model)
    header: tuple[str, ...] = ("layer", "kind", "output shape", "parameters", "multiply-adds", "takes")
    rows: list[tuple[str, ...]] = []
    before: str | None = None
    for row in found.rows:
        takes = "" if row.takes == (before,) else ", ".join("(input)" if name is None else name for name in row.takes)
        shape = " × ".join(map(str, row.output_shape))
        rows.append((row.name, row.kind, shape, f"{row.parameters:,}", f"{row.multiply_adds:,}", takes))
        before = row.name
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    size = " × ".join(map(str, model.input_shape))
    note = f"{found.parameters:,} parameters, {found.multiply_adds:,} multiply-adds for an example of {size}."
    return Section("Layers", header, tuple(rows), (note,))
