"""One training task in flaxvision, PyTorch, Keras and plain Flax, each as its users write it.

All train on the same uint8 images, which lie in memory, in a new random order every epoch; a block is an epoch.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
from contest import Turn
from torch_settings import FIRST, TorchSetting

import flaxvision as fv

NETWORKS = Path(__file__).resolve().parents[1] / "brought" / "networks.py"  # in PyTorch, as people write them


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained: a network at its batch size."""

    name: str  # in the tables
    network: str  # of `flaxvision.models.create`, or a class of `NETWORKS` where that is what was `brought`
    batch: int
    steps: int  # of a block
    optimizer: str = "adam"
    sizes: tuple[tuple[str, Any], ...] = ()
    shape: tuple[int, int, int] = (28, 28, 1)  # of an image
    momentum: float = 0.0
    brought: bool = False
    scores: bool = True  # whether it gives scores; else logarithms of probabilities

    @property
    def recipe(self) -> fv.Recipe:
        """The training."""
        loss = "squared_error" if self.network == "emnist_autoencoder" else "cross_entropy"
        rate = 0.05 if self.optimizer == "sgd" else 1e-3
        rates = {"learning_rate": rate, "momentum": self.momentum}
        return fv.Recipe(optimizer=self.optimizer, batch_size=self.batch, epochs=10_000, loss=loss, **rates)

    def dataset(self) -> fv.data.Dataset:
        """Drawn characters of the network's shape, as many as a block takes."""
        name = "glyphs47" if self.network.startswith("emnist") else "glyphs"
        size, _, channels = self.shape
        return fv.data.load(name, examples=self.batch * self.steps, size=size, channels=channels, limit=None)

    def chain(self, seed: int = 0) -> fv.layers.Chain:
        """The network with PyTorch's initialization."""
        if self.brought:
            name, shape = f"torch:{NETWORKS}:{self.network}", {"input_shape": self.shape}
        else:
            name, shape = self.network, {"input_shape": self.shape, "num_classes": self.classes}
        return fv.models.create(name, init="torch", seed=seed, **shape, **dict(self.sizes))

    def module(self) -> Any:
        """The same in PyTorch, as it is written there."""
        if self.brought:
            from brought import networks

            return getattr(networks, self.network)()
        from export.references import reference

        return reference(self.network, input_shape=self.shape, num_classes=self.classes, **dict(self.sizes))

    @property
    def classes(self) -> int:
        """The number of outputs."""
        return 47 if self.network.startswith("emnist") else 10


def named(name: str, batch: int, steps: int, **sizes: Any) -> Task:
    """A network of the field on images of CIFAR-10's shape, with SGD and momentum."""
    return Task(name, name, batch, steps, "sgd", tuple(sizes.items()), (32, 32, 3), momentum=0.9)


def brought(name: str, network: str, steps: int, shape: tuple[int, int, int], **more: Any) -> Task:
    """A network of `NETWORKS`, with Adam."""
    return Task(name, network, 64, steps, shape=shape, brought=True, **more)


GREY, COLOR = (28, 28, 1), (32, 32, 3)
REPORTS = (
    Task("mlp", "mlp", 64, 400, "sgd"),
    Task("mnist_net", "mnist_net", 32, 100),
    Task("strided_cnn", "strided_cnn", 32, 200),
    Task("wide_cnn, padded", "wide_cnn", 128, 15, "sgd", (("padding", "SAME"),)),
    Task("wide_cnn, unpadded", "wide_cnn", 128, 15, "sgd", (("padding", "VALID"),)),
    Task("tiny_cnn", "tiny_cnn", 16, 400),
    Task("emnist_cnn", "emnist_cnn", 32, 400),
    Task("emnist_autoencoder", "emnist_autoencoder", 32, 100),
    Task("vgg19", "vgg19", 64, 3, shape=COLOR),
)
TASKS = (
    *REPORTS,
    named("resnet20", 128, 4),
    named("resnet18", 128, 1, stem="cifar"),
    named("mobilenet_v2", 64, 2, stem="cifar"),
    named("densenet", 64, 1),
    named("convmixer", 64, 2),
    brought("tutorial", "TutorialNet", 80, GREY, scores=False),
    brought("residual", "ResidualNet", 20, COLOR),
    brought("depthwise", "DepthwiseNet", 20, COLOR),
    brought("dense", "DenseNet", 60, GREY),
    brought("squeeze_excite", "SqueezeExciteNet", 80, COLOR),
    brought("sequential", "sequential", 300, GREY),
)


