"""airbench94 as a recipe: 94 % on CIFAR-10 in 9.9 epochs (Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU",
arXiv 2404.00498, 2024, whose code is https://github.com/KellerJordan/cifar10-airbench).

What the paper adds to common recipes stands here: the whitening first layer, rates by groups of parameters, and the six
views of an image in the final evaluation. Everything else is settings of the library.
"""

from __future__ import annotations

import math

import jax
import numpy as np
import optax

import flaxvision as fv
from flaxvision.training.preparing import preprocess_for

BATCH, EPOCHS, UPDATES_PER_EPOCH = 1024, 9.9, 48  # whole batches of 50,000 images
UPDATES = math.ceil(EPOCHS * UPDATES_PER_EPOCH)
MOMENTUM = 0.85
RATE = 11.5 / (1 + 1 / (1 - MOMENTUM))  # of the mean loss; Nesterov's momentum multiplies the steps by the divisor
DECAY = 0.0153 / (1 + 1 / (1 - MOMENTUM))  # share of a parameter that an update at the full rate takes
NORM_SCALE = 64.0  # of the rate of BatchNorm's shifts
WHITENING_UPDATES = 3 * UPDATES_PER_EPOCH  # after which the first layer's bias stays
WHITENED, FLOOR = 5000, 5e-4  # training images whose patches count; added to the variances of their components
RISE = int(0.23 * UPDATES)  # updates until the full rate
NORMS = tuple(f"{group}.norm{number}.scale" for group in (2, 3, 4) for number in (1, 2))
VIEWS = {(1, 1): 0.5, (0, 0): 0.25, (2, 2): 0.25}  # place in the image padded by a pixel -> weight

RECIPE = fv.Recipe(
    optimizer="airbench94:updates",
    learning_rate=RATE,
    schedule="linear",
    warmup_epochs=RISE / UPDATES_PER_EPOCH,
    start_factor=0.2,
    end_factor=0.07,
    batch_size=BATCH,
    drop_last=True,
    steps=UPDATES,
    label_smoothing=0.2,
    lookahead=5,
    lookahead_rate=1 - 0.95**5,
    lookahead_growth=3.0,
    pixels="standard",
    augment=("crop", "alternating_flip"),
    crop_padding=2,
    crop_padding_mode="reflect",
    frozen=("0.kernel", *NORMS),
)


def create(data: fv.data.Dataset, seed: int, width: int = 64) -> fv.layers.Chain:
    """The network for a data set, with a first layer that whitens its images."""
    sizes = {"input_shape": data.input_shape, "num_classes": data.num_classes, "width": width}
    model = fv.models.create("airbench94", seed=seed, **sizes)
    first = model.layers[0]
    images = np.asarray(preprocess_for(data, RECIPE.pixels)(data.train.images[:WHITENED], np.dtype("float32")))
    first.kernel[...] = whitening(images, first.kernel.shape[:2]).astype(np.float32)
    return model


def whitening(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A kernel (H, W, C, 2 H W C) by which patches of images (N, rows, columns, C) become uncorrelated.

    Its outputs are the principal components of patches of `size`, the largest first, over their deviations; then the
    negative of each. Nothing is subtracted: images have mean 0.
    """
    patches = np.lib.stride_tricks.sliding_window_view(images, size, (1, 2))  # (N, rows, columns, C, H, W)
    flat = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, math.prod(size) * images.shape[-1])
    variances, components = np.linalg.eigh(flat.T.astype(np.float64) @ flat / len(flat))
    scaled = (components / np.sqrt(variances + FLOOR))[:, ::-1]
    return np.concatenate([scaled, -scaled], axis=1).reshape(*size, images.shape[-1], -1)


def updates(rate: jax.Array) -> optax.GradientTransformation:
    """SGD with Nesterov's momentum, in groups: shifts of norms, the first layer's bias, and everything else.

    The decay is that of the network, whatever the rate of a group is.
    """

    def sgd(scale: float) -> optax.GradientTransformation:
        decay = optax.add_decayed_weights(DECAY / (RATE * scale))
        return optax.chain(decay, optax.trace(MOMENTUM, nesterov=True), optax.scale_by_learning_rate(rate * scale))

    early = optax.scale_by_schedule(lambda count: count < WHITENING_UPDATES)
    groups = {"norms": sgd(NORM_SCALE), "first bias": optax.chain(sgd(1.0), early), "others": sgd(1.0)}

    def group_of(path: tuple[jax.tree_util.DictKey, ...], value: jax.Array) -> str:
        if value.ndim > 1:
            return "others"
        return "norms" if path[1].key else "first bias"

    return optax.partition(groups, lambda params: jax.tree_util.tree_map_with_path(group_of, params))


def top1_of_views(model: fv.layers.Chain, split: fv.data.Split) -> float:
    """The share of images whose class has the largest mean logit over six views.

    These are the image, and the image moved up and left and down and right by a pixel, each with its mirror image.
    """
    height, width = split.images.shape[1:3]
    padded = np.pad(split.images, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    scores = np.zeros((len(split), model.output_shape[0]))
    for (row, column), weight in VIEWS.items():
        view = padded[:, row : row + height, column : column + width]
        # Logarithms of probabilities are logits but for a number an image, which changes no order of classes.
        scores += weight * np.log(fv.predict(model, view, test_time_flip=True))
    return float(np.mean(scores.argmax(axis=1) == split.labels))
