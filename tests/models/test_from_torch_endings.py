"""What a PyTorch module ends in: it is trained on scores, and its probabilities come back where they are asked for."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import export
import flaxvision as fv
from tests.conftest import slow

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

pytestmark = pytest.mark.quick


class Ending(nn.Module):
    """A convolution, and what a function makes of its map."""

    def __init__(self, outputs, end):
        super().__init__()
        self.conv = nn.Conv2d(3, outputs, 4)
        self.end = end

    def forward(self, x):
        return self.end(self.conv(x))


ENDINGS = {
    "squeezed": (1, lambda x: torch.sigmoid(x.flatten(1)).squeeze(1), "sigmoid"),
    "flattened": (1, lambda x: torch.sigmoid(x).flatten(), "sigmoid"),
    "of float32": (1, lambda x: x.flatten(1).sigmoid().float(), "sigmoid"),
    "of a squeezed one": (1, lambda x: torch.sigmoid(x.flatten(1).squeeze(1)), "sigmoid"),
    "viewed": (5, lambda x: F.softmax(x.flatten(1), 1).view(-1, 5), "softmax"),
    "of a map": (5, lambda x: F.log_softmax(x, 1)[:, :, 0, 0], "log_softmax"),
}


@pytest.mark.parametrize("case", [case if case in ("squeezed", "of a map") else slow(case) for case in ENDINGS])
def test_what_makes_probabilities_is_left_off_also_before_a_view(case, tmp_path):
    outputs, end, ending = ENDINGS[case]
    module = Ending(outputs, end).eval()
    model = fv.models.from_torch(module, (4, 4, 3))
    assert model.torch.ending == ending
    assert not any("softmax" in name or "sigmoid" in name for name in model.names)
    x = np.random.default_rng(0).normal(0, 1, (6, 4, 4, 3)).astype(np.float32)
    theirs = torch.tensor(np.ascontiguousarray(np.moveaxis(x, -1, 1)))
    with torch.no_grad():
        scores, wanted = module.conv(theirs).flatten(1), module(theirs)
    np.testing.assert_allclose(model(x), scores, atol=1e-5)
    probabilities = wanted.exp() if ending == "log_softmax" else wanted.reshape(len(x), -1)
    np.testing.assert_allclose(fv.predict(model, x)[:, -outputs:], probabilities, atol=1e-5)

    import onnxruntime

    path = export.to_onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {"input": theirs.numpy()})
    np.testing.assert_allclose(given, wanted.reshape(given.shape), atol=1e-5)


@pytest.mark.parametrize(
    ("end", "said"),
    [(lambda x: torch.sigmoid(x).flatten(1), True), slow(torch.sigmoid, False), slow(lambda x: x.flatten(1), False)],
)
def test_sigmoids_of_several_outputs_stay_and_are_said(end, said, caplog):
    from flaxvision.models import _from_torch

    _from_torch._say.cache_clear()
    with caplog.at_level(logging.WARNING, "flaxvision"):
        model = fv.models.from_torch(Ending(5, end), (5, 5, 3))
    assert model.torch.ending == ""
    assert ("Ending ends in a sigmoid, which stays" in caplog.text) == said
