"""PyTorch both ways: what from_torch takes, what it refuses and in which words, and what to_torch gives."""

from __future__ import annotations

import fractions
import pickle
import shlex
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import export
import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.models.files import variables
from tests.export.conftest import assert_alive

pytestmark = pytest.mark.quick

torch = pytest.importorskip("torch")

IMAGES = np.random.default_rng(0).random((5, 28, 28, 1)).astype(np.float32)


def network(seed=0):
    """mnist_net, small, with numbers of its own everywhere."""
    model = fv.models.create("mnist_net", num_classes=4, input_shape=(8, 8, 1), seed=seed)
    random = np.random.default_rng(seed)
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        if "rate" not in path:
            shift = 1.0 if path[-1] in ("var", "scale") else 0.0
            variable[...] = jnp.asarray(shift + 0.1 * random.random(variable[...].shape).astype(np.float32))
    return model


def channels_first(x):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


@pytest.fixture
def model():
    return network()


@pytest.fixture
def tensors():
    """The state_dict of another network of the same shape."""
    return export.to_torch(network(1)).state_dict()


def same(first, second):
    first, second = variables(first), variables(second)
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "form", ["dict", "numpy", "wrapped", "safetensors", "pt", "pth", "pt_wrapped", "str", "module."]
)
def test_every_form_of_the_same_weights(form, model, tensors, tmp_path):
    before = variables(model)
    prefix = ""
    if form == "dict":
        weights = tensors
    elif form == "numpy":
        weights = {name: value.numpy() for name, value in tensors.items()}
    elif form == "wrapped":
        weights = {"model": tensors}
    elif form == "safetensors":
        weights = export.save_torch(network(1), tmp_path / "net.safetensors")
    elif form == "module.":
        weights, prefix = {f"module.{name}": value for name, value in tensors.items()}, "module."
    else:
        weights = tmp_path / ("net.pth" if form == "pth" else "net.pt")
        torch.save({"model": tensors} if form == "pt_wrapped" else tensors, weights)
        weights = str(weights) if form == "str" else weights
    assert same(export.from_torch(weights, model, prefix=prefix), network(1))
    after = variables(model)
    assert all(np.array_equal(before[name], after[name]) for name in before)  # the model itself is not changed


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("form", ["dict", "pt", "safetensors"])
def test_other_precisions_are_taken_as_float32(dtype, form, model, tensors, tmp_path):
    from safetensors.torch import save_file

    cast = {name: v.to(getattr(torch, dtype)) if v.is_floating_point() else v for name, v in tensors.items()}
    path = tmp_path / f"net.{form}"
    if form != "dict":
        (torch.save if form == "pt" else save_file)(cast, path)
    filled = export.from_torch(cast if form == "dict" else path, model)
    assert filled.dtype == jnp.float32
    expected = cast["conv0.weight"].float().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(variables(filled)["conv0.kernel"], expected)


def test_nan_is_a_number_like_any_other(model, tensors):
    tensors["fc.bias"][2] = torch.nan
    assert np.isnan(variables(export.from_torch(tensors, model))["fc.bias"]).sum() == 1


def test_the_batch_counter_is_written_and_ignored(model, tensors, tmp_path):
    from safetensors.numpy import load_file

    written = load_file(export.save_torch(model, tmp_path / "net.safetensors"))
    assert written["conv0_bn.num_batches_tracked"].dtype == np.int64
    assert written.keys() == export.to_torch(model).state_dict().keys()
    without = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    assert len(without) == len(tensors) - 2
    assert same(export.from_torch(without, model), export.from_torch(tensors, model))


