"""Networks in PyTorch in a sweep's table, by the name of their class: in every executor, frozen, changed, refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

import export
import flaxvision as fv
from flaxvision.models import _from_torch
from tests.conftest import slow

pytestmark = pytest.mark.quick

torch = pytest.importorskip("torch")

SOURCE = """
import torch
import torch.nn.functional as F
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=3, width=4):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, 2, 1)
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x):
        return F.log_softmax(self.fc(F.relu(self.bn(self.conv(x))).mean((2, 3))), dim=1)

def three():
    return Net()

def words(count):
    return "net"

def fails():
    raise RuntimeError("two\\nlines")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a file of networks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(SOURCE)
    return tmp_path


@pytest.fixture
def table(tiny, folder):
    def make(**changes):
        made = tiny(model="torch:nets.py:Net", seeds=2, **changes)
        del made["sizes"]["hidden"]
        return made

    return make


def state_of(out, record):
    """A trial's `state_dict`."""
    model = fv.load_model(out / "trials" / f"{record['id']}.safetensors")
    assert model.torch.ending == "log_softmax"
    return export.to_torch(model).state_dict()


@pytest.mark.parametrize("executor", [slow("auto"), slow("processes")])
def test_a_module_fills_a_table_and_its_trials_load_strictly(
    table, spec_file, command, files, folder, executor, caplog
):
    _from_torch._say.cache_clear()
    _from_torch._read_once.cache_clear()
    path, out = spec_file(table(grid={"width": [2, 4]})), folder / "out"
    status, _, errors = command(path, "--out", out, "--executor", executor)
    assert status == 0, errors
    records = sorted(files["trials"](out), key=lambda record: (record["config"]["width"], record["seed"]))
    assert [(r["config"]["width"], r["seed"], r["status"]) for r in records] == [
        (2, 0, "ok"), (2, 1, "ok"), (4, 0, "ok"), (4, 1, "ok")]  # fmt: skip
    namespace: dict = {}
    exec(SOURCE, namespace)
    for record in records:
        module = namespace["Net"](num_classes=10, width=record["config"]["width"])
        module.load_state_dict(state_of(out, record), strict=True)
        assert record["parameters"] == sum(p.numel() for p in module.parameters())
    assert caplog.text.count("torch:nets.py:Net ends in log_softmax") == 1


@pytest.mark.slow
def test_executors_give_the_same(table, spec_file, command, files, folder):
    tables = {}
    for executor in ("threads", "loop"):
        out = folder / executor
        assert command(spec_file(table()), "--out", out, "--executor", executor)[0] == 0
        tables[executor] = files["table_bytes"](out)
    assert tables["threads"] == tables["loop"]


@pytest.mark.slow
def test_init_is_pytorchs_default_of_each_seed_or_what_the_code_makes(table, spec_file, command, files, folder, caplog):
    text = SOURCE.replace("num_classes)\n", "num_classes)\n        nn.init.constant_(self.fc.weight, 0.75)\n", 1)
    (folder / "nets.py").write_text(text)
    starts = {}
    for init in ("torch", "module"):
        _from_torch._say.cache_clear()
        out = folder / init
        made = table(recipe={"learning_rate": 0.0001, "steps": 1})
        del made["recipe"]["epochs"]
        status, _, errors = command(spec_file(made), "--out", out, "--set", f"init={init}")
        assert status == 0, errors
        assert "does not begin as PyTorch's default would at fc: init = 'module' keeps that" in caplog.text
        starts[init] = [state_of(out, record) for record in files["trials"](out)]
    for first, second in starts.values():
        assert not torch.allclose(first["conv.weight"], second["conv.weight"], atol=1e-3)  # another seed
    assert all(np.allclose(state["fc.weight"], 0.75, atol=1e-3) for state in starts["module"])
    assert not any(np.allclose(state["fc.weight"], 0.75, atol=1e-1) for state in starts["torch"])


