"""A sweep's table in plain PyTorch: one trial after the other, as a script for a report would fill it.

    python experiments/benchmarks/torch_table.py fashion-learning-rate --epochs 2 --out results.json

Images lie in memory as tensors; `--compile` compiles each network, `--loader` reads image by image through a
DataLoader, as the reports' own scripts do. Reads the sweep's spec, so that both fill the same table; JAX is not
imported.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from export.references import reference
from flaxvision.data import Dataset, Split, load
from flaxvision.sweep.parse import load_spec
from flaxvision.sweep.trials import expand, override

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
def dataset(name: str, raw_dir: str | None, limit: int | None, validation: float | None) -> Dataset:
    """A data set, read once for all trials."""
    return load(name, raw_dir=raw_dir, limit=limit, validation=validation)


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


def prepare(settings: dict[str, Any], options: argparse.Namespace) -> tuple[Dataset, Any, dict[str, Any]]:
    """A trial's data: the set, its training batches, and what is evaluated."""
    data = dataset(settings["dataset"], options.raw_dir, settings.get("limit"), settings.get("validation"))
    pixels = settings.get("pixels", "unit")
    given = batches(data, pixels, settings["batch_size"], settings.get("shuffle", True), options.loader)
    return data, given, evaluated(data, pixels)


def train(
    settings: dict[str, Any], sizes: dict[str, Any], seed: int, start: dict[str, Tensor], options: argparse.Namespace
) -> tuple[float, dict[str, Tensor]]:
    """One trial: its test accuracy after the last epoch, and its weights."""
    data, given, splits = prepare(settings, options)
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
    model = torch.compile(network) if options.compile else network
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


def main() -> None:
    """Fill the table; write the mean test accuracy and the seconds as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", help="a sweep of classifiers")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--raw-dir")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--loader", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    began = time.perf_counter()
    spec = override(load_spec(options.spec), epochs=options.epochs, seeds=options.seeds, limit=options.limit)
    trials = expand(spec)
    start: dict[str, Tensor] = {}
    seconds = {"pretrain": 0.0}
    if spec.pretrain is not None:
        settings = spec.pretrain.settings
        prepare(settings, options)
        seconds["pretrain"] -= time.perf_counter()
        _, start = train(settings, {"hidden": settings["hidden"]}, 0, {}, options)
        seconds["pretrain"] += time.perf_counter()
        start = {name: value for name, value in start.items() if name.startswith(spec.pretrain.only)}
    prepare(trials[0].settings, options)
    ready = time.perf_counter()
    seconds["start"] = ready - began - seconds["pretrain"]
    accuracies = []
    for trial in trials:
        accuracies.append(train(trial.settings, trial.sizes, trial.seed, start, options)[0])
    seconds["trials"] = time.perf_counter() - ready
    found = {"accuracy": float(np.mean(accuracies)), "seconds": seconds}
    options.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