def test_save_torch_loads_strictly_into_the_module(model, tmp_path):
    from safetensors.torch import load_file

    other = export.to_torch(network(3))
    other.load_state_dict(load_file(export.save_torch(model, tmp_path / "net.safetensors")), strict=True)
    x = np.random.default_rng(0).random((5, 8, 8, 1)).astype(np.float32)
    with torch.no_grad():
        theirs = other(channels_first(x)).numpy()
    assert_alive(theirs)
    np.testing.assert_allclose(theirs, model(x), rtol=1e-6, atol=1e-5)  # outputs of 60: a few of float32's last bits
    first, again = (export.save_torch(model, tmp_path / f"{n}.safetensors").read_bytes() for n in "ab")
    assert first == again


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net", "safetensors"])
def test_save_torch_refuses_other_suffixes(name, model, tmp_path):
    with pytest.raises(UserError, match=rf"{name} does not end in \.safetensors"):
        export.save_torch(model, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_to_torch_trains(model):
    module = export.to_torch(model)
    assert not module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert sum(p.numel() for p in module.parameters()) == fv.models.count_parameters(model)
    module.train()
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    x, labels = channels_first(np.random.default_rng(0).random((32, 8, 8, 1)).astype(np.float32)), torch.arange(32) % 4
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(module(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    back = export.from_torch(module.state_dict(), model)
    module.eval()
    with torch.no_grad():
        theirs = module(x).numpy()
    assert_alive(theirs)
    np.testing.assert_allclose(back(x.numpy().transpose(0, 2, 3, 1)), theirs, atol=1e-5)


def test_the_module_has_the_models_names_and_settings(model):
    module = export.to_torch(model)
    assert [name for name, _ in module.named_children()] == list(model.names)
    assert module.conv0_bn.momentum == pytest.approx(0.1)
    assert module.dropout0.p == 0.25
    assert type(module.conv0) is torch.nn.Conv2d
    assert module.conv0.padding == (1, 1)


def vgg19_bn():
    """VGG-19 with BatchNorm as torchvision lays it out, ImageNet's classifier made small in its last layers."""
    layers, channels = [], 3
    for width, count in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
        for _ in range(count):
            layers += [torch.nn.Conv2d(channels, width, 3, padding=1), torch.nn.BatchNorm2d(width), torch.nn.ReLU(True)]
            channels = width
        layers.append(torch.nn.MaxPool2d(2, 2))
    module = torch.nn.Module()
    module.features = torch.nn.Sequential(*layers)
    module.classifier = torch.nn.Sequential(
        torch.nn.Linear(512 * 7 * 7, 16), torch.nn.ReLU(True), torch.nn.Linear(16, 9)
    )
    return module


@pytest.fixture(scope="module")
def vgg():
    """(ours, torchvision's) with statistics from training passes."""
    torch.manual_seed(0)
    theirs = vgg19_bn()
    for layer in theirs.features:
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            torch.nn.init.normal_(layer.bias, 0, 0.1)
        elif isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias, 0, 0.2)
            layer.momentum = 0.5
    with torch.no_grad():
        for _ in range(3):
            theirs.features(torch.rand(8, 3, 32, 32) * torch.rand(8, 3, 1, 1))
    graphdef, state = nnx.split(nnx.eval_shape(lambda: fv.models.create("vgg19", input_shape=(32, 32, 3))))
    ours = nnx.merge(graphdef, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state))
    return ours, theirs.eval()


@pytest.mark.slow
def test_torchvisions_vgg19_bn_comes_in_without_its_head(vgg):
    ours, theirs = vgg
    filled = export.from_torch(theirs.state_dict(), ours, only=("features",))
    x = np.random.default_rng(1).random((4, 32, 32, 3)).astype(np.float32)
    x *= np.random.default_rng(2).random((4, 1, 1, 3)).astype(np.float32)
    maps = jnp.asarray(x)
    with torch.no_grad():
        expected = theirs.features(channels_first(x)).numpy().transpose(0, 2, 3, 1)
    for name, layer in filled.named_layers():
        if name.startswith("features."):
            maps = layer(maps)
    assert_alive(expected)
    np.testing.assert_allclose(maps, expected, atol=2e-4 * max(1, np.abs(expected).max()))
    assert not np.any(variables(filled)["classifier.0.kernel"])  # the head is as it was


@pytest.mark.slow
def test_torchvisions_vgg19_bn_as_a_whole_names_what_does_not_fit(vgg):
    ours, theirs = vgg
    with pytest.raises(UserError) as caught:
        export.from_torch(theirs.state_dict(), ours)
    message = str(caught.value)
    for part in (
        "classifier.0.weight is (16, 25088), not (512, 512)",
        "classifier.2.weight is (9, 16), not (128, 512)",
        "classifier.4.weight (10, 128) is missing",
        "classifier.4.bias (10,) is missing",
    ):
        assert part in message
    assert "features." not in message


@pytest.mark.parametrize("names", ["whole", "prefixed", "bare", "bare and prefixed"])
def test_an_encoder_only_file(names, tmp_path):
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 8, 3, 2), torch.nn.ReLU()]
    layers += [torch.nn.Conv2d(8, 16, 3, 2), torch.nn.MaxPool2d(3, 1), torch.nn.Conv2d(16, 32, 3), torch.nn.Sigmoid()]
    module = torch.nn.Module()
    module.encoder = torch.nn.Sequential(*layers)
    with torch.no_grad():
        for layer in layers[::2]:
            layer.weight *= 3  # PyTorch's own draw leaves the code nearly the same for every image
    bare = names.startswith("bare")
    state = (module.encoder if bare else module).state_dict()
    prefix = "net." if names.endswith("prefixed") else ""
    path = tmp_path / "encoder.pth"
    other = {"optimizer.lr": torch.zeros(1), "epoch": 3} if prefix else {}  # ignored: outside the prefix
    torch.save({"model": {prefix + name: value for name, value in state.items()} | other}, path)
    model = fv.models.create("emnist_cnn", num_classes=47)
    more = {"prefix": prefix} | ({"into": "encoder."} if bare else {})
    filled = export.from_torch(path, model, only="encoder", **more)
    maps = jnp.asarray(IMAGES)
    for name, layer in filled.named_layers():
        maps = layer(maps) if name.startswith("encoder.") else maps
    with torch.no_grad():
        expected = module.encoder(channels_first(IMAGES)).numpy().transpose(0, 2, 3, 1)
    assert_alive(expected)
    np.testing.assert_allclose(maps, expected, atol=1e-5)
    np.testing.assert_array_equal(variables(filled)["predictor.0.kernel"], variables(model)["predictor.0.kernel"])
    with pytest.raises(UserError, match=r"predictor\.0\.weight \(64, 32\) is missing"):
        export.from_torch(path, model, **more)


