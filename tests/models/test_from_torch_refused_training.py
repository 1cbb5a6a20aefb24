"""What changes how a PyTorch module trains and no graph of `forward` shows: hooks, modes of its own, chance."""

from __future__ import annotations

import random

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import flaxvision as fv  # noqa: E402
from tests.conftest import slow  # noqa: E402

pytestmark = pytest.mark.quick


def plain():
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))


def hook_on_a_gradient():
    module = plain()
    module[0].weight.register_hook(lambda gradient: gradient * 0)
    return module


def hook_after_accumulation():
    module = plain()
    module[0].bias.register_post_accumulate_grad_hook(lambda parameter: None)
    return module


def backward_hook():
    module = plain()
    module[0].register_full_backward_hook(lambda module, inputs, outputs: None)
    return module


class Still(nn.Sequential):
    """Normalizes by the statistics that it has, also in training."""

    def train(self, mode=True):
        super().train(mode)
        self[1].eval()


class Skipping(nn.Module):
    """Stochastic depth by hand."""

    def __init__(self, draw):
        super().__init__()
        self.a, self.b, self.draw = nn.Linear(4, 4), nn.Linear(4, 3), draw

    def forward(self, x):
        if not (self.training and self.draw() < 0.2):
            x = x + self.a(x)
        return self.b(x)


class Permuted(nn.Module):
    """Its parameter's numbers, all alike at first, in another order."""

    def __init__(self):
        super().__init__()
        self.gamma, self.fc = nn.Parameter(torch.ones(4)), nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x * self.gamma[[1, 0, 2, 3]])


MODULES = {
    "a hook on a gradient": (hook_on_a_gradient, "0.weight of Sequential has a hook on its gradient, .*: remove it"),
    "one after accumulation": (hook_after_accumulation, "0.bias of Sequential has a hook on its gradient"),
    "a backward hook": (backward_hook, "0 has backward hooks, which change how it learns: remove them"),
    "a mode of its own": (
        lambda: Still(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)),
        r"1, which stays in evaluation mode while the module trains, .*give frozen = \['1'\] in the recipe"),
    "chance of Python": (
        lambda: Skipping(random.random), "Skipping draws random numbers in training mode .*: use nn.Dropout, or a"),
    "chance of numpy": (
        lambda: Skipping(lambda: np.random.rand()),  # noqa: NPY002
        "Skipping draws random numbers in training mode"),
    "chance of PyTorch": (
        lambda: Skipping(lambda: torch.rand(1).item()), "Skipping draws random numbers in training mode"),
    "numbers that are alike": (Permuted, "Permuted in evaluation mode: the outputs of the network .* differ from"),
    "one layer": (
        lambda: nn.Linear(4, 3), "F.linear with tensors of the whole module's own .* put the module into nn.Seq"),
}  # fmt: skip
SLOW = ("chance of numpy", "chance of PyTorch")


@pytest.mark.parametrize("case", [slow(case) if case in SLOW else case for case in MODULES])
def test_it_is_refused_in_one_line(case):
    make, words = MODULES[case]
    with pytest.raises(fv.UserError, match=words) as caught:
        fv.models.from_torch(make(), (4,))
    assert "\n" not in str(caught.value)
