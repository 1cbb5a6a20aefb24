"""Checkpoints as people save them: the weights are found, said, and equal those of the network that was saved."""

import argparse
import collections
import json
import pickle
import shlex
import subprocess
import sys
import types

import numpy as np
import pytest

import export
import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.models.files import variables

pytestmark = pytest.mark.quick

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    stack = [torch.nn.Flatten(), torch.nn.Linear(12, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3)]
    return torch.nn.Sequential(collections.OrderedDict(linear_relu_stack=torch.nn.Sequential(*stack[1:])))


@pytest.fixture(scope="module")
def model():
    return fv.models.create("mlp", hidden=(5,), input_shape=(2, 2, 3), num_classes=3)


def assert_is(filled, net):
    images = np.random.default_rng(0).random((4, 2, 2, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = net(torch.from_numpy(images.transpose(0, 3, 1, 2).reshape(4, -1).copy())).numpy()
    np.testing.assert_allclose(filled(images), theirs, atol=1e-6)


def renamed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


def zeros(state):
    return {name: torch.zeros_like(value) for name, value in state.items()}


def averaged(net):
    average = torch.optim.swa_utils.AveragedModel(net)
    average.update_parameters(net)
    return average.state_dict()


CHECKPOINTS = {  # what is saved of a state_dict, and what is said of it
    "tutorial": (lambda s, n: {"epoch": 3, "model_state_dict": s, "loss": 0.1}, "those at 'model_state_dict'"),
    "lightning": (
        lambda s, n: {"state_dict": renamed(s, "model."), "pytorch-lightning_version": "2", "callbacks": {}},
        "those at 'state_dict'; the prefix 'model.' is taken off",
    ),
    "net": (lambda s, n: {"net": s, "acc": np.float64(91.2), "epoch": 7}, "those at 'net'"),
    "ema last": (lambda s, n: {"model": s, "ema": zeros(s)}, "would fit, too: key='ema'"),
    "ema first": (
        lambda s, n: {"state_dict_ema": zeros(s), "state_dict": s},
        "those at 'state_dict' ('state_dict_ema'",
    ),
    "ema only": (lambda s, n: {"ema": {"module": s}}, "those at 'ema.module'"),
    "nested": (lambda s, n: {"state": {"networks": {"classifier": s}}}, "those at 'state.networks.classifier'"),
    "in a tuple": (lambda s, n: (s, {"lr": 0.1}), "those at '0'"),
    "options": (
        lambda s, n: {"model": s, "args": argparse.Namespace(lr=0.1), "config": types.SimpleNamespace(a=1)},
        "those at 'model'",
    ),
    "compiled and parallel": (lambda s, n: renamed(s, "module._orig_mod."), "the prefix 'module._orig_mod.' is taken"),
    "a wrapper within": (
        lambda s, n: {name.replace("stack.", "stack.module."): value for name, value in s.items()},
        "names of wrappers",
    ),
    "a part at a time": (
        lambda s, n: {"linear_relu_stack": {name.partition(".")[2]: value for name, value in s.items()}},
        None,
    ),
    "averaged": (lambda s, n: averaged(n), "the prefix 'module.' is taken off"),
    "a number beside": (lambda s, n: {**s, "epoch": 3}, "'epoch' left out: no tensors"),
    "optimizer that holds tensors": (
        lambda s, n: {"optimizer": torch.optim.Adam(n.parameters()).state_dict() | {"extra": zeros(s)}, "model": s},
        "those at 'model' ('optimizer.extra'",
    ),
    "half": (lambda s, n: {name: value.half().float() for name, value in s.items()}, None),
    "sparse": (
        lambda s, n: {name: value.to_sparse() if value.ndim == 2 else value for name, value in s.items()},
        "2 sparse tensors are made dense",
    ),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_checkpoint_is_found_and_said(case, net, model, tmp_path, caplog):
    make, said = CHECKPOINTS[case]
    path = tmp_path / "checkpoint.pt"
    torch.save(make(net.state_dict(), net), path)
    filled = export.from_torch(path, model)
    if case == "half":
        assert np.abs(variables(filled)["linear_relu_stack.0.kernel"]).max() > 0
    else:
        assert_is(filled, net)
    assert said in caplog.text if said else not caplog.text


def test_key_takes_another_set(net, model, caplog):
    content = {"model": zeros(net.state_dict()), "ema": net.state_dict()}
    assert_is(export.from_torch(content, model, key="ema"), net)
    assert not caplog.text
    with pytest.raises(UserError, match="no tensors at key='net': it has some at 'model', 'ema'"):
        export.from_torch(content, model, key="net")


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_a_module_itself_and_a_compiled_one(net, model):
    assert_is(export.from_torch(net, model), net)
    assert_is(export.from_torch(torch.compile(net), model), net)
    assert_is(export.from_torch({"net": torch.nn.DataParallel(net)}, model), net)


def test_legacy_and_misnamed_files(net, model, tmp_path):
    torch.save(net.state_dict(), tmp_path / "old.tar", _use_new_zipfile_serialization=False)
    torch.save(net.state_dict(), tmp_path / "weights.safetensors")  # a name does not make a format
    (tmp_path / "pytorch_model.bin").write_bytes(export.save_torch(model, tmp_path / "a.safetensors").read_bytes())
    assert_is(export.from_torch(tmp_path / "old.tar", model), net)
    assert_is(export.from_torch(tmp_path / "weights.safetensors", model), net)
    back = variables(export.from_torch(tmp_path / "pytorch_model.bin", model))
    assert all(np.array_equal(value, back[name]) for name, value in variables(model).items())


def test_shards_are_read_together(net, model, tmp_path):
    state = net.state_dict()
    files = {name: f"model-{i % 2}.bin" for i, name in enumerate(state)}
    for file in set(files.values()):
        torch.save({name: state[name] for name in state if files[name] == file}, tmp_path / file)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    assert_is(export.from_torch(index, model), net)
    (tmp_path / "model-1.bin").unlink()
    with pytest.raises(UserError, match=r"names 2 files, of which model-1\.bin is not beside it"):
        export.from_torch(index, model)


def refusal(path, model, **more):
    with pytest.raises(UserError) as caught:
        export.from_torch(path, model, **more)
    return str(caught.value)


FOREIGN = {
    "page.pt": (b"<!DOCTYPE html><html>404</html>", "it is a web page"),
    "pointer.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "type git lfs pull"),
    "keras.h5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "give it to export.from_keras"),
    "empty.pt": (b"", "it is empty"),
    "text.bin": (b"these are no weights, but text", "it begins with b'these are no wei'"),
    "index.json": (b"{}", "it has no weight_map"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_another_kind_says_which(name, model, tmp_path):
    content, words = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / name, model)
    assert words in message
    assert len(message) - len(str(tmp_path)) < 300
    assert "\n" not in message


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", ["TorchScript archive", "torch.export program"])
def test_the_command_for_another_archive_makes_what_loads(kind, net, model, tmp_path):
    path = tmp_path / "a net.pt2"
    if kind.startswith("TorchScript"):
        torch.jit.trace(net, torch.zeros(1, 12)).save(str(path))
    else:
        torch.export.save(torch.export.export(net, (torch.zeros(1, 12),)), path)
    message = refusal(path, model)
    assert kind in message
    command = shlex.split(message.partition("type: ")[2])
    subprocess.run([sys.executable, "-W", "ignore", *command[1:]], check=True)
    assert_is(export.from_torch(command[-1], model), net)


def test_a_misfit_of_a_large_network_is_three_short_lines(caplog):
    vgg = fv.models.create("vgg19", input_shape=(32, 32, 3))
    state = export.to_torch(vgg).state_dict()
    message = refusal(
        {f"backbone.{name}": value for name, value in state.items()} | {"head.bias": state["features.0.bias"]}, vgg
    )
    assert message.count("\n") == 2
    assert "of 102 tensors 1 not in the model\nhead.bias (64,) is not in the model\ngive prefix='backbone.'" in message
    message = refusal({f"x{i}": value for i, value in enumerate(state.values())}, vgg)
    assert message.count("\n") == 2
    assert len(message) < 700
    assert "102 missing, 118 not in the model" in message


@pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning")
def test_quantized_tensors_are_named(net, model):
    state = {**net.state_dict()}
    state["linear_relu_stack.0.weight"] = torch.quantize_per_tensor(torch.zeros(5, 12), 0.1, 0, torch.qint8)
    assert "'linear_relu_stack.0.weight', a quantized tensor, is not a tensor of plain numbers" in refusal(state, model)


def test_harmless_objects_do_not_open_the_door(tmp_path, model):
    class Trap:
        def __reduce__(self):
            return (eval, (f"open({str(tmp_path / 'trap')!r}, 'w')",))

    for name, content in {"a.pt": {"args": argparse.Namespace(x=Trap())}, "b.pt": np.array([Trap()], object)}.items():
        torch.save(content, tmp_path / name)
        assert "can run code" in refusal(tmp_path / name, model)
    (tmp_path / "c.pt").write_bytes(pickle.dumps(Trap()))
    refusal(tmp_path / "c.pt", model)
    assert not (tmp_path / "trap").exists()


def test_weights_and_model_the_other_way_round_and_files_cut_or_foreign(torch, tmp_path):
    model = fv.models.create("linear", input_shape=(2,), num_classes=3)
    net = torch.nn.Linear(2, 3)
    with pytest.raises(UserError, match=r"the other way round: give from_torch\(weights, model\)"):
        export.from_torch(model, net)
    torch.save(net.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "old.pt").read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "foreign": b"\x80\x02garbage"}.items():
        (tmp_path / f"{name}.pt").write_bytes(content)
        with pytest.raises(UserError, match=r"is not a PyTorch file \([^()]+\): save the state_dict again") as caught:
            export.from_torch(tmp_path / f"{name}.pt", model)
        assert "run code" not in str(caught.value)
