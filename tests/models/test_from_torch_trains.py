"""A network that was read from PyTorch trains as the module does: each step's loss, and the weights that come home."""

from __future__ import annotations

import copy

import jax
import numpy as np
import pytest

import export
import flaxvision as fv

torch = pytest.importorskip("torch")
from export._trajectory import _orders, _torch_losses  # noqa: E402
from tests.models.torch_examples import EXAMPLES  # noqa: E402

pytestmark = pytest.mark.quick

STEPS = 50
RECIPES = {
    "sgd": {"learning_rate": 0.05, "momentum": 0.9, "weight_decay": 1e-4},
    "adam": {"optimizer": "adam", "learning_rate": 1e-3},
}
# Those whose outputs PyTorch's cross-entropy takes: not images, not one probability, not probabilities.
SCORES = [name for name in EXAMPLES if name not in ("decoder", "skips", "attention")]


def data_for(shape, classes, examples=40):
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (examples, *shape)).astype(np.uint8)
    x = x if len(shape) == 3 else (x / 64).astype(np.float32)
    y = np.arange(examples) % classes
    return fv.data.from_arrays(x, y, x[:classes], y[:classes])


def without_dropout(module):
    for layer in module.modules():
        if isinstance(layer, torch.nn.modules.dropout._DropoutNd):
            layer.p = 0.0
        if hasattr(layer, "drop_prob"):
            layer.drop_prob = 0.0
    return module


@pytest.mark.slow
@pytest.mark.parametrize(("name", "recipe"), [*((name, "sgd") for name in SCORES), ("residual", "adam")])
def test_fifty_steps_are_pytorchs(name, recipe, tmp_path):
    make, shape = EXAMPLES[name]
    torch.manual_seed(0)
    module = without_dropout(make())
    data = data_for(shape, 3 if name == "vectors" else 10)
    settings = fv.Recipe(**RECIPES[recipe], batch_size=8, epochs=None, steps=STEPS, precision="float64", conv="native")
    with jax.enable_x64(True):
        run = fv.fit(fv.models.from_torch(module, shape), data, settings, devices=1)
        order = _orders(settings, len(data.train))
    twin = copy.deepcopy(module).double().train()
    theirs = _torch_losses(twin, data, settings, order, "float64")
    assert len(theirs) == STEPS
    np.testing.assert_allclose(run.history["step_loss"], theirs, rtol=1e-9)

    # The trained weights, and running statistics, come home.
    from safetensors.torch import load_file

    path = export.save_torch(run.model, tmp_path / "trained.safetensors")
    module.load_state_dict(load_file(path), strict=True)
    own = twin.state_dict()
    for key, tensor in module.state_dict().items():
        np.testing.assert_allclose(tensor, own[key], rtol=1e-5, atol=1e-6, err_msg=key)
    images = data.test.images
    with torch.no_grad():
        x = images / np.float32(255) if len(shape) == 3 else images
        probabilities = torch.softmax(module.eval()(torch.tensor(np.ascontiguousarray(np.moveaxis(x, -1, 1)))), 1)
    with jax.enable_x64(True):
        np.testing.assert_allclose(fv.predict(run.model, images), probabilities, atol=1e-5)
