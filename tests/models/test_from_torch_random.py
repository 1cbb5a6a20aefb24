"""Random PyTorch modules, written as code: read, compared, exported and loaded back without a difference."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from tests.conftest import slow

pytestmark = pytest.mark.quick

torch = pytest.importorskip("torch")
sys.path.append(str(Path(__file__).parents[2] / "experiments"))
drawn = importlib.import_module("torch_random_modules")

QUICK = (8,)


@pytest.mark.parametrize("seed", [seed if seed in QUICK else slow(seed) for seed in range(30)])
def test_a_random_module_is_read_exported_and_loaded_back(seed, tmp_path):
    case = drawn.check(seed, tmp_path)
    assert case.agrees, case
    assert set(case.differences) == {"PyTorch", "loaded back", "ONNX"}
