"""Six networks that were written in PyTorch, from module to table and home again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.quick
FOLDER = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import brought_networks

    yield brought_networks
    for name in ("brought_networks", "common", "rows", "figures"):
        sys.modules.pop(name, None)


def test_every_network_has_its_sweep(script, torch):
    """A TOML file each, of a class that makes a module, with three seeds."""
    import tomllib

    from flaxvision.sweep.parse import parse_spec

    assert {path.stem for path in script.FOLDER.glob("*.toml")} == set(script.NAMES)
    for name in script.NAMES:
        described = tomllib.loads((script.FOLDER / f"{name}.toml").read_text())
        spec = parse_spec({"name": name, **described})
        assert (len(spec.seeds), spec.base["epochs"], spec.base["limit"]) == (3, 2, 5000)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_processes")
def test_the_smallest_comes_home(script, torch, tmp_path):
    """By the command line: PyTorch's steps, PyTorch's outputs; the script itself does it on real digits."""
    pytest.importorskip("keras")
    found = script.from_module_to_home("sequential", tmp_path, None, quick=True, seeds=1)
    assert found["losses"] < 1e-9
    assert found["home"]["ours"] < 1e-5 * max(1, found["home"]["largest"])
    assert found["home"]["onnx"] < 1e-5 * max(1, found["home"]["largest"])
    assert float(found["table"][0]["n"]) == 1
