"""Ways of writing PyTorch that are read as what they do."""

from __future__ import annotations

import numpy as np
import pytest

import flaxvision as fv
from tests.conftest import slow

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

pytestmark = pytest.mark.quick


class Written(nn.Module):
    """Layers, and a function of them and the images."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 10)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


def pixels(self, x):
    x = x.float() / 255
    return self.fc(self.conv(x.to(torch.float32)).to(dtype=torch.float32).mean((2, 3), dtype=torch.float32))


def total(self, x):
    x = self.conv(x).mean((2, 3))
    out = torch.zeros_like(x)
    for part in self.parts:
        out += part(x)
    return self.fc(out)


def total_of_numbers(self, x):
    x = self.conv(x).mean((2, 3))
    out = torch.zeros(len(x), 4)
    first = self.parts[0](x)
    out += first
    out += self.parts[1](x)
    return self.fc(first - 2 * out)  # the first is as it was


def constant(self, x):
    x = self.conv(x).mean((2, 3))
    ones = torch.zeros_like(x)
    ones.add_(1)
    return self.fc(x + ones)


def softplus(self, x):
    x = self.conv(x)
    return self.fc((F.softplus(x, beta=0.5) - F.softplus(x, beta=3.0)).mean((2, 3)))


def numpys_words(self, x):
    x = self.conv(x)
    x = torch.cat([x, -x], axis=1)
    a, b = x.chunk(chunks=2, dim=1)
    c, d = torch.split(x, split_size_or_sections=4, dim=1)
    x = (a + d - 3 * b * c) - x.mean(axis=(2, 3), keepdims=True)[:, :4]
    x = x * x.max(dim=1, keepdim=True).values
    x = x.permute(dims=(0, 2, 3, 1)).swapaxes(axis0=1, axis1=3)
    return self.fc(x.amax(axis=(2, 3)))


def parameter_views(self, x):
    x = self.conv(x)
    x = x * self.gamma.view(1, -1, 1, 1).to(x.dtype) + self.shift[:, None, None].float()
    return self.fc(x.mean((2, 3)) * self.gamma.reshape(1, 4).contiguous())


def threefold():
    return nn.ModuleList(nn.Linear(4, 4) for _ in range(3))


CASES = {
    "pixels": (pixels, {}),
    "a sum in place": (total, {"parts": threefold()}),
    "a sum into numbers": (total_of_numbers, {"parts": threefold()}),
    "a constant in place": (constant, {}),
    "softplus": (softplus, {}),
    "numpy's words": (numpys_words, {}),
    "views": (parameter_views, {"gamma": nn.Parameter(torch.rand(4)), "shift": nn.Parameter(torch.rand(4))}),
}
QUICK = ("pixels", "a sum into numbers", "numpy's words")


@pytest.mark.parametrize("case", [case if case in QUICK else slow(case) for case in CASES])
def test_it_is_read_as_what_it_does(case):
    function, parts = CASES[case]
    module = Written(function, **parts).eval()
    model = fv.models.from_torch(module, (6, 6, 3))
    x = np.random.default_rng(0).normal(0, 1, (5, 6, 6, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = module(torch.tensor(np.ascontiguousarray(np.moveaxis(x, -1, 1)))).numpy()
    np.testing.assert_allclose(model(x), wanted, atol=1e-5)


def test_a_train_of_ones_own_may_return_nothing():
    class Quiet(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)

    fv.models.from_torch(Quiet(nn.Linear(4, 3)), (4,))