def train_flaxvision(turn: Turn, task: Task, members: int = 0, **changes: Any) -> None:
    """`fv.fit`, or `fv.training.train_cohort` of so many members; changes are of the recipe."""
    fv.runtime.prepare()
    data = task.dataset()
    data, recipe = dataclasses.replace(data, test=data.test[:1]), dataclasses.replace(task.recipe, **changes)
    models = [task.chain(seed) for seed in range(max(1, members))]
    recipes = [dataclasses.replace(recipe, seed=seed) for seed in range(members)]
    if turn():
        callbacks = [lambda progress: bool(progress.metrics) and not turn()]
        if members:
            fv.training.train_cohort(models, data, recipes, callbacks=callbacks)
        else:
            fv.fit(models[0], data, recipe, callbacks=callbacks)


def train_torch(turn: Turn, task: Task, setting: TorchSetting = FIRST, *, half: bool = False) -> None:
    """PyTorch, images in memory as float tensors, on a GPU where there is one; `half`: in bfloat16."""
    import torch
    from torch_trials import OPTIMIZERS, PLACE, InMemory, learn

    recipe = task.recipe
    order = torch.channels_last if setting.channels_last else torch.contiguous_format
    batches = InMemory(task.dataset().train, "unit", task.batch, shuffle=True)
    batches.images = batches.images.contiguous(memory_format=order)
    torch.manual_seed(0)
    network = task.module().to(PLACE, memory_format=order)
    more = {"momentum": task.momentum} if task.momentum else {}
    fused = setting.fused or None  # None: as PyTorch chooses, on a GPU a group of tensors at a time
    optimizer = OPTIMIZERS[task.optimizer](network.parameters(), recipe.learning_rate, fused=fused, **more)
    model = torch.compile(network) if setting.compiled else network
    class_loss = torch.nn.functional.cross_entropy if task.scores else torch.nn.functional.nll_loss

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.autocast(PLACE.type, torch.bfloat16, enabled=half):
            output = model(x).float()
        if recipe.loss == "squared_error":
            return ((output - x) ** 2).sum() / len(x)
        return class_loss(output, y)

    while turn():
        assert bool(torch.isfinite(learn(model, optimizer, batches, loss_of)))


