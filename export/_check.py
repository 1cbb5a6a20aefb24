"""Checks a runtime against the example beside this file; needs NumPy, and onnxruntime for ONNX files.

    python check.py                  model.onnx and network.onnx in onnxruntime
    python check.py other.onnx       another file of the same network; of int8 or float16 with --tolerance 0.1
    python check.py outputs.npy      what another runtime gave for `input` (or `network_input`) of example.npz

example.npz holds what JAX computed when the network was exported: `output` is what model.onnx must give for `input`,
`network_output` what network.onnx must give for `network_input`. The largest difference is printed; the exit status is
0 if it is within the tolerance, else 1. In Python, with any function of an array:

    from check import difference
    assert difference(my_runtime, "input", "output") < 1e-4
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent


def example(name: str) -> np.ndarray:
    """An array of the example."""
    with np.load(HERE / "example.npz") as arrays:
        return arrays[name]


def difference(run: Callable[[np.ndarray], np.ndarray], given: str = "input", wanted: str = "output") -> float:
    """The largest difference of what `run` makes of the input from what it should make, where that is above 1 a share.

    Raises:
        ValueError: If it gives another shape.
    """
    return apart(run(example(given)), example(wanted))


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of two arrays, as a share of the largest expected number if that is above 1."""
    if np.shape(found) != expected.shape:
        raise ValueError(f"it gives an array of shape {np.shape(found)}, and the example has {expected.shape}")
    scale = max(1.0, float(np.abs(expected).max()))
    return float(np.abs(np.asarray(found, np.float64) - expected).max()) / scale


def in_onnxruntime(path: Path) -> float:
    """The same of an ONNX file, which may take a fixed number of examples at a time."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (entry,), (result,) = session.get_inputs(), session.get_outputs()
    given = "input" if entry.type == "tensor(uint8)" else "network_input"
    both = result.name == "probabilities" and result.shape[1] == example("output").shape[1]
    wanted = "output" if both else "network_output"

    def run(x: np.ndarray) -> np.ndarray:
        size = entry.shape[0] if isinstance(entry.shape[0], int) else len(x)
        parts = [np.resize(x[start : start + size], (size, *x.shape[1:])) for start in range(0, len(x), size)]
        return np.concatenate([session.run(None, {entry.name: part})[0] for part in parts])[: len(x)]

    return difference(run, given, wanted)


def of_array(path: Path) -> float:
    """The same of outputs that another runtime gave."""
    found = np.load(path)
    return min(apart(found, example(wanted)) for wanted in ("output", "network_output"))


def main() -> int:
    """Check what was named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=[HERE / "model.onnx", HERE / "network.onnx"])
    parser.add_argument("--tolerance", type=float, default=1e-4)
    options = parser.parse_args()
    right = True
    for path in options.files:
        found = of_array(path) if path.suffix == ".npy" else in_onnxruntime(path)
        right &= found <= options.tolerance
        print(f"{path.name}: {'within' if found <= options.tolerance else 'NOT within'} the tolerance, {found:.1e}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
