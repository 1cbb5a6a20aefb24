"""Every network of the reports learns a made set of its own input shape; vgg19 does in its own study's test."""

from __future__ import annotations

import pytest

import flaxvision as fv
from tests.conftest import slow

pytestmark = pytest.mark.quick
POINTS = {"input_shape": (2,), "num_classes": 1}
NETWORKS = [
    slow("linear", {}, {}),
    ("linear", POINTS, {}),
    ("polar_linear", POINTS, {}),
    slow("mlp", {"hidden": (256, 512)}, {}),
    slow("mlp", {"hidden": (256, 512, 1024, 2048)}, {"learning_rate": 0.0003}),
    slow("mlp", {"hidden": (1024, 2048)}, {"learning_rate": 0.0003}),
    slow("mlp", {"hidden": (32,)}, {}),
    ("mlp", {"hidden": (30,), "batch_norm": True}, {}),
    slow("mlp", {"hidden": (30, 30), "batch_norm": True}, {}),
    ("mlp", {**POINTS, "hidden": (16, 16)}, {}),
    slow("wide_cnn", {"padding": "SAME"}, {"learning_rate": 0.0003}),
    slow("wide_cnn", {"padding": "VALID"}, {"learning_rate": 0.0003}),
    ("mnist_net", {}, {}),
    slow("strided_cnn", {}, {}),
    slow("strided_cnn", {"pool": True}, {}),
    ("tiny_cnn", {}, {}),
    slow("emnist_cnn", {"hidden": 32}, {"learning_rate": 0.01, "epochs": 8}),
    slow("emnist_cnn", {"hidden": 64}, {"learning_rate": 0.01, "epochs": 8}),
    slow("emnist_autoencoder", {}, {"learning_rate": 0.01}),
]


@pytest.mark.parametrize(("name", "sizes", "settings"), NETWORKS, ids=lambda value: str(value)[:45])
def test_training_lowers_the_loss(make_dataset, name, sizes, settings):
    model = fv.models.create(name, **{"num_classes": 10, **sizes}, init="torch")
    points = model.input_shape == (2,)
    data = make_dataset(model.input_shape, 2 if points else 10, train=512, test=32)
    loss = {"polar_linear": "binary_cross_entropy", "emnist_autoencoder": "squared_error"}.get(name, "cross_entropy")
    settings = {"optimizer": "adam", "learning_rate": 0.003, "batch_size": 32, "epochs": 4, **settings}
    recipe = fv.Recipe(loss="binary_cross_entropy" if points else loss, **settings)
    losses = fv.fit(model, data, recipe).history["step_loss"]
    quarter = len(losses) // 4
    assert losses[-quarter:].mean() < 0.93 * losses[:quarter].mean()