def train_keras(turn: Turn, task: Task) -> None:
    """Keras 3 on JAX, `model.fit` on arrays."""
    from keras_trials import OPTIMIZERS, keras  # sets Keras up

    import export

    data, recipe = task.dataset(), task.recipe
    model = export.to_keras(task.chain())
    images = data.train.images.astype(np.float32) / 255
    targets, loss = data.train.labels, keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if recipe.loss == "squared_error":
        targets, loss = images, lambda x, y: keras.ops.sum((x - y) ** 2, axis=(1, 2, 3))
    model.compile(OPTIMIZERS[task.optimizer](recipe.learning_rate), loss)

    class Turns(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.stop_training = not turn()

    if turn():
        model.fit(images, targets, task.batch, 10_000, shuffle=True, verbose=0, callbacks=[Turns()])


def train_flax(turn: Turn, task: Task, *, jit: str) -> None:
    """Plain Flax NNX; `jit` is "nnx.jit", as in Flax's MNIST example, or "jax.jit" with split and merge."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    data, recipe = task.dataset(), task.recipe
    images, labels = data.train.images.astype(np.float32) / 255, data.train.labels
    model = plain(task.chain())
    optimizer = nnx.Optimizer(model, getattr(optax, task.optimizer)(recipe.learning_rate), wrt=nnx.Param)
    metrics = nnx.MultiMetric(loss=nnx.metrics.Average("loss"))

    def loss_of(model: nnx.Module, x: jax.Array, y: jax.Array) -> jax.Array:
        output = model(x)
        if recipe.loss == "squared_error":
            return ((output - x) ** 2).sum() / len(x)
        return optax.softmax_cross_entropy_with_integer_labels(output, y).mean()

    def step(model: nnx.Module, optimizer: nnx.Optimizer, metrics: nnx.MultiMetric, x: jax.Array, y: jax.Array) -> None:
        loss, gradients = nnx.value_and_grad(loss_of)(model, x, y)
        metrics.update(loss=loss)
        optimizer.update(model, gradients)

    whole = nnx.jit(step)
    graphdef, state = nnx.split((model, optimizer, metrics))

    def split_step(state: nnx.State, x: jax.Array, y: jax.Array) -> nnx.State:
        parts = nnx.merge(graphdef, state)
        step(*parts, x, y)
        return nnx.state(parts)

    merged = jax.jit(split_step, donate_argnums=0)
    random = np.random.default_rng(0)
    while turn():
        order = random.permutation(len(labels))
        for start in range(0, len(order), task.batch):
            batch = order[start : start + task.batch]
            x, y = jnp.asarray(images[batch]), jnp.asarray(labels[batch])
            if jit == "jax.jit":
                state = merged(state, x, y)
            else:
                whole(model, optimizer, metrics, x, y)
        jax.block_until_ready(state if jit == "jax.jit" else nnx.state(model))


def plain(chain: fv.layers.Chain) -> Any:
    """The chain's network of Flax's own modules and functions."""
    from flax import nnx

    from flaxvision import layers

    rngs = nnx.Rngs(0)

    def stock(layer: Any) -> Any:
        match layer:
            case layers.BatchNorm():
                return nnx.BatchNorm(layer.num_features, momentum=layer.momentum, epsilon=layer.epsilon, rngs=rngs)
            case layers.Dropout():
                return nnx.Dropout(float(layer.rate[...]), rngs=rngs)
            case layers.Activation():
                return layers.ACTIVATIONS[layer.function].values
            case layers.Flatten():
                return lambda x: x.reshape(x.shape[0], -1)
            case layers.MaxPool():
                return lambda x: nnx.max_pool(x, layer.window, strides=layer.strides)
            case layers.GlobalMaxPool():
                return lambda x: x.max(axis=(1, 2), keepdims=True)
        return layer  # Linear, Conv and ConvTranspose are Flax's own

    plain_layers = []
    order: np.ndarray | None = None  # rows of the next kernel, where Flax flattens row, column, channel
    for step in chain.walk():
        layer = stock(step.layer)
        if isinstance(step.layer, layers.Flatten):
            ((height, width, channels),) = step.inputs
            order = np.arange(height * width * channels).reshape(channels, height, width).transpose(1, 2, 0).ravel()
        elif isinstance(layer, nnx.Linear) and order is not None:
            layer = nnx.clone(layer)
            layer.kernel[...] = layer.kernel[...][order]
            order = None
        plain_layers.append(layer)
    return nnx.Sequential(*plain_layers)


@functools.lru_cache(maxsize=4)
def arrays(data: fv.data.Dataset, split: str, pixels: str) -> tuple[np.ndarray, np.ndarray]:
    """Images of a split in float32, and labels, for the frameworks that take arrays."""
    scale, offset = {"unit": (1 / 255, 0.0), "signed": (1 / 127.5, -1.0)}[pixels]
    found = data.splits[split]
    return found.images.astype(np.float32) * np.float32(scale) + np.float32(offset), found.labels


def prepare(settings: dict[str, Any], data: fv.data.Dataset, peer: str) -> None:
    for split in data.splits:
        arrays(data, split, settings.get("pixels", "unit"))
