"""With what a network from PyTorch begins: a layer's own default, or what the code makes under each seed."""

from __future__ import annotations

import copy
import logging
import random

import numpy as np
import pytest

import export
import flaxvision as fv
from flaxvision.models import _from_torch
from tests.conftest import slow

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

pytestmark = pytest.mark.quick


def said(module, shape, caplog):
    """The network that begins as PyTorch's default, and the layers that do not so in the module."""
    _from_torch._say.cache_clear()
    caplog.clear()
    with caplog.at_level(logging.WARNING, "flaxvision"):
        model = fv.models.from_torch(module, shape, init="torch")
    _, found, rest = caplog.text.partition("does not begin as PyTorch's default would at ")
    return model, rest.partition(":")[0] if found else ""


def test_a_prelu_begins_with_its_own_number_and_small_numbers_are_said(caplog):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 32), nn.PReLU(init=0.01), nn.Linear(32, 10))
    model, layers = said(module, (64,), caplog)
    assert layers == ""
    with torch.no_grad():
        module[1].weight.fill_(0.25)
        module[2].weight.mul_(1e-3)
        module[2].bias.mul_(1e-3)
    model, layers = said(module, (64,), caplog)
    assert layers == "1 and 1 more"
    home, own = export.to_torch(model).state_dict(), copy.deepcopy(module[1])
    own.reset_parameters()
    assert torch.equal(home["1.weight"], own.weight)
    assert home["2.weight"].abs().max() > 0.9 / 32**0.5


def test_pytorchs_own_draws_are_its_default():
    from flaxvision.models.torch_reader.weights import _is_uniform

    torch.manual_seed(0)
    for size in (1, 2, 10, 200, 5000):
        layer = nn.Linear(16, size)
        assert _is_uniform(layer.weight.detach().numpy(), 0.25)
        assert _is_uniform(layer.bias.detach().numpy(), 0.25)
    small = nn.init.normal_(torch.empty(5000), std=0.01).numpy()
    assert not _is_uniform(small, 0.25)
    assert not _is_uniform(np.zeros(1, np.float32), 0.25)
    assert not _is_uniform(np.full(3, 0.1, np.float32), 0.25)


ORDER = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.order = torch.randperm(3).tolist()

    def forward(self, x):
        for number in self.order:
            x = torch.tanh(self.f[number](x))
        return x
"""
STATISTICS = """
import torch
from torch import nn

class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.randn(4))

    def forward(self, x):
        return x - self.running_mean

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 4), Frozen(), nn.Tanh())
"""


@pytest.mark.parametrize("source", [ORDER, slow(STATISTICS)])
def test_each_seed_has_what_the_code_makes_for_it(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(source)
    namespace: dict = {"__name__": "net"}
    exec(source, namespace)
    x = np.random.default_rng(0).normal(0, 1, (5, 4)).astype(np.float32)
    for seed in (0, 1, 2):
        model = fv.models.create("torch:net.py:Net", input_shape=(4,), seed=seed, init="module")
        torch.manual_seed(seed)
        with torch.no_grad():
            np.testing.assert_allclose(model(x), namespace["Net"]()(torch.tensor(x)), atol=1e-5)


def test_what_the_code_draws_of_numpy_and_python_is_the_seeds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drawn.py").write_text(
        "import random\nimport numpy as np\nimport torch\nfrom torch import nn\n\ndef net():\n"
        "    net = nn.Sequential(nn.Linear(2, 1))\n"
        "    net[0].weight.data = torch.tensor([[np.random.rand(), random.random()]]).float()\n    return net\n"
    )
    python, numpys = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    model = fv.models.create("torch:drawn.py:net", input_shape=(2,), seed=7, init="module")
    wanted = [np.random.RandomState(7).rand(), random.Random(7).random()]
    np.testing.assert_allclose(np.asarray(model.layers[0].kernel[...])[:, 0], wanted, rtol=1e-6)
    assert random.getstate() == python
    assert np.random.get_state()[1].tolist() == numpys  # noqa: NPY002


@pytest.mark.parametrize("shape", [784, "784", (32.5, 32, 3), (8, 8), (0,), None])
def test_a_shape_is_one_or_three_whole_numbers(shape, tmp_path, monkeypatch):
    with pytest.raises(
        fv.UserError, match=r"input_shape is .*: give \(H, W, C\), such as \(32, 32, 3\), or "
    ) as caught:
        fv.models.from_torch(nn.Sequential(nn.Linear(784, 10)), shape)
    assert str(caught.value).endswith("(784,)" if shape == 784 else "(D,)")
    if shape:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "line.py").write_text(
            "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Linear(784, 10))\n"
        )
        with pytest.raises(fv.UserError, match="input_shape is"):
            fv.models.create("torch:line.py:net", input_shape=shape)
