"""Small searches, a stand-in for the populations that they train, and readers of what they leave."""

from __future__ import annotations

import json
import math
from typing import ClassVar

from flaxvision.sweep.search.records import SEARCHED

RATES = {"low": 1e-4, "high": 1.0, "log": True}
SPACE = {
    "optimizer": ["sgd", "adam"],
    "learning_rate": RATES,
    "momentum": {"low": 0.5, "high": 0.99, "when": {"optimizer": "sgd"}},
}

ONE = {"learning_rate": {"low": 1e-3, "high": 0.5, "log": True}}  # one program


class Population:
    """Stands for a population: it loses the less the nearer its learning rate is to 0.01, and the longer it trains."""

    begun: ClassVar[list[int]] = []  # members of each
    stop = math.inf  # so many populations, then Ctrl-C
    broken = False  # whether there is no memory

    def __init__(self, models, dataset, recipes, *, mode, devices, callbacks, checkpoint):
        type(self).stop -= 1
        if self.stop < 0:
            raise KeyboardInterrupt
        self.recipes, self.epoch, self.epochs = dict(enumerate(recipes)), 0, recipes[0].epochs
        self.begun.append(len(recipes))
        self.devices = devices
        self.seconds = dict.fromkeys(self.recipes, 0.0)

    @property
    def members(self):
        return tuple(self.recipes)

    def train(self, epochs):
        if self.broken:
            raise MemoryError
        for member in self.members:
            self.reached(self.recipes[member])
        self.epoch += epochs

    def scores(self, epoch, *, selected=False):
        assert epoch == self.epoch
        return {member: self.reached(recipe) for member, recipe in self.recipes.items()}

    def reached(self, recipe):
        if recipe.learning_rate > 0.6 and recipe.optimizer == "adam":
            raise RuntimeError("cannot be trained")
        if recipe.learning_rate > 0.6:
            return {"train_loss": math.nan, "val_loss": math.nan, "val_top1": 0.1}
        loss = abs(math.log10(recipe.learning_rate) + 2) + 1 / max(1, self.epoch)
        return {"train_loss": loss, "val_loss": loss, "val_top1": 1 / (1 + loss), "test_loss": 0.0}

    def keep(self, members):
        self.recipes = {member: self.recipes[member] for member in members}


def lines(directory):
    return [json.loads(line) for line in (directory / SEARCHED).read_text().splitlines()]


def without_times(directory):
    left_out = ("seconds", "elapsed", "checksums")
    return [{key: value for key, value in record.items() if key not in left_out} for record in lines(directory)]
