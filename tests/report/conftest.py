"""Makes `report_examples` importable, and writes each example's report once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """Writes the named example on first use: (result, paths written)."""
    from report_examples import EXAMPLES

    from flaxvision.report import write_report

    done = {}

    def write(name: str):
        if name not in done:
            result = EXAMPLES[name](tmp_path_factory.mktemp(name))
            done[name] = result, write_report(result)
        return done[name]

    return write
