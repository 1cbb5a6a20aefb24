"""Small sweeps: 8 x 8 glyphs, one hidden layer of 8 units."""

from __future__ import annotations

import copy
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from safetensors.numpy import load_file

import flaxvision.training
from flaxvision.sweep.__main__ import main
from tests.sweep.searches import SPACE, Population

TINY: dict[str, Any] = {
    "name": "tiny",
    "dataset": "glyphs",
    "model": "mlp",
    "data": {"limit": 128, "size": 8},
    "sizes": {"hidden": [8]},
    "recipe": {"batch_size": 32, "epochs": 1},
}


@pytest.fixture
def tiny() -> Callable[..., dict[str, Any]]:
    """The table of a small spec; sections that are given are merged into its own."""

    def make(**changes: Any) -> dict[str, Any]:
        table = copy.deepcopy(TINY)
        for key, value in changes.items():
            merge = key in ("data", "sizes", "recipe") and isinstance(value, dict)
            table[key] = {**table[key], **value} if merge else value
        return table

    return make


@pytest.fixture
def searched(tiny: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The table of a small search: 12 trials, 8 at a time, of 9 epochs, of which the best quarter goes on after 1."""

    def make(**changes: Any) -> dict[str, Any]:
        search = {"trials": 12, "batch": 8, "halving": [1, 3], "finalists": 2, "space": SPACE}
        search |= changes.pop("search", {})
        given = {"data": {"validation": 0.25}, "recipe": {"epochs": 9}, "seeds": 2, "objective": "val_loss"}
        return tiny(**given | changes, search=search)

    return make


@pytest.fixture
def population(monkeypatch: pytest.MonkeyPatch) -> type[Population]:
    """Stands for the real ones, which searches of other tests train."""
    fresh = type("Fresh", (Population,), {"begun": []})
    monkeypatch.setattr(flaxvision.training, "Population", fresh)
    return fresh


@pytest.fixture
def spec_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a table, or text, to a TOML file."""

    def write(content: dict[str, Any] | str, name: str = "tiny.toml") -> Path:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else tomli_w.dumps(content), encoding="utf-8")
        return path

    return write


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process: exit status, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        quick = [] if arguments[:1] == ("rerun",) else ["--no-export"]
        status = main([*map(str, arguments), *quick])
        return (status, *capsys.readouterr())

    return run


def no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def read_trials(directory: Path) -> list[dict[str, Any]]:
    """The records of trials.jsonl, by a parser that takes no NaN."""
    lines = (directory / "trials.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=no_constant) for line in lines]


def without_seconds(directory: Path) -> list[dict[str, Any]]:
    """The records but for the time they took, and the checksum that counts it, by id."""
    records = [
        {k: v for k, v in record.items() if k not in ("seconds", "epoch_seconds", "cores")}
        for record in read_trials(directory)
    ]
    for record in records:
        record.get("checksums", {}).pop("record", None)
    return sorted(records, key=lambda record: record["id"])


def table_bytes(directory: Path) -> list[bytes]:
    """results.csv, every cell's bytes but for the seconds."""
    lines = (directory / "results.csv").read_bytes().splitlines()
    assert lines[0].endswith(b",seconds")
    return [line.rpartition(b",")[0] for line in lines]


def read_table(directory: Path) -> list[dict[str, str]]:
    """The rows of results.csv."""
    with open(directory / "results.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a weights file, read by safetensors itself."""
    return load_file(path)


@pytest.fixture
def files() -> dict[str, Callable]:
    """Readers of what a run leaves, independent of flaxvision."""
    return {
        "trials": read_trials,
        "without_seconds": without_seconds,
        "table": read_table,
        "table_bytes": table_bytes,
        "weights": read_weights,
    }
