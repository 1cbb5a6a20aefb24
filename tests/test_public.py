"""The public surface: quick imports, names, examples in docstrings."""

from __future__ import annotations

import doctest
import importlib.util
import json
import pkgutil
import subprocess
import sys

import pytest

import export
import flaxvision as fv
from flaxvision.errors import check_choice, unknown

pytestmark = pytest.mark.quick

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
