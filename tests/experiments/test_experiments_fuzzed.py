"""A few damaged files of each format, and what the search for faults counts as one."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from flaxvision.errors import UserError
from tests.conftest import slow

FOLDER = Path(__file__).parents[2] / "experiments"
QUICK = ("idx", "packed", "cifar", "pickled", "matlab", "archive", "npz", "toml", "weights", "own_onnx")
MENDED = ("search", "prepared")  # what is damaged is made anew, which is no error
SLOW = ("images", "run", *MENDED, "torch", "torch_tensors", "foreign_onnx", "keras")
pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured on Linux")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.mark.parametrize("name", [*QUICK, *map(slow, SLOW)])
def test_damaged_files_are_results_or_one_line(script, tmp_path, name):
    fuzzed, formats = script("fuzzed_files"), script("file_formats")
    (form,) = formats.formats((name,)).values()
    tried = [fuzzed.try_input(form, number, tmp_path / "input") for number in range(60)]
    assert [fault for _, faults in tried for fault in faults] == []
    assert ("error" in {kind for kind, _ in tried}) == (name not in MENDED)


def test_what_counts_as_a_fault(script, tmp_path, monkeypatch):
    fuzzed, formats = script("fuzzed_files"), script("file_formats")
    monkeypatch.setattr(fuzzed, "SECONDS", 0.2)
    monkeypatch.setattr(fuzzed, "MEMORY", 2**25)

    def busy(_):
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass

    def fails(error):
        def read(_):
            raise error

        return read

    def found(read):
        form = formats.Format("made", ".x", (b"sample",), read)
        kind, faults = fuzzed.try_input(form, 0, tmp_path / "input")
        return kind, [fault.what for fault in faults]

    assert found(lambda path: path.read_bytes()) == ("result", [])
    assert found(fails(UserError("one line"))) == ("error", [])
    assert found(fails(UserError(""))) == ("", ["traceback"])
    assert found(fails(KeyError("x"))) == ("", ["traceback"])
    assert found(busy) == ("", ["hang"])
    assert found(lambda _: np.ones(2**26, np.uint8)) == ("", ["memory"])


def test_an_input_is_made_from_its_number_alone(script):
    (form,) = script("file_formats").formats(("idx",)).values()
    assert form.draw(7) == form.draw(7)
    assert len({form.draw(number) for number in range(50)}) > 40


def test_results(script):
    fuzzed = script("fuzzed_files")
    fault = fuzzed.Fault("idx", 3, "traceback", "KeyError: 'x' (idx.py, parse_idx)")
    counts = fuzzed.Counts().plus("result", []).plus("error", []).plus("", [fault])
    assert fuzzed.summary(counts) == {
        "inputs": 3, "results": 1, "user errors": 1, "traceback": 1, "hang": 0, "memory": 0, "crash": 0,
    }  # fmt: skip
    assert sys.modules["fuzzed_files"] is fuzzed
