"""Layers of a PyTorch module that are applied twice: by one name or two, as the same or otherwise."""

from __future__ import annotations

import numpy as np
import pytest

import export
import flaxvision as fv

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

pytestmark = pytest.mark.quick


def twice():
    """A block that stands under two names."""
    block = nn.Sequential(nn.Conv2d(3, 3, 3, 1, 1), nn.BatchNorm2d(3))
    return nn.Sequential(block, block, nn.Flatten(), nn.Linear(48, 10))


def test_a_normalization_with_two_names_comes_home_and_counts_as_in_pytorch(tmp_path):
    from safetensors.torch import load_file

    module, steps = twice(), 3
    images, labels = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), np.uint8), np.arange(20) % 10
    data = fv.data.from_arrays(images, labels, images, labels)
    recipe = fv.Recipe(steps=steps, epochs=None, batch_size=10)
    trained = fv.fit(fv.models.from_torch(module, (4, 4, 3)), data, recipe).model
    trained = fv.load_model(fv.save_model(trained, tmp_path / "model.safetensors"))
    home = load_file(export.save_torch(trained, tmp_path / "torch.safetensors"))

    own = twice().train()
    for _ in range(steps):
        own(torch.zeros(2, 3, 4, 4))
    assert own[0][1].num_batches_tracked == 2 * steps
    for name in ("0.1.num_batches_tracked", "1.1.num_batches_tracked"):
        assert home[name] == own.state_dict()[name]
    own.load_state_dict(home, strict=True)
    x = np.random.default_rng(1).normal(0, 1, (5, 4, 4, 3)).astype(np.float32)
    theirs = torch.tensor(np.ascontiguousarray(np.moveaxis(x, -1, 1)))
    twin = export.to_torch(trained)
    assert list(twin.state_dict()) == list(own.state_dict())
    with torch.no_grad():
        np.testing.assert_allclose(trained(x), own.eval()(theirs), atol=1e-5)
        np.testing.assert_allclose(twin(theirs), own(theirs), atol=1e-5)


class Scales(nn.Module):
    """One weight at two dilations, as TridentNet has it, or at one."""

    def __init__(self, dilation):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.dilation = dilation

    def forward(self, x):
        y = F.conv2d(x, self.conv.weight, self.conv.bias, padding=self.dilation, dilation=self.dilation)
        return (self.conv(x) * y).mean((2, 3))


def test_a_weight_is_shared_by_calls_of_the_same_settings():
    module = Scales(1)
    model = fv.models.from_torch(module, (6, 6, 3))
    assert [node.layer for node in model.nodes].count("conv") == 2
    with pytest.raises(fv.UserError, match=r"shared\.py, line \d+: nn.Conv2d by the layer 'conv' with other settings"):
        fv.models.from_torch(Scales(2), (6, 6, 3))


def test_another_number_of_outputs_is_one_line():
    from flaxvision.models.torch_reader import compare

    with pytest.raises(fv.UserError, match=r"mean of the .* have the shape \(3,\), the module's \(4,\), so it is not"):
        compare._check("Net", "training", "mean", np.zeros(3), np.zeros(4))
