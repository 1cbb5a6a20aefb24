"""Trials in plain PyTorch, on tensors in memory or through a DataLoader; JAX is not imported."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from export.references import reference
from flaxvision.data import Dataset, Split

Start = dict[str, Tensor]  # weights by their names
SCALES = {"unit": (1 / 255, 0.0), "signed": (1 / 127.5, -1.0)}
EVALUATION_BATCH = 500


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

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.labels)) if self.shuffle else torch.arange(len(self.labels))
        for batch in order.split(self.batch):
            yield self.images[batch], self.labels[batch]


def tensors(split: Split, pixels: str) -> tuple[Tensor, Tensor]:
    """All images, (N, C, H, W), and labels of a split."""
    scale, offset = SCALES[pixels]
    images = split.images.transpose(0, 3, 1, 2).astype(np.float32) * np.float32(scale) + np.float32(offset)
    return torch.from_numpy(images), torch.tensor(split.labels, dtype=torch.long)


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


def prepare(settings: dict[str, Any], data: Dataset, options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """A trial's training batches, and what is evaluated."""
    pixels = settings.get("pixels", "unit")
    given = batches(data, pixels, settings["batch_size"], settings.get("shuffle", True), options.peer == "loader")
    return given, evaluated(data, pixels)


def train(
    settings: dict[str, Any], sizes: dict[str, Any], seed: int, data: Dataset, start: Start, options: argparse.Namespace
) -> tuple[float, Start]:
    """One trial: its test accuracy after the last epoch, and its weights."""
    given, splits = prepare(settings, data, options)
    torch.manual_seed(seed)
    sizes = {key: tuple(value) if isinstance(value, list) else value for key, value in sizes.items() if key != "init"}
    shape = {"input_shape": data.input_shape, "num_classes": data.num_classes}
    network: nn.Module = reference(settings["model"], **shape, **sizes)
    if settings.get("warm_start"):
        network.load_state_dict(start, strict=False)
    frozen = tuple(settings.get("frozen", ()))
    for name, parameter in network.named_parameters():
        parameter.requires_grad = not (frozen and name.startswith(frozen))
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    optimizer = kinds[settings["optimizer"]](learning, settings["learning_rate"])
    model = torch.compile(network) if options.peer == "compile" else network
    accuracy = float("nan")
    for _ in range(int(settings["epochs"])):
        model.train()
        total = torch.zeros(())
        for x, y in given:
            loss = functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        model.eval()
        for x_all, y_all in splits.values():
            with torch.inference_mode():
                output = torch.cat([model(x) for x in x_all.split(EVALUATION_BATCH)])
            functional.cross_entropy(output, y_all).item()
            accuracy = float((output.argmax(1) == y_all).float().mean())  # of the last split, the test images
    return accuracy, network.state_dict()
