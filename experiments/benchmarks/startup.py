"""(e) From nothing to the first step: preparing and loading MNIST, imports, compilation."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import Options, Study
from whole import run as whole_run

ABOUT = """
Report B1's network on MNIST: seconds from the start of the process to a loaded data set and to the result of the first
train step, the commands in turn; and from the start to the end of commands that train nothing. A data set is prepared
once, from the original files to tensorflow-datasets' format, checksums verified, and read from there later, by
PyTorch's process too. flaxvision's programs come from its cache.
"""
BRIEF = {
    "python, nothing": ["-c", "pass"],
    "import flaxvision": ["-c", "import flaxvision, flaxvision.sweep, flaxvision.data"],
    "python -m flaxvision.sweep --help": ["-m", "flaxvision.sweep", "--help"],
    "python -m flaxvision.sweep --list": ["-m", "flaxvision.sweep", "--list"],
}
STUDY = "emnist_holdout.py"  # an experiment whose --quick should take 15 s at most
COMMANDS = {
    "flaxvision, first time": ["flaxvision", "fresh"],
    "flaxvision, later": ["flaxvision", "kept"],
    "PyTorch": ["torch", "kept"],
}


def run(options: Options) -> None:
    study = Study(options, "", "From nothing to the first step", ABOUT)
    dataset = "glyphs" if options.quick else "mnist"
    seconds: dict[str, list[list[float]]] = {name: [] for name in COMMANDS}
    repeats = 1 if options.quick else options.extra.repeats
    script = str(Path(__file__).with_name("first_step.py"))
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1 + repeats):
            for name, (framework, state) in COMMANDS.items():
                data = Path(folder) / (f"data{number}" if state == "fresh" else "data")
                raw = [options.raw_dir] if options.raw_dir else []
                command = [sys.executable, script, str(time.time()), framework, dataset, str(data), *raw]
                total, _ = whole_run(command, Path(folder))
                stamps = json.loads((Path(folder) / "log.txt").read_text().splitlines()[-1])
                if number:
                    seconds[name].append([stamps["imported"], stamps["loaded"], stamps["stepped"], total])
    header = ("", "imported, s", "data set loaded, s", "first step done, s", "process ended, s")
    rows = [(name, *(f"{value:.2f}" for value in np.median(values, axis=0))) for name, values in seconds.items()]
    study.table("Seconds since the process began", header, rows, f"Medians of {repeats} runs.")
    add_brief(study, repeats)
    study.write()


def add_brief(study: Study, repeats: int) -> None:
    """Seconds of commands that should answer at once: the quickest run and the median one."""
    script = str(Path(__file__).parents[1] / STUDY)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        commands = BRIEF if study.options.quick else {**BRIEF, f"{STUDY} --quick": [script, "--quick", "--out", folder]}
        for name, arguments in commands.items():
            found = [whole_run([sys.executable, *arguments], Path(folder))[0] for _ in range(repeats)]
            rows.append((name, f"{min(found):.2f}", f"{np.median(found):.2f}"))
    study.table("Commands that should answer at once", ("", "quickest, s", "median, s"), rows)