@pytest.mark.slow
def test_fine_tuning_leaves_frozen_layers_as_the_code_makes_them(table, spec_file, command, files, folder):
    out = folder / "out"
    made = table(recipe={"frozen": ["conv", "bn"]}, sizes={"init": "module"})
    status, _, errors = command(spec_file(made), "--out", out)
    assert status == 0, errors
    for record in files["trials"](out):
        torch.manual_seed(record["seed"])
        namespace: dict = {}
        exec(SOURCE, namespace)
        module, state = namespace["Net"](num_classes=10), state_of(out, record)
        for name in ("conv.weight", "conv.bias", "bn.weight", "bn.running_mean"):
            assert torch.equal(state[name], module.state_dict()[name]), name
        assert not torch.equal(state["fc.weight"], module.state_dict()["fc.weight"])


def test_resuming_with_other_code_is_refused(table, spec_file, command, folder):
    path, out = spec_file(table()), folder / "out"
    assert command(path, "--out", out)[0] == 0
    (folder / "nets.py").write_text(SOURCE + "\n# a comment changes nothing\n")
    assert command(path, "--out", out, "--resume")[0] == 0
    (folder / "nets.py").write_text(SOURCE.replace("F.relu(", "F.gelu("))
    status, _, errors = command(path, "--out", out, "--resume")
    assert status == 2
    assert "code torch:nets.py:Net" in errors


@pytest.mark.slow
def test_resuming_with_other_starting_weights_is_refused(table, spec_file, command, folder):
    (folder / "nets.py").write_text(
        SOURCE + "\ndef tuned(num_classes):\n    net = Net(num_classes)\n"
        "    net.load_state_dict(torch.load('start.pt'))\n    return net\n"
    )
    namespace: dict = {}
    exec(SOURCE, namespace)
    torch.save(namespace["Net"](10).state_dict(), folder / "start.pt")
    made = {**table(sizes={"init": "module"}), "model": "torch:nets.py:tuned"}
    path, out = spec_file(made), folder / "out"
    assert command(path, "--out", out)[0] == 0
    torch.save(namespace["Net"](10).state_dict(), folder / "start.pt")
    status, _, errors = command(path, "--out", out, "--resume")
    assert status == 2
    assert "weights that torch:nets.py:tuned makes" in errors


REFUSED = {
    "torch:nets.py:Net": ({"depth": 3}, "unknown argument of torch:nets.py:Net 'depth'.*Allowed: num_classes, width"),
    "torch:nets.py:Nothing": ({}, "model 'nets.py:Nothing' cannot be imported"),
    "torch:missing.py:Net": ({}, "cannot be imported"),
    "torch:nets": ({}, "give torch:file.py:Class"),
    "torch:nets.py:three": ({}, "has 3 outputs but glyphs has 10 classes"),
    "torch:nets.py:fails": ({}, "cannot be built: RuntimeError: two lines"),
    "torch:nets.py:words": ({"count": 1}, "gives a str: name a class of torch.nn.Module"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_mistakes_are_one_line(name, table, spec_file, command, folder):
    sizes, words = REFUSED[name]
    made = {**table(), "model": name, "sizes": sizes}
    status, _, errors = command(spec_file(made), "--out", folder / "out", "--dry-run")
    assert status == 2
    (line,) = [line for line in errors.splitlines() if "ends in log_softmax" not in line]
    import re

    assert re.search(words, line), line


def test_create_takes_the_name_too(folder):
    model = fv.models.create("torch:nets.py:Net", input_shape=(8, 8, 1), num_classes=5, width=2, seed=3)
    assert (model.output_shape, model.kind) == ((5,), "torch:nets.py:Net")
    again = fv.models.create("torch:nets.py:Net", input_shape=(8, 8, 1), num_classes=5, width=2, seed=3)
    states = [json.dumps(export.to_torch(each).state_dict()["conv.weight"].tolist()) for each in (model, again)]
    assert states[0] == states[1]
    with pytest.raises(fv.UserError, match="unknown init 'keras'"):
        fv.models.create("torch:nets.py:Net", input_shape=(8, 8, 1), init="keras")
