"""A small run of the user's own network on the user's own arrays, trained once; and what its receiver has."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

import pytest

import flaxvision as fv
from flaxvision.sweep.results import SweepResult
from tests.conftest import compile_programs, made_dataset

NETWORK = """\
from {helper} import ACTIVATION

def small(build, outputs, width=8):
    build.flatten("flat")
    build.linear("hidden", width)
    build.activation("act", ACTIVATION)
    build.linear("out", outputs)
"""
NET, HELPER = "door_net", "door_helper"
TABLE = {
    "name": "own",
    "model": f"{NET}.py:small",
    "seeds": 2,
    "recipe": {"batch_size": 32, "epochs": 3},
    "grid": {"learning_rate": [0.5, 0.05]},
}


@dataclasses.dataclass(frozen=True)
class Author:
    """Who made the run."""

    home: Path
    data: fv.data.Dataset
    result: SweepResult


def forget() -> None:
    """Leave no trace of the author's modules in this process."""
    for name in [name for name in sys.modules if name.startswith((NET, HELPER))]:
        del sys.modules[name]


@pytest.fixture(scope="package")
def author(tmp_path_factory) -> Author:
    compile_programs(quick=False)  # as its modules do, which begin later than a fixture of the package
    home = tmp_path_factory.mktemp("author")
    (home / f"{NET}.py").write_text(NETWORK.format(helper=HELPER))
    (home / f"{HELPER}.py").write_text('ACTIVATION = "relu"\n')
    data = made_dataset((8, 8, 3), 3, 192, 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(sys, "path", list(sys.path))
        result = fv.sweep.run(TABLE, "runs/own", data=data, executor="loop", export=False, report=False)
    forget()
    return Author(home, data, dataclasses.replace(result, directory=home / "runs" / "own"))


@pytest.fixture
def received(author, tmp_path, monkeypatch) -> Path:
    """A copy of the run, alone in the current folder of somebody who has nothing else."""
    here = tmp_path / "receiver"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield Path(shutil.copytree(author.result.directory, "own"))
    forget()
