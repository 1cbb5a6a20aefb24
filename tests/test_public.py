"""The public surface: quick imports, names, examples in docstrings and in the README."""

from __future__ import annotations

import doctest
import importlib.util
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import export
import flaxvision as fv
from flaxvision.errors import check_choice, unknown

pytestmark = pytest.mark.quick

README = Path(__file__).parents[1] / "README.md"
WITHOUT_TORCH = importlib.util.find_spec("torch") is None
LATER = ("jax", "tensorflow_datasets", "matplotlib", "onnx", "orbax", "torch", "keras", "rich", "jinja2")


def test_import_takes_nothing_along():
    code = (
        "import json, sys, flaxvision, flaxvision.sweep, flaxvision.data;"
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(LATER) & set(json.loads(run.stdout))


def test_every_public_name_is_there():
    for module in (
        fv,
        fv.data,
        fv.layers,
        fv.logs,
        fv.models,
        fv.play,
        fv.report,
        fv.runs,
        fv.runtime,
        fv.sweep,
        fv.training,
        export,
    ):
        assert module.__all__
        assert dir(module) == sorted(module.__all__)  # what Tab shows
        for name in module.__all__:
            assert getattr(module, name) is not None
        with pytest.raises(AttributeError):
            _ = module.no_such_name


def test_an_unknown_name_is_answered_with_the_nearest():
    assert str(unknown("model", "mpl", ["linear", "mlp"])) == (
        "unknown model 'mpl': did you mean 'mlp'? Allowed: linear, mlp"
    )
    assert str(unknown("model", "zzz", ["linear"])) == "unknown model 'zzz': Allowed: linear"
    check_choice("init", "torch", ("flax", "torch"))
    with pytest.raises(fv.UserError, match="unknown init"):
        check_choice("init", ["torch"], ("flax", "torch"))


def run_examples(package) -> int:
    """Run the examples in the docstrings of a package's modules, and say how many there were."""
    attempted = 0
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if module.name.endswith("__main__") or (WITHOUT_TORCH and ".models." in module.name and "torch" in module.name):
            continue
        result = doctest.testmod(importlib.import_module(module.name))
        assert result.failed == 0, module.name
        attempted += result.attempted
    return attempted


def test_examples_in_docstrings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_examples(fv) >= 60


@pytest.mark.slow
def test_examples_in_docstrings_of_export(tmp_path, monkeypatch, torch):
    pytest.importorskip("keras")
    monkeypatch.chdir(tmp_path)
    assert run_examples(export) >= 15


@pytest.mark.slow
def test_the_readmes_python_runs(tmp_path, monkeypatch, capsys, torch):
    first, network, elsewhere = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    exec(first, space)
    assert space["result"].history["test_top1"][-1] > 0.5
    assert (tmp_path / "digits.safetensors").exists()
    assert len(space["table"].cells) == 4
    assert "parameters: 337,674" in capsys.readouterr().out
    exec(elsewhere, space)
    assert "| ONNX |" in capsys.readouterr().out

    (tmp_path / "my_networks.py").write_text(network)
    monkeypatch.syspath_prepend(tmp_path)
    assert fv.models.create("my_networks:small", width=2).output_shape == (10,)


def test_the_readmes_sweep_is_valid(tmp_path):
    (spec,) = re.findall(r"```toml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "own.toml").write_text(spec)
    loaded = fv.sweep.load_spec(tmp_path / "own.toml")
    assert loaded.keys == ("learning_rate", "optimizer")
    assert len(loaded.published) == 1


@pytest.mark.parametrize(
    "page",
    ["README.md", "CONTRIBUTING.md", "REPORTS.md", "CHANGELOG.md", "experiments/README.md", "docs/commands.md"],
)
def test_links_lead_to_files(page):
    path = README.parent / page
    links = re.findall(r"\]\(([^)#\s]+)\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []


def test_the_readme_lists_every_sweep():
    text = README.read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in fv.sweep.list_specs())
