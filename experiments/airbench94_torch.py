"""airbench94 in plain PyTorch on a CPU, for its accuracy and its time; all numbers are those of the paper's code."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import numpy as np
import torch
from airbench94 import BATCH, EPOCHS, UPDATES, UPDATES_PER_EPOCH, WHITENING_UPDATES
from torch import Tensor, nn

import flaxvision as fv
from export.references import reference

MOMENTUM = 0.85
PER_THOUSAND = 1024 * (1 + 1 / (1 - MOMENTUM))  # what rates and decay by 1,024 examples are over those by example
RATE, DECAY = 11.5 / PER_THOUSAND, 0.0153 * BATCH / PER_THOUSAND
NORM_RATE = 64 * RATE


@dataclasses.dataclass(frozen=True)
class Setting:
    """How PyTorch computes; the optimizer is fused in all of them."""

    compiled: bool = False  # by `torch.compile`
    channels_last: bool = True


SETTINGS = {
    "eager": Setting(channels_last=False),
    "eager, channels last": Setting(),
    "compiled": Setting(compiled=True, channels_last=False),
    "compiled, channels last": Setting(compiled=True),
}


class Training:
    """A network, its optimizer and its slow weights."""

    def __init__(self, network: nn.Module, setting: Setting, updates: int = UPDATES):
        self.network, self.first, self.step, self.updates = network, network[0], 0, updates
        self.first.weight.requires_grad_(False)
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.weight.requires_grad_(False)
        shifts = [norm.bias for norm in norms]
        others = [p for p in network.parameters() if p.requires_grad and not any(p is shift for shift in shifts)]
        groups = [
            {"params": shifts, "lr": NORM_RATE, "weight_decay": DECAY / NORM_RATE},
            {"params": others, "lr": RATE, "weight_decay": DECAY / RATE},
        ]
        self.optimizer = torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=True, fused=True)
        rise = int(0.23 * updates)
        fall = updates - rise

        def factor(step: int) -> float:
            return 0.2 + 0.8 * step / rise if step < rise else 1 - 0.93 * (step - rise) / fall

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        self.loss = nn.CrossEntropyLoss(label_smoothing=0.2, reduction="sum")
        self.format = torch.channels_last if setting.channels_last else torch.contiguous_format
        network.to(memory_format=self.format)
        self.run = torch.compile(network) if setting.compiled else network
        self.slow = {name: tensor.clone() for name, tensor in self._averaged()}

    def _averaged(self) -> Iterator[tuple[str, Tensor]]:
        """What slow weights there are of: parameters and running statistics."""
        return ((name, x) for name, x in self.network.state_dict().items() if x.is_floating_point())

    def update(self, images: Tensor, labels: Tensor) -> float:
        """One update; the loss of an example."""
        self.first.bias.requires_grad_(self.step < WHITENING_UPDATES)
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.run(images.contiguous(memory_format=self.format)), labels)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        if self.step % 5 == 0:
            kept = 0.95**5 * (self.step / self.updates) ** 3
            for name, tensor in self._averaged():
                tensor.copy_(self.slow[name].lerp_(tensor, 1 - kept))
        return loss.item() / len(labels)

    def finish(self) -> nn.Module:
        """The network with its slow weights, in evaluation mode."""
        for name, tensor in self._averaged():
            tensor.copy_(self.slow[name])
        return self.network.eval()


def batches(data: fv.data.Dataset, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The augmented batches of all epochs."""
    draw = torch.Generator().manual_seed(seed)
    images, labels = torch.tensor(data.train.images), torch.tensor(data.train.labels).long()
    pixels = data.train.images.reshape(-1, images.shape[-1])
    mean, deviation = (torch.tensor(f(pixels, axis=0, dtype=np.float64)).float() for f in (np.mean, np.std))
    side, first = images.shape[1], torch.rand(len(images), generator=draw) < 0.5
    padded = torch.tensor(np.pad(data.train.images, ((0, 0), (2, 2), (2, 2), (0, 0)), "reflect"))
    window = torch.arange(side)
    for epoch in range(int(np.ceil(EPOCHS))):
        order = torch.randperm(len(images), generator=draw)
        for start in range(0, min(UPDATES_PER_EPOCH, len(images) // BATCH) * BATCH, BATCH):
            chosen = order[start : start + BATCH]
            row, column = torch.randint(0, 5, (2, len(chosen), 1), generator=draw)
            columns = column + window
            mirrored = first[chosen] ^ bool(epoch % 2)
            columns = torch.where(mirrored[:, None], columns.flip(1), columns)
            x = padded[chosen[:, None, None], (row + window)[:, :, None], columns[:, None, :]]
            yield ((x - mean) / deviation).permute(0, 3, 1, 2), labels[chosen]


def step_seconds(
    name: str, data: fv.data.Dataset, weights: dict[str, np.ndarray], before: int, after: int
) -> dict[str, np.ndarray]:
    """Seconds of each of `after` updates by a setting, after `before` others, and their losses."""
    training = Training(network(weights), SETTINGS[name])
    seconds, losses = [], []
    for _, batch in zip(range(before + after), batches(data, seed=0), strict=False):
        began = time.perf_counter()
        losses.append(training.update(*batch))
        seconds.append(time.perf_counter() - began)
    return {"seconds": np.array(seconds[before:]), "loss": np.array(losses)}


def network(weights: dict[str, np.ndarray]) -> nn.Module:
    """The reference with these weights."""
    module = reference("airbench94", input_shape=(32, 32, 3), num_classes=10)
    module.load_state_dict({name: torch.tensor(value) for name, value in weights.items()}, strict=False)
    return module
