"""Trials in plain PyTorch, on tensors in memory (on a GPU where there is one) or through a DataLoader, without JAX."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from export.references import reference
from flaxvision.data import Dataset, Split

Settings = dict[str, Any]
Start = dict[str, Tensor]  # weights by their names
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
SCALES = {"unit": (1 / 255, 0.0), "signed": (1 / 127.5, -1.0)}
EVALUATION_BATCH = 500
PLACE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.set_float32_matmul_precision("highest" if PLACE.type == "cpu" else "high")  # TF32, as JAX's default


class Pixels(torch.utils.data.Dataset):
    """Images one by one, each from PIL to a tensor."""

    def __init__(self, split: Split, pixels: str):
        self.images = [Image.fromarray(image.squeeze()) for image in split.images]
        self.labels = [int(label) for label in split.labels]
        self.scale, self.offset = SCALES[pixels]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        pixels = torch.from_numpy(np.array(self.images[i], copy=True))[None]  # as torchvision's ToTensor
        return pixels.to(torch.float32) * self.scale + self.offset, self.labels[i]


class InMemory:
    """Batches of tensors, in a new random order every time if asked for."""

    def __init__(self, split: Split, pixels: str, batch: int, shuffle: bool):
        self.images, self.labels = tensors(split, pixels)
        self.batch, self.shuffle = batch, shuffle

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count = len(self.labels)
        order = torch.randperm(count, device=PLACE) if self.shuffle else torch.arange(count, device=PLACE)
        for batch in order.split(self.batch):
            yield self.images[batch], self.labels[batch]


def tensors(split: Split, pixels: str) -> tuple[Tensor, Tensor]:
    """All images, (N, C, H, W), and labels of a split."""
    scale, offset = SCALES[pixels]
    images = split.images.transpose(0, 3, 1, 2).astype(np.float32) * np.float32(scale) + np.float32(offset)
    return torch.from_numpy(images).to(PLACE), torch.tensor(split.labels, dtype=torch.long, device=PLACE)


@functools.lru_cache(maxsize=2)
def batches(data: Dataset, pixels: str, batch: int, shuffle: bool, loader: bool) -> Any:
    """The training batches, made once for all trials."""
    if loader:
        return DataLoader(Pixels(data.train, pixels), batch, shuffle)
    return InMemory(data.train, pixels, batch, shuffle)


@functools.lru_cache(maxsize=2)
def evaluated(data: Dataset, pixels: str) -> dict[str, tuple[Tensor, Tensor]]:
    """The tensors of the splits that are evaluated after every epoch."""
    return {name: tensors(split, pixels) for name, split in data.splits.items() if name != "train"}


def prepare(settings: Settings, data: Dataset, peer: str) -> tuple[Any, dict[str, tuple[Tensor, Tensor]]]:
    """A trial's training batches, and what is evaluated."""
    pixels = settings.get("pixels", "unit")
    given = batches(data, pixels, settings["batch_size"], settings.get("shuffle", True), peer == "loader")
    return given, evaluated(data, pixels)


def learn(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    given: Iterable[tuple[Tensor, Tensor]],
    loss_of: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """A step for each batch; returns the sum of the losses."""
    model.train()
    total = torch.zeros((), device=PLACE)
    for x, y in given:
        loss = loss_of(x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach()
    return total


class Training:
    """A trial's network and optimizer, and what is done in an epoch."""

    def __init__(self, settings: Settings, sizes: Settings, seed: int, data: Dataset, start: Start, peer: str):
        self.given, self.splits = prepare(settings, data, peer)
        torch.manual_seed(seed)
        sizes = {k: tuple(value) if isinstance(value, list) else value for k, value in sizes.items() if k != "init"}
        shape = {"input_shape": data.input_shape, "num_classes": data.num_classes}
        self.network: nn.Module = reference(settings["model"], **shape, **sizes)
        if settings.get("warm_start"):
            self.network.load_state_dict(start, strict=False)
        self.network.to(PLACE)
        frozen = tuple(settings.get("frozen", ()))
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad = not (frozen and name.startswith(frozen))
        learning = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer = OPTIMIZERS[settings["optimizer"]](learning, settings["learning_rate"])
        self.model: nn.Module = self.network
        if peer == "compile":
            torch._dynamo.config.recompile_limit = 100  # all trials of a table share the code of `forward`
            self.model = torch.compile(self.network)

    def learn(self, given: Iterable[tuple[Tensor, Tensor]]) -> None:
        """A step for each batch."""
        learn(self.model, self.optimizer, given, lambda x, y: functional.cross_entropy(self.model(x), y))

    def evaluate(self) -> float:
        """The accuracy on the last split, the test images, after evaluating all."""
        self.model.eval()
        accuracy = float("nan")
        for x_all, y_all in self.splits.values():
            with torch.inference_mode():
                output = torch.cat([self.model(x) for x in x_all.split(EVALUATION_BATCH)])
            functional.cross_entropy(output, y_all).item()
            accuracy = float((output.argmax(1) == y_all).float().mean())
        return accuracy


def train(
    settings: Settings, sizes: Settings, seed: int, data: Dataset, start: Start, peer: str
) -> tuple[float, Start]:
    """One trial: its test accuracy after the last epoch, and its weights."""
    training = Training(settings, sizes, seed, data, start, peer)
    accuracy = float("nan")
    for _ in range(int(settings["epochs"])):
        training.learn(training.given)
        accuracy = training.evaluate()
    return accuracy, training.network.state_dict()


def estimate(settings: Settings, sizes: Settings, data: Dataset, steps: int, peer: str) -> tuple[float, float]:
    """Seconds of one trial from some steps of its first epoch: what is done once (compilation), and all its epochs."""
    training = Training(settings, sizes, 0, data, {}, peer)

    def timed(count: int) -> tuple[float, float]:
        began = time.perf_counter()
        training.learn(itertools.islice(training.given, count))
        if PLACE.type == "cuda":
            torch.cuda.synchronize()
        learned = time.perf_counter()
        training.evaluate()
        return learned - began, time.perf_counter() - learned

    per_epoch = len(training.given)
    steps = min(steps, per_epoch)
    once = sum(timed(min(5, per_epoch)))
    learning, evaluation = timed(steps)
    return once, int(settings["epochs"]) * (per_epoch / steps * learning + evaluation)
