"""Six networks written in PyTorch, from module to table and home again, as a user does it: by the command line.

    python experiments/brought_networks.py --raw-dir DATA

`experiments/brought` holds what the user has: `networks.py`, plain PyTorch, and a sweep for each network (3 seeds, 2
epochs, 5,000 images of MNIST or CIFAR-10). Each table is filled; 50 steps in float64 are compared with PyTorch's own
from the same weights in the same order, dropout off; and the winner's weights are loaded strictly in a process of plain
PyTorch (`home.py`), whose outputs are compared with ours and with those of the ONNX file. FLAXVISION_TORCH_NETWORKS
names another file with networks of the same names. Some 20 minutes on 2 CPU cores; `--quick` takes one network, drawn
digits, one seed, one epoch and 5 steps.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from common import parser_of, write_page

import flaxvision as fv
from flaxvision.report import markdown_table

HEADING = """Six networks from PyTorch: a table each, and home again

Written in plain PyTorch ([`networks.py`](../../brought/networks.py)), named in a TOML file, trained in flaxvision, \
and loaded strictly by the same classes in a process that knows PyTorch only. Each cell has \
three seeds, 0 to 2, of 2 epochs on 5,000 images. Losses: largest relative difference \
over 50 steps in float64 from PyTorch's own, from the same weights in the same order, dropout off. Outputs: largest \
absolute difference of the module's on 5,000 test images from flaxvision's and from `network.onnx` in onnxruntime, in \
float32."""
FOLDER = Path(__file__).parent / "brought"
NAMES = ("tutorial", "residual", "depthwise", "dense", "squeeze_excite", "sequential")
COLUMNS = ("network", "data", "best cell, test top-1 (%)", "losses", "from ours", "from ONNX", "largest output")
OTHER_FILE = "FLAXVISION_TORCH_NETWORKS"
STEPS = 50
OF_TRAJECTORY = ("optimizer", "momentum", "nesterov", "weight_decay", "decay_biases", "label_smoothing", "clip_norm")


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of("brought_networks", __doc__, "one network, drawn digits, 1 epoch")
    words = "which to take (default: all); the rows of others are kept from results.json"
    parser.add_argument("--networks", nargs="+", choices=NAMES, default=NAMES, help=words)
    options = parser.parse_args(arguments)
    rows = kept_rows(options.out)
    for name in options.networks[-1:] if options.quick else options.networks:
        with tempfile.TemporaryDirectory() as folder:
            found = from_module_to_home(name, Path(folder), options.raw_dir, options.quick, 1 if options.quick else 3)
        rows[name] = row_of(name, found)
        print(rows[name], flush=True)
    ordered = {name: rows[name] for name in NAMES if name in rows}
    table = markdown_table(COLUMNS, list(ordered.values())) + "\n"
    write_page(options, "brought_networks", HEADING, [table], ["torch", "onnxruntime"], columns=COLUMNS, rows=ordered)


def kept_rows(out: Path) -> dict[str, Sequence[str]]:
    """The rows that an earlier call left, by network."""
    file = out / "results.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))["rows"]) if file.exists() else {}


def row_of(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    """What was found for a network, in `COLUMNS`."""
    home = found["home"]
    best = max(found["table"], key=lambda row: float(row["test_top1_mean"]))
    return (
        f"[{name}](../../brought/{name}.toml)",
        found["dataset"],
        f"{100 * float(best['test_top1_mean']):.2f} ± {100 * float(best['test_top1_std'] or 'nan'):.2f}",
        f"{found['losses']:.1e}",
        f"{home['ours']:.1e}",
        f"{home['onnx']:.1e}",
        f"{home['largest']:.1f}",
    )


def from_module_to_home(
    name: str, folder: Path, raw_dir: str | None, quick: bool = False, seeds: int = 3
) -> dict[str, Any]:
    """Fill a network's table in `folder`, compare its first steps, and take its winner home.

    Returns:
        "network", "dataset"; "table": rows of results.csv; "losses": the largest relative difference; "home": what
        `home.py` prints.
    """
    networks = Path(os.environ.get(OTHER_FILE) or FOLDER / "networks.py")
    shutil.copy(networks, folder / "networks.py")
    for file in (f"{name}.toml", "home.py"):
        shutil.copy(FOLDER / file, folder)
    spec = tomllib.loads((folder / f"{name}.toml").read_text())
    dataset = "glyphs" if quick else spec["dataset"]
    data = ["--dataset", dataset, *(["--raw-dir", str(Path(raw_dir).absolute())] if raw_dir and not quick else [])]

    # The table.
    short = ["--epochs", "1", "--set", "limit=256"] if quick else []
    _type(folder, "flaxvision.sweep", f"{name}.toml", "--out", "run", *data, "--seeds", str(seeds), *short)

    # PyTorch's own steps: its recipe as far as it is an optimizer at a constant rate.
    recipe = {key: value for key, value in spec["recipe"].items() if key in (*OF_TRAJECTORY, "batch_size")}
    recipe["learning_rate"] = spec["grid"]["learning_rate"][-1]
    settings = [f"{key}={str(value).lower()}" for key, value in recipe.items()]
    steps = ["--steps", str(5 if quick else STEPS), "--orders", "0"]
    _type(folder, "export", "trajectory", spec["model"], *data, *steps, "-o", ".", "--set", *settings)
    losses = json.loads((folder / "trajectory.json").read_text())["losses"]["float64"]
    ours, theirs = (np.array(losses[side]) for side in ("flax", "torch"))

    # Home.
    model = fv.load_model(folder / "run")
    test = fv.data.load(dataset, raw_dir=None if quick else raw_dir, limit=256 if quick else spec["data"]["limit"]).test
    pixels = np.asarray(model.preprocess(test.images, np.dtype("float32")))
    outputs = outputs_of(model, pixels)
    np.savez(folder / "images.npz", pixels=pixels, outputs=outputs, labels=test.labels)
    network = spec["model"].rpartition(":")[2]
    files = ["run/winner/torch.safetensors", "run/winner/network.onnx", "images.npz"]
    home = json.loads(_run(folder, "home.py", "networks.py", network, *files))
    return {
        "network": network,
        "dataset": dataset,
        "table": read_table(folder / "run" / "results.csv"),
        "steps": len(ours),
        "losses": float(np.max(np.abs(ours - theirs) / np.abs(theirs))),
        "home": home,
    }


def outputs_of(model: fv.layers.Network, pixels: np.ndarray, batch: int = 500) -> np.ndarray:
    """What the model gives, with the log_softmax at its end that the module has."""
    ends = model.torch is not None and model.torch.ending == "log_softmax"
    score = jax.jit(lambda x: jax.nn.log_softmax(model(x)) if ends else model(x))
    return np.concatenate([score(pixels[start : start + batch]) for start in range(0, len(pixels), batch)])


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a results.csv."""
    import csv

    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _type(folder: Path, program: str, *words: str) -> str:
    return _run(folder, "-m", program, *words)


def _run(folder: Path, *words: str) -> str:
    """What `python WORDS` prints, typed in a folder."""
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"python {' '.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