def test_everything_but_the_head(model, tensors):
    rest = {name: value for name, value in tensors.items() if not name.startswith("fc1.")}
    rest["fc1.weight"], rest["fc1.bias"] = torch.zeros(9, 256), torch.zeros(9)  # another number of classes
    filled = variables(export.from_torch(rest, model, only=("conv0", "conv0_bn", "conv1", "conv1_bn", "fc")))
    np.testing.assert_array_equal(filled["fc1.kernel"], variables(model)["fc1.kernel"])
    np.testing.assert_array_equal(filled["fc.bias"], tensors["fc.bias"].numpy())
    np.testing.assert_array_equal(filled["conv1_bn.var"], tensors["conv1_bn.running_var"].numpy())


def _without(*names):
    return lambda d: {name: value for name, value in d.items() if name not in names}


def _with(**more):
    return lambda d: {**d, **more}


DICTS = {  # what is done to the state_dict, and every part of the one line
    "missing": (
        _without("fc.bias", "conv0.weight"),
        ["conv0.weight (8, 1, 3, 3) is missing", "fc.bias (256,) is missing"],
    ),
    "extra": (_with(extra=torch.zeros(2, 3)), ["extra (2, 3) is not in the model"]),
    "transposed": (
        lambda d: {**d, "fc1.weight": d["fc1.weight"].T, "fc.weight": d["fc.weight"].T},
        ["fc.weight is (64, 256), not (256, 64)", "fc1.weight is (256, 4), not (4, 256)"],
    ),
    "integers": (
        lambda d: {**d, "fc.bias": d["fc.bias"].int()},
        ["fc.bias is int32 (256,), not floating-point (256,)"],
    ),
    "complex": (
        lambda d: {**d, "fc.bias": d["fc.bias"] + 1j},
        ["fc.bias is complex64 (256,), not floating-point (256,)"],
    ),
    "nothing of it": (
        lambda d: {"head.weight": d["fc.weight"]},
        ["16 missing, 1 not in the model", "conv0.weight (8, 1, 3, 3) is missing", "begin with head, the model's with"],
    ),
    "no statistics": (
        _without("conv0_bn.running_mean", "conv1_bn.running_var"),
        ["conv0_bn.running_mean (8,) is missing", "conv1_bn.running_var (16,) is missing"],
    ),
    "several": (
        lambda d: {
            **_without("fc.bias")(d),
            "conv0.bias": [0.0] * 8,
            "conv1.weight": torch.zeros(1),
            "fc1.weight": torch.zeros(3).long(),
            "fc1.bias": torch.zeros(4).long(),
            "x": d["fc.bias"],
            "epoch": 3,
            "optimizer": {"lr": 0.1},
        },
        [
            "'conv0.bias', a list",
            "conv1.weight is (1,), not (16, 8, 3, 3)",
            "fc.bias (256,) is missing",
            "fc1.weight is int64 (3,), not floating-point (4, 256)",
            "fc1.bias is int64 (4,), not floating-point (4,)",
            "x (256,) is not in the model",
        ],
    ),
}


@pytest.mark.parametrize("fault", DICTS)
@pytest.mark.parametrize("file", [None, "net.pt", "net.pth"])
def test_a_wrong_state_dict_is_three_lines_with_the_first_mismatches(fault, file, model, tensors, tmp_path):
    change, parts = DICTS[fault]
    weights = change(tensors)
    if file:
        torch.save(weights, tmp_path / file)
        weights = tmp_path / file
    before = variables(model)
    message = refusal(weights, model, lines=3)
    assert all(part in message for part in parts), message
    assert len(message) < 900
    assert (file or "the state_dict") in message
    assert all(np.array_equal(value, before[name]) for name, value in variables(model).items())


def refusal(weights, model, lines=1, **more):
    with pytest.raises(UserError) as caught:
        export.from_torch(weights, model, **more)
    message = str(caught.value)
    assert message.count("\n") == lines - 1
    return message


