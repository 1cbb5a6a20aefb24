"""Stored pixels into every export: the model's scaling, one number or one a channel, goes with it."""

from __future__ import annotations

import jax
import numpy as np
import onnxruntime
import pytest

import export
import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.layers import Preprocess

pytestmark = pytest.mark.quick

SCALINGS = {
    "unit": Preprocess(1 / 255),
    "standard": Preprocess((1 / 50, 1 / 60, 1 / 70), (-2.0, -1.5, -1.0)),
}


def channels_first(x):
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("scaling", SCALINGS)
def test_every_export_takes_stored_pixels(torch, scaling, tmp_path):
    keras = pytest.importorskip("keras")
    model = fv.models.create("linear", input_shape=(4, 5, 3), num_classes=3)
    model.preprocess = SCALINGS[scaling]
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8)
    numbers = images.astype(np.float64) * np.asarray(model.preprocess.scale) + np.asarray(model.preprocess.offset)
    wanted = np.asarray(model(numbers.astype(np.float32)))

    session = onnxruntime.InferenceSession(export.to_onnx(model, tmp_path / "net.onnx", normalize=True))
    np.testing.assert_allclose(session.run(None, {"input": channels_first(images)})[0], wanted, atol=1e-5)

    module = export.to_torch(model, normalize=True)
    with torch.no_grad():
        np.testing.assert_allclose(module(torch.tensor(channels_first(images))), wanted, atol=1e-5)
    plain = export.to_torch(model).state_dict()
    assert [f"network.{name}" for name in plain] == list(module.state_dict())

    export.to_keras(model, tmp_path / "net.keras", normalize=True)
    twin = keras.saving.load_model(tmp_path / "net.keras")
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose(twin(images.astype(np.float32)), wanted, atol=1e-5)
        again = fv.models.from_keras(tmp_path / "net.keras")
    for ours, theirs in (
        (model.preprocess.scale, again.preprocess.scale),
        (model.preprocess.offset, again.preprocess.offset),
    ):
        np.testing.assert_allclose(theirs, ours, rtol=1e-6)

    from safetensors import safe_open

    with safe_open(export.save_torch(model, tmp_path / "net.safetensors"), "numpy") as file:
        assert file.metadata()["preprocess"] == model.preprocess.formula


def test_points_are_no_pixels(torch):
    model = fv.models.create("linear", input_shape=(2,), num_classes=2)
    for make in (export.to_torch, export.to_keras):
        with pytest.raises(UserError, match=r"normalize=True is for images; linear takes points of shape \(2,\)"):
            make(model, normalize=True)
