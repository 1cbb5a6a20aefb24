"""One door: the commands, what they say of mistakes, and what they do without importing JAX."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import flaxvision as fv
from flaxvision.cli.main import COMMANDS, main
from flaxvision.layers import INITS
from flaxvision.models.registry import ARGUMENTS, MODELS, all_argument_names
from flaxvision.sweep.keys import names, setting_keys, tables

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parents[2]
LIGHT = [
    ["--help"],
    ["--version"],
    [],
    *([name, "--help"] for name in COMMANDS),
    ["sweep", "--list"],
    ["keys"],
    ["keys", "--markdown"],
    ["models"],
]


def test_light_commands_import_no_jax():
    """In one process, whose imports add up."""
    code = f"""
import contextlib, io, json, sys
from flaxvision.cli.main import main
said = []
for arguments in {LIGHT!r}:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = stop.code
    said.append((status, len(out.getvalue())))
heavy = {{"jax", "matplotlib", "tensorflow_datasets", "torch", "onnx", "pandas"}} & set(sys.modules)
print(json.dumps([said, sorted(heavy)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said, heavy = json.loads(done.stdout)
    assert (heavy, done.stderr) == ([], "")
    assert all(status in (0, None) and length > 20 for status, length in said)


def test_every_command_says_what_it_does_and_how_it_is_typed(capsys):
    assert main([]) == 0
    listed = capsys.readouterr().out
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\w", listed, re.MULTILINE)
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert f"flaxvision {name}" in capsys.readouterr().out.partition("examples:")[2]


def test_the_documentation_has_every_command():
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"| `{name}" not in page] == []


def test_console_script_and_version(capsys):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, function = project["scripts"]["flaxvision"].split(":")
    assert getattr(import_module(module), function) is main
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert not stop.value.code
    assert capsys.readouterr().out.startswith(f"flaxvision {project['version']} (Python 3.")
    assert fv.__version__ == project["version"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["swep"], "unknown command 'swep': did you mean 'sweep'?"),
        (["demo"], "demo is a sweep: type flaxvision sweep demo"),
        (["my.toml"], "my.toml is a sweep: type flaxvision sweep my.toml"),
        (["--verison"], "unknown argument '--verison': did you mean --version?"),
        (["export", "onnx", "RUN", "--sofmax"], "unknown argument '--sofmax': did you mean --softmax?"),
        (["runs", "shw", "x"], "invalid choice: 'shw'"),
        (["runs", "list", "missing"], "there is no folder missing"),
        (["runs", "show", "."], ". is not a run directory: it has no spec.toml"),
        (["resume", "missing"], "missing is not a run directory"),
        (["compare", "one"], "one is not a run directory"),
        (["predict", "missing.safetensors", "."], "no images in ."),
        (["predict", "missing.safetensors", "missing.png"], "there is no missing.png"),
        (["evaluate", "missing.safetensors"], "no weights file missing.safetensors"),
        (["evaluate", "x", "--split", "tset"], "unknown --split 'tset': did you mean 'test'?"),
        (["keys", "momentun"], "unknown key 'momentun': did you mean 'momentum'?"),
        (["keys", "lr"], "unknown key 'lr': did you mean 'learning_rate'?"),
        (["models", "resnet"], "unknown model 'resnet': did you mean 'resnet"),
        (["models", "mlp", "--input-shape", "8,8"], "argument --input-shape: '8,8' is no shape: give height, width"),
        (["sweep", "dmo"], "unknown sweep 'dmo': did you mean 'demo'?"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error: ")
    assert message in err


def test_models_are_summarized(capsys):
    assert main(["models", "mlp", "--input-shape", "8x8x1", "--classes", "3", "--set", "hidden=[4]"]) == 0
    assert f"parameters: {64 * 4 + 4 + 4 * 3 + 3}" in capsys.readouterr().out
    assert main(["models"]) == 0
    assert re.findall(r"^(\w+)  \(", capsys.readouterr().out, re.MULTILINE) == list(MODELS)


def test_every_key_is_explained():
    found = {name: key for table in tables() for key in table.keys for name in names([key])}
    assert set(setting_keys()) <= set(found)
    assert all(key.meaning and key.type for key in found.values())
    assert set(ARGUMENTS) == set(all_argument_names())
    assert found["init"].allowed.startswith(", ".join(INITS))
    assert all(f"{name}: " in (fv.Recipe.__doc__ or "") for name in ("momentum", "select_on"))


def test_keys_are_looked_up(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["keys", "batch_size", "fit"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "[data]",
        "    What the data set is loaded with.",
        "  fit: text: crop, pad, stretch",
        "        how images of images:FOLDER come to size (left out: crop)",
        "",
        "[recipe]",
        "    How the network is trained: the fields of `fv.Recipe`.",
        "  batch_size: a whole number, 1 or more examples (default: 128)",
        "        examples an update",
    ]


def test_the_page_of_keys_is_the_commands(capsys):
    assert main(["keys", "--markdown"]) == 0
    assert capsys.readouterr().out == (ROOT / "docs" / "keys.md").read_text(encoding="utf-8")
