"""Sweeps: experiment tables filled by one command, `python -m flaxvision.sweep`, or from Python.

>>> import flaxvision as fv
>>> result = fv.sweep.run(fv.sweep.load_spec("demo"), "runs/demo")  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

from flaxvision._lazy import attach

if TYPE_CHECKING:
    from flaxvision.sweep._rerun import Rerun, rerun
    from flaxvision.sweep._run import run
    from flaxvision.sweep.parse import list_specs, load_spec, parse_spec
    from flaxvision.sweep.provenance import data_sources, device, versions
    from flaxvision.sweep.results import Cell, Outcome, SweepResult, Verdict, converged
    from flaxvision.sweep.spec import Spec, config_hash
    from flaxvision.sweep.trials import override

__all__ = [
    "Cell",
    "Outcome",
    "Rerun",
    "Spec",
    "SweepResult",
    "Verdict",
    "config_hash",
    "converged",
    "data_sources",
    "device",
    "list_specs",
    "load_spec",
    "override",
    "parse_spec",
    "rerun",
    "run",
    "versions",
]

__getattr__ = attach(
    __name__,
    {
        **dict.fromkeys(("Cell", "Outcome", "SweepResult", "Verdict", "converged"), "results"),
        **dict.fromkeys(("data_sources", "device", "versions"), "provenance"),
        **dict.fromkeys(("list_specs", "load_spec", "parse_spec"), "parse"),
        **dict.fromkeys(("Rerun", "rerun"), "_rerun"),
        **dict.fromkeys(("Spec", "config_hash"), "spec"),
        "override": "trials",
        "run": "_run",
    },
)
