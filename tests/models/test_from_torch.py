"""PyTorch modules become networks, in every way of writing them, and come home under their own names."""

from __future__ import annotations

import dataclasses
import logging
import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import export
import flaxvision as fv
from flaxvision.layers import Affine, Context, Dropout, DropPath, Resize, Scale
from tests.conftest import slow

torch = pytest.importorskip("torch")
from tests.models.torch_examples import EXAMPLES, Carrying, Residual, Tutorial  # noqa: E402

pytestmark = pytest.mark.quick
QUICK = ("carrying", "gate")
CASES = [name if name in QUICK else slow(name) for name in EXAMPLES]


def made(name):
    """A module of the examples in evaluation mode, with numbers of its own, and the shape that it takes."""
    make, shape = EXAMPLES[name]
    torch.manual_seed(len(name))
    module = make()
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor += 0.1 * torch.rand_like(tensor)
    return module.eval(), shape


def images_of(shape):
    """Images for Flax and the same for PyTorch."""
    x = np.random.default_rng(0).normal(0, 1, (5, *shape)).astype(np.float32)
    return x, torch.tensor(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def first(y):
    """Outputs as PyTorch lays them out."""
    return np.moveaxis(np.asarray(y), -1, 1)


def test_drop_paths_are_known_by_name_and_behavior():
    module, shape = made("gate")
    model = fv.models.from_torch(module, shape)
    (layer,) = (layer for layer in model.layers if isinstance(layer, DropPath))
    assert float(layer.rate[...]) == np.float32(0.2)
    assert dict(model.named_layers())["drop_path"] is layer
    assert type(module.drop_path).__name__ == "DropPath"  # the user's own module is as it was
    twin = export.to_torch(model).train()
    ones = twin.drop_path(torch.ones(1000, 4, 2, 2))
    assert {0.0, 1.25} == set(ones.unique().tolist()) == set(ones[:, 0, 0, 0].tolist())
    assert all(float(each.min()) == float(each.max()) for each in ones)

    class DropPath_(type(module.drop_path)):
        def forward(self, x):
            return super().forward(x) * (1 - self.drop_prob)

    DropPath_.__name__ = "DropPath"
    module.drop_path = DropPath_(0.2)  # which does not scale
    with pytest.raises(fv.UserError, match=r"in training and .* in evaluation, cannot be read"):
        fv.models.from_torch(module, shape)


@pytest.mark.parametrize("name", CASES)
def test_a_module_comes_back_as_it_was(name, tmp_path):
    module, shape = made(name)
    model = fv.load_model(fv.save_model(fv.models.from_torch(module, shape), tmp_path / "model.safetensors"))
    assert model.input_shape == shape
    x, theirs = images_of(shape)
    with torch.no_grad():
        wanted = module(theirs).numpy()

    # In PyTorch: its own keys, shapes, types and order; a module that its tools take.
    twin = export.to_torch(model)
    assert [(k, v.shape, v.dtype) for k, v in twin.state_dict().items()] == [
        (k, v.shape, v.dtype) for k, v in module.state_dict().items()
    ]
    with torch.no_grad():
        np.testing.assert_allclose(twin(theirs).numpy(), wanted, atol=1e-5)
    from safetensors.torch import load_file

    fresh = EXAMPLES[name][0]().eval()
    fresh.load_state_dict(load_file(export.save_torch(model, tmp_path / "torch.safetensors")), strict=True)
    with torch.no_grad():
        np.testing.assert_array_equal(fresh(theirs).numpy(), wanted)

    # In ONNX, and from there.
    import onnxruntime

    path = export.to_onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"input": theirs.numpy()})[0], wanted, atol=1e-5)
    again = export.from_onnx(path)
    assert again.torch == model.torch
    np.testing.assert_array_equal(again(x), model(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_pytorchs_tools_take_it(name):
    module, shape = made(name)
    twin, (_, theirs) = export.to_torch(fv.models.from_torch(module, shape)), images_of(shape)
    torch.compiler.reset()  # it compiles one function for eight networks at most
    with torch.no_grad():
        exported = torch.export.export(twin, (theirs,)).module()
        compiled = torch.compile(twin, backend="eager", fullgraph=True)
        for each in (exported, compiled):
            np.testing.assert_allclose(each(theirs).numpy(), module(theirs).numpy(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_keras_gives_the_same(name):
    pytest.importorskip("keras")
    module, shape = made(name)
    model = fv.models.from_torch(module, shape)
    x, theirs = images_of(shape)
    lacks = {
        "'alpha' has one number for all channels": any(isinstance(e, Scale) and e.size == 1 for e in model.layers),
        "'up' has align_corners": any(isinstance(e, Resize) and e.align_corners for e in model.layers),
    }
    for words in (words for words, there in lacks.items() if there):
        with pytest.raises(fv.UserError, match=f"{words}, for which Keras has no layer"):
            export.to_keras(model)
        return
    with torch.no_grad(), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose(first(export.to_keras(model)(x)), module(theirs).numpy(), atol=1e-5)


def test_names_are_the_modules_and_operations_lie_within_theirs():
    module, shape = made("residual")
    model = fv.models.from_torch(module, shape)
    assert [node.name for node in model.nodes[-9:]] == [
        *("layer1.1.conv2", "layer1.1.bn2", "layer1.1.shortcut.0", "layer1.1.shortcut.1", "layer1.1.add"),
        *("layer1.1.relu_1", "avg_pool2d", "view", "linear"),
    ]
    assert model.kind == "Residual"


def test_a_softmax_at_the_end_is_left_off_and_put_back(tmp_path, caplog):
    module, shape = made("tutorial")
    with caplog.at_level(logging.WARNING, "flaxvision"):
        model = fv.models.from_torch(module, shape)
    assert not any("softmax" in name for name in model.names)
    x, theirs = images_of(shape)
    with torch.no_grad():
        wanted = module(theirs).numpy()
    np.testing.assert_allclose(jax.nn.log_softmax(model(x)), wanted, atol=1e-5)
    np.testing.assert_allclose(fv.predict(model, x), np.exp(wanted), atol=1e-5)
    import onnx

    (output,) = onnx.load(export.to_onnx(model, tmp_path / "model.onnx")).graph.output
    assert (output.name, output.doc_string) == ("log_probabilities", "Logarithms of probabilities (batch, 10).")
    (output,) = onnx.load(export.to_onnx(model, tmp_path / "softmax.onnx", softmax=True)).graph.output
    assert output.name == "probabilities"


class Squeezed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(6, 1)

    def forward(self, x):
        return torch.sigmoid(self.fc(x)).view(-1, 1)


def test_a_sigmoid_is_left_off_where_a_view_follows_it():
    torch.manual_seed(0)
    module = Squeezed()
    model = fv.models.from_torch(module, (6,))
    assert (model.names, model.torch.ending) == (("fc",), "sigmoid")
    x = np.random.default_rng(0).normal(0, 1, (5, 6)).astype(np.float32)
    with torch.no_grad():
        wanted = module(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(export.to_torch(model)(torch.from_numpy(x)).numpy(), wanted, atol=1e-6)
    np.testing.assert_allclose(fv.predict(model, x)[:, 1:], wanted, atol=1e-6)


def test_what_is_not_used_is_said_and_kept(caplog, tmp_path):
    from flaxvision.models import _from_torch

    _from_torch._say.cache_clear()
    module, shape = made("carrying")
    with caplog.at_level(logging.WARNING, "flaxvision"):
        model = fv.models.from_torch(module, shape)
    assert "Carrying never uses auxiliary.weight_ih_l0 and 3 more: kept as they are" in caplog.text
    assert [node.layer for node in model.nodes].count("first") == 2
    data = fv.data.from_arrays(
        *(part for _ in range(2) for part in (np.zeros((20, *shape), "uint8"), np.arange(20) % 10))
    )
    trained = fv.fit(model, data, fv.Recipe(steps=2, epochs=None, batch_size=4, weight_decay=0.1)).model
    home = export.to_torch(trained).state_dict()
    before = module.state_dict()
    for name in ("mean", "steps", "auxiliary.weight_ih_l0"):
        torch.testing.assert_close(home[name], before[name], rtol=0, atol=0)
    assert not torch.equal(home["first.weight"], before["first.weight"])
    torch.testing.assert_close(home["first.weight"], home["second.weight"])


def test_constants_are_in_the_graph():
    module, shape = made("carrying")
    model = fv.models.from_torch(module, shape)
    scales = [layer for layer in model.layers if isinstance(layer, Affine)]
    np.testing.assert_allclose(scales[0].shift, -module.mean.flatten().numpy())
    assert scales[1].scale == 4.0


def test_the_module_and_pytorchs_randomness_are_left_as_they_were():
    module, shape = made("residual")
    module.train()
    before, state = {k: v.clone() for k, v in module.state_dict().items()}, torch.random.get_rng_state()
    fv.models.from_torch(module, shape)
    assert module.training
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_dropout_rates_are_read():
    model = fv.models.from_torch(Tutorial(), (12, 12, 1))
    rates = {name: float(layer.rate[...]) for name, layer in model.named_layers() if isinstance(layer, Dropout)}
    assert rates == {"dropout1": 0.25, "dropout2": 0.5}
    y = model(jnp.ones((2, 12, 12, 1)), Context(train=True, key=jax.random.key(0)))
    assert not np.allclose(y[0], y[1])


# Initialization.


def bounds(module):
    """PyTorch's formula for the bound of weight and bias, from its documentation: 1 / sqrt(fan-in)."""
    return 1 / math.sqrt(math.prod(module.weight.shape[1:]))


def test_torch_draws_pytorchs_default_anew_for_each_seed():
    module = torch.nn.Sequential(
        torch.nn.Conv2d(4, 64, 5, groups=2), torch.nn.BatchNorm2d(64), torch.nn.PReLU(), torch.nn.Flatten(),
        torch.nn.Linear(1024, 96),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(3.0)
        module[1].running_mean.fill_(1.0)
    first_seed, again, other = (
        export.to_torch(fv.models.from_torch(module, (8, 8, 4), init="torch", seed=seed)).state_dict()
        for seed in (0, 0, 1)
    )
    for name, tensor in first_seed.items():
        assert torch.equal(tensor, again[name])
    for layer in (module[0], module[4]):
        name, bound = next(k for k, v in module.named_modules() if v is layer), bounds(layer)
        weight = first_seed[f"{name}.weight"].numpy().ravel()
        assert not torch.equal(first_seed[f"{name}.weight"], other[f"{name}.weight"])
        assert 0.97 * bound < np.abs(weight).max() <= bound
        assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.03)  # of a uniform distribution
        assert abs(weight.mean()) < 4 * weight.std() / math.sqrt(weight.size)
        bias = first_seed[f"{name}.bias"].numpy()
        assert 0.8 * bound < np.abs(bias).max() <= bound
        theirs = type(layer)(*((4, 64, 5) if name == "0" else (1024, 96)), **({"groups": 2} if name == "0" else {}))
        assert float(theirs.weight.detach().std()) == pytest.approx(weight.std(), rel=0.05)
    for name, number in {"1.weight": 1, "1.bias": 0, "1.running_mean": 0, "1.running_var": 1, "2.weight": 0.25}.items():
        assert (first_seed[name] == number).all()


def test_an_initialization_of_its_own_is_said(caplog):
    from flaxvision.models import _from_torch

    _from_torch._say.cache_clear()
    module = Residual()
    torch.nn.init.kaiming_normal_(module.conv1.weight)
    with caplog.at_level(logging.WARNING, "flaxvision"):
        fv.models.from_torch(module, (8, 8, 3), init="torch")
    assert "Residual does not begin as PyTorch's default would at conv1: init = 'module' keeps" in caplog.text


def test_what_does_not_learn_there_does_not_learn_here(caplog):
    """Running statistics move and batches are counted all the same, as in PyTorch."""
    from flaxvision.models import _from_torch

    _from_torch._say.cache_clear()
    module, shape = made("tuned")
    module.body[1].num_batches_tracked.fill_(5)
    with caplog.at_level(logging.WARNING, "flaxvision"):
        model = fv.models.from_torch(module, shape)
    assert "Tuned: temperature and 4 more with requires_grad=False: not trained here either" in caplog.text
    images, labels = np.random.default_rng(0).integers(0, 256, (20, *shape), np.uint8), np.arange(20) % 10
    data = fv.data.from_arrays(images, labels, images, labels)
    recipe = fv.Recipe(steps=3, epochs=None, batch_size=10, weight_decay=0.1, momentum=0.9)
    for settings, batches in (({}, 8), ({"frozen": ("body",)}, 5)):  # frozen in the recipe, it is evaluated
        trained = fv.fit(model, data, dataclasses.replace(recipe, **settings)).model
        before, home = module.state_dict(), export.to_torch(trained).state_dict()
        for name in ("temperature", "body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias"):
            assert torch.equal(home[name], before[name]), name
        assert not torch.equal(home["head.weight"], before["head.weight"])
        assert torch.equal(home["body.1.running_mean"], before["body.1.running_mean"]) == bool(settings)
        assert home["body.1.num_batches_tracked"] == batches
    again = fv.models.from_torch(module, shape, init="torch")
    drawn = export.to_torch(again).state_dict()
    assert torch.equal(drawn["body.0.weight"], before["body.0.weight"])
    assert torch.equal(drawn["body.1.running_mean"], before["body.1.running_mean"])
    assert not torch.equal(drawn["head.weight"], before["head.weight"])
    assert drawn["body.1.num_batches_tracked"] == 0


@pytest.mark.parametrize(("x64", "kept"), [(True, "float64"), slow(False, "float32")])
def test_numbers_of_float64_are_kept_where_jax_has_them(x64, kept, caplog):
    from flaxvision.models import _from_torch

    _from_torch._say.cache_clear()
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)).double()
    with torch.no_grad():
        module[1].weight += torch.rand(3, 12, dtype=torch.float64)
    with jax.enable_x64(x64), caplog.at_level(logging.WARNING, "flaxvision"):
        model = fv.models.from_torch(module, (2, 2, 3))
        kernel = np.asarray(dict(model.named_layers())["1"].kernel[...])
    assert kernel.dtype == kept
    np.testing.assert_array_equal(kernel, module[1].weight.detach().numpy().T.astype(kept))
    assert ("Sequential holds float64 numbers, read as float32" in caplog.text) == (not x64)


# Elsewhere.


def test_wrappers_are_taken_off():
    module, shape = made("carrying")
    assert fv.models.from_torch(torch.nn.DataParallel(module), shape).kind == "Carrying"


def test_weights_of_another_training_are_loaded_by_the_modules_names(caplog):
    module, shape = made("carrying")
    model = fv.models.from_torch(module, shape)
    other = Carrying().eval()
    with caplog.at_level(logging.WARNING, "flaxvision"):
        filled = export.from_torch(other.state_dict(), model)
    assert "Carrying keeps mean, auxiliary.weight_ih_l0, " in caplog.text
    other.mean.copy_(module.mean)
    x, theirs = images_of(shape)
    with torch.no_grad():
        np.testing.assert_allclose(filled(x), other(theirs).numpy(), atol=1e-5)


@pytest.mark.slow
def test_another_process_reads_the_file_without_pytorch(tmp_path):
    module, shape = made("carrying")
    fv.save_model(fv.models.from_torch(module, shape), tmp_path / "model.safetensors")
    code = """
import sys
sys.modules["torch"] = None
import flaxvision as fv, export
model = fv.load_model("model.safetensors")
export.save_torch(model, "torch.safetensors")
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    from safetensors.torch import load_file

    module.load_state_dict(load_file(tmp_path / "torch.safetensors"), strict=True)


def test_importing_flaxvision_does_not_import_pytorch():
    code = "import flaxvision, sys; flaxvision.models.create; flaxvision.Recipe; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