def _truncated(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def test_wrong_files_are_one_line(model, tensors, tmp_path):
    names = ["truncated.pt", "half.pt", "list.pt", "tensor.pt", "number.pt"]
    for name, content in zip(names, [tensors, tensors, list(tensors.values()), torch.zeros(3), 5], strict=True):
        torch.save(content, tmp_path / name)
    _truncated(tmp_path / "truncated.pt", 0.999)
    _truncated(tmp_path / "half.pt", 0.5)
    for name, share in (("truncated.safetensors", 0.99), ("header.safetensors", 0.001)):
        _truncated(export.save_torch(model, tmp_path / name), share)
    for name in ("empty.pt", "empty.safetensors", "empty.pth"):
        (tmp_path / name).write_bytes(b"")
    for name in ("text.pt", "text.safetensors"):
        (tmp_path / name).write_text("these are no weights, but a line of text\n")
    np.savez(tmp_path / "arrays.npz", **{name: value.numpy() for name, value in tensors.items()})
    (tmp_path / "arrays.pt").write_bytes((tmp_path / "arrays.npz").read_bytes())
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps({"fc.weight": np.zeros(3)}))
    parts = {
        "missing.pt": "no weights file",
        "missing.safetensors": "no weights file",
        "folder.pt": "is a folder",
        "list.pt": "holds a list",
        "tensor.pt": "holds a Tensor",
        "number.pt": "holds a int",
        "truncated.safetensors": "is not a safetensors file",
        "header.safetensors": "is not a safetensors file",
        "empty.safetensors": "is not a safetensors file",
        "text.safetensors": "is not a safetensors file",
        "truncated.pt": "is not a PyTorch file",
        "half.pt": "is not a PyTorch file",
        "empty.pt": "is not a PyTorch file",
        "empty.pth": "is not a PyTorch file",
        "text.pt": "is not a PyTorch file",
        "arrays.npz": "is not a PyTorch file",
        "arrays.pt": "is not a PyTorch file",
        "pickle.pt": "",
    }
    for name, part in parts.items():
        message = refusal(tmp_path / name, model)
        assert part in message, message
        assert name in message
        assert len(message) < 700, message


def test_wrong_only_and_prefix(model, tensors):
    assert "no layer of mnist_net lies under encoder, head" in refusal(tensors, model, only=("encoder", "head"))
    assert "no layer of mnist_net lies under conv" in refusal(tensors, model, only=("conv",))
    assert "encoder.conv0.weight (8, 1, 3, 3) is not in the model" in refusal(tensors, model, lines=3, into="encoder.")
    assert "conv0.weight (8, 1, 3, 3) is missing" in refusal(tensors, model, lines=3, prefix="module.")
    assert "conv1.weight (16, 8, 3, 3) is missing" in refusal({}, model, lines=3, only=("conv1",))


def test_a_model_of_another_width(tensors):
    other = fv.models.create("mnist_net", num_classes=7, input_shape=(12, 12, 1))
    message = refusal(tensors, other, lines=3)
    assert "fc.weight is (256, 64), not (256, 144)" in message
    assert "fc1.weight is (4, 256), not (7, 256)" in message
    assert "conv0" not in message


@pytest.mark.parametrize("content", ["module", "module in a dict", "state_dict beside a class of one's own"])
def test_a_pickled_module_is_refused_with_the_line_that_converts_it(content, tmp_path):
    torch.manual_seed(0)
    module = torch.nn.Sequential()
    module.add_module("layers", torch.nn.Sequential(torch.nn.Linear(2, 1)))
    path = tmp_path / "it's a pretrained encoder.pt"
    if content == "module":
        torch.save(module, path)
    elif content == "module in a dict":
        torch.save({"model": module}, path)
    else:
        torch.save({"state_dict": module.state_dict(), "args": fractions.Fraction(1, 2)}, path)
    before = path.read_bytes()
    model = fv.models.create("linear", input_shape=(2,), num_classes=1)
    message = refusal(path, model)
    assert "pickled module" in message
    line = message.partition("type: ")[2]
    command = shlex.split(line)
    assert command[:2] == ["python", "-c"]
    assert not variables(model)["layers.0.bias"].any()
    subprocess.run([sys.executable, *command[1:]], check=True)
    assert path.read_bytes() == before
    filled = export.from_torch(tmp_path / "it's a pretrained encoder.state_dict.pt", model)
    np.testing.assert_array_equal(variables(filled)["layers.0.kernel"], module.layers[0].weight.detach().numpy().T)


def test_loading_runs_no_code(tmp_path, model):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "trap"), "w"))

    torch.save({"model": Trap()}, tmp_path / "trap.pt")
    assert "pickled module or other objects" in refusal(tmp_path / "trap.pt", model)
    assert not (tmp_path / "trap").exists()
