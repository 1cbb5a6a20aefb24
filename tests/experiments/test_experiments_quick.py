"""Every script runs on made data in seconds."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "experiments"


@pytest.mark.parametrize("name", ["export_parity", "export_trajectories"])
def test_quick(name, tmp_path, capsys, torch):
    specification = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    module.main(["--quick", "--out", str(tmp_path)])
    text = (tmp_path / "README.md").read_text()
    assert f"python experiments/{name}.py --quick" in text
    assert text.count("\n## ") == 2
    assert "| ONNX |" in text or "Flax against PyTorch" in text
    assert capsys.readouterr().out
