"""Weights files of earlier versions still load, and give what they gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import flaxvision as fv
from flaxvision.layers import Flatten

pytestmark = pytest.mark.quick

DATA = Path(__file__).parent / "data"  # written by version 0.1.0, whose Flatten gave row, column, channel


@pytest.mark.parametrize("name", ["format_1", "format_1_ends"])
def test_a_file_of_the_first_format_gives_what_it_gave(name, tmp_path):
    model = fv.load_model(DATA / f"{name}.safetensors")
    stored = np.load(DATA / f"{name}.npz")
    for each in (model, fv.load_model(fv.save_model(model, tmp_path / "again.safetensors"))):
        if "probabilities" in stored:
            np.testing.assert_allclose(fv.predict(each, stored["images"]), stored["probabilities"], atol=1e-6)
        else:  # it ends on flattened features, whose order is theirs
            outputs = each(stored["images"].astype(np.float32))
            np.testing.assert_allclose(outputs, stored["outputs"], rtol=1e-5, atol=1e-4)
    assert [layer.channels_last for layer in model.layers if isinstance(layer, Flatten)] == [name == "format_1_ends"]


def test_a_warm_start_takes_one_too():
    tensors, _ = fv.models.files.read(DATA / "format_1.safetensors")
    model = fv.load_model(DATA / "format_1.safetensors")
    np.testing.assert_array_equal(tensors["fc.kernel"], model.layers[6].kernel[...])
