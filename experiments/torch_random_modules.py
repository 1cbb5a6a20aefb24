"""Random PyTorch modules, written as code: read, compared with the network, exported to ONNX and PyTorch, loaded back.

python experiments/torch_random_modules.py --modules 200
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import itertools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from common import parser_of, write_page
from drawn_torch_modules import draw_module
from safetensors.torch import load_file

import export
import flaxvision as fv
from flaxvision.report import markdown_table

HEADING = """Random PyTorch modules, read and brought home

Drawn by seed and written as code, in the ways in which people write it; read (which compares outputs and running \
statistics in float64), exported to PyTorch and ONNX, and their weights loaded strictly into a fresh module."""
TOLERANCE = 1e-4  # of the largest output: float32 in several orders of summation
_numbers = itertools.count()


@dataclasses.dataclass(frozen=True)
class Case:
    """How a module fared."""

    seed: int
    nodes: int
    differences: dict[str, float]  # where -> largest difference from the module's output, by the largest output

    @property
    def agrees(self) -> bool:
        """Whether all outputs are the module's, but for rounding."""
        return all(difference <= TOLERANCE for difference in self.differences.values())


def imported(path: Path) -> Any:
    """The class that a file of code holds; tracebacks and fx find its lines."""
    spec = importlib.util.spec_from_file_location(f"drawn_{next(_numbers)}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Drawn


def with_numbers(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """The module with running statistics and weights that are none's defaults."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point() and "mean" not in name.split(".")[0]:
                tensor += 0.2 * torch.rand(tensor.shape, generator=generator)
    return module.eval()


def check(seed: int, folder: Path) -> Case:
    """Draw, read, export and load one module.

    Raises:
        UserError: If it cannot be read, or the network is not the module.
    """
    code, shape = draw_module(seed)
    path = folder / f"module{seed}.py"
    path.write_text(code)
    made = imported(path)
    torch.manual_seed(seed)
    module = with_numbers(made(), seed)
    model = fv.models.from_torch(module, shape)  # which compares outputs and running statistics
    x = np.random.default_rng(seed).normal(0, 1, (3, *shape)).astype(np.float32)
    theirs = torch.tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        wanted = module(theirs).numpy()
        outputs = {"PyTorch": export.to_torch(model)(theirs).numpy()}
        fresh = made().eval()
        fresh.load_state_dict(load_file(export.save_torch(model, folder / "back.safetensors")), strict=True)
        outputs["loaded back"] = fresh(theirs).numpy()
    assert list(export.to_torch(model).state_dict()) == list(module.state_dict())
    session = onnxruntime.InferenceSession(
        export.to_onnx(model, folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    (outputs["ONNX"],) = session.run(None, {"input": theirs.numpy()})
    scale = max(1.0, float(np.abs(wanted).max()))
    return Case(seed, len(model.nodes), {k: float(np.abs(v - wanted).max()) / scale for k, v in outputs.items()})


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("torch_random_modules", __doc__, "two modules")
    parser.add_argument("--modules", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    options = parser.parse_args(arguments)
    cases, failed = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seed, options.seed + (2 if options.quick else options.modules)):
            try:
                case = check(seed, Path(folder))
                cases.append(case)
                words = ", ".join(f"{name} {difference:.1e}" for name, difference in case.differences.items())
                print(f"{seed}: {case.nodes} nodes; {words}{'' if case.agrees else '  DIFFERS'}", flush=True)
            except (AssertionError, ValueError, RuntimeError) as error:
                failed.append(f"{seed}: {type(error).__name__}: {error}")
                print(f"{seed}: FAILED {failed[-1]}", flush=True)
    write(options, cases, failed)
    return 1 if failed or not all(case.agrees for case in cases) else 0


def write(options: argparse.Namespace, cases: Sequence[Case], failed: Sequence[str]) -> None:
    """Write the page: how many, how large, how far from the modules."""
    agree = sum(case.agrees for case in cases)
    nodes = [case.nodes for case in cases]
    rows = [(where, f"{max(case.differences[where] for case in cases):.1e}") for where in cases[0].differences]
    parts = [
        f"{len(cases) + len(failed)} modules, of {min(nodes)} to {max(nodes)} nodes: {len(cases)} read, {agree} agree "
        f"within {TOLERANCE:g}.\n",
        markdown_table(("outputs", "largest difference, by the largest output"), rows) + "\n",
        *(f"- {line}\n" for line in failed),
    ]
    write_page(options, "torch_random_modules", HEADING, parts, ["torch", "onnxruntime"])


if __name__ == "__main__":
    sys.exit(main())
