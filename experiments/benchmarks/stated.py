"""What the docs state beside the benchmarks: how exports agree, airbench94's time, and the tables of the lab."""

from __future__ import annotations

import csv
import json
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from common import RESULTS

from flaxvision.report import markdown_table


def airbench() -> str:
    """The time of airbench94 here and in PyTorch."""
    record = _results("cifar_networks")
    (steps,) = (table for table in record["tables"] if table["title"] == "Steps of airbench94")
    minutes = {row[0]: float(row[2]) for row in steps["rows"]}
    ours = minutes.pop("flaxvision")
    fastest = min(minutes, key=minutes.__getitem__)
    text = (
        "airbench94, Jordan's race to 94 % on CIFAR-10, is a recipe too "
        f"([`airbench94.py`](experiments/airbench94.py)): a training takes {ours:.0f} minutes on two cores, and "
        f"{minutes[fastest]:.0f} in {fastest}, the fastest of {len(minutes)} settings; both extrapolated from a few "
        f"updates ([numbers]({_page('cifar_networks')}))."
    )
    return textwrap.fill(text, 120)


def agreement() -> str:
    """How closely the same network agrees elsewhere."""
    paths = _results("export_trajectories")["trajectories"]
    double = [path["losses"]["float64"] for path in paths]
    apart = max(_apart(losses["flax"], losses["torch"]) for losses in double)
    most = max(len(losses["flax"]) for losses in double)
    brought = _results("brought_networks")
    column = brought["columns"].index("losses")
    home = max(float(row[column]) for row in brought["rows"].values())
    drawn = (RESULTS / "torch_random_modules" / "README.md").read_text(encoding="utf-8")
    found = re.search(r"(\d+) modules, .*?: (\d+) read, (\d+) agree within (\S+)\.\n", drawn)
    assert found is not None
    modules, read, agree, within = found.groups()
    parity = _results("export_parity")["tables"]
    runtimes = {row["runtime"] for table in parity for row in table["rows"]}
    images = parity[0]["images"]
    same = all(row["agreeing"] == table["images"] for table in parity for row in table["rows"])
    graphs = _results("export_random_networks")
    lines = [
        (
            f"losses of {most} training steps on real data, against PyTorch networks written by hand, float64",
            f"within {apart:.0e}, relative",
            "export_trajectories",
        ),
        (
            f"losses of 50 steps of {len(brought['rows'])} networks read from PyTorch, against PyTorch's own, float64",
            f"within {home:.0e}, relative",
            "brought_networks",
        ),
        (
            f"{modules} random PyTorch modules, written as code: read, exported, loaded back",
            f"{read} read, {agree} agree within {within}",
            "torch_random_modules",
        ),
        (
            f"{len(parity)} trained networks on {images:,} test images in {', '.join(sorted(runtimes))}",
            "the same class for every image" if same else "not the same class for every image",
            "export_parity",
        ),
        (
            f"{graphs['networks']:,} random graphs of layers (branches, gates, concatenations) against their exports",
            f"{len(graphs['disagreements']) or 'no'} disagreements beyond float32's rounding",
            "export_random_networks",
        ),
    ]
    rows = [(what, result, f"[table]({_page(name)})") for what, result, name in lines]
    return markdown_table(("checked", "result", ""), rows).rstrip()


def marks() -> str:
    """How often equal cells are called worse than the best."""
    tables = {table["title"]: table for table in _results("null_differences")["tables"]}
    who = {"ours": "here", "paired t, Holm": "paired t-tests, Holm's correction"}
    found = {said: tables[f"False marks (%): {name}"] for name, said in who.items()}
    header, *_ = (table["header"] for table in found.values())
    rows = [[said, *row[1:]] for said, table in found.items() for row in table["rows"] if row[0] == "equal spreads"]
    text = (
        "Measured by [`null_differences.py`](experiments/null_differences.py) on tables of equal cells with equal "
        f"spreads ([others, and what is found where cells differ]({_page('null_differences')})):"
    )
    table = markdown_table(["% of tables with a false mark", *header[1:]], rows).rstrip()
    return f"{textwrap.fill(text, 120)}\n\n{table}"


def rates() -> str:
    """The lab's first table."""
    return _lab("rates", ["learning_rate"])


def momentum() -> str:
    """The lab's second table."""
    return _lab("momentum", ["learning_rate", "momentum"])


def batches() -> str:
    """The lab's third table."""
    return _lab("batches", ["batch_size", "learning_rate"])


def _lab(name: str, keys: Sequence[str]) -> str:
    with (RESULTS / "lab" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    scores = {"train loss": "train_loss", "validation loss": "val_loss"}
    header = [*keys, "validation top-1 (%)", *scores, "test top-1 (%)"]
    lines = [
        [
            *(row[key] for key in keys),
            f"{100 * float(row['val_top1_mean']):.2f} ± {100 * float(row['val_top1_std']):.2f}",
            *(f"{float(row[f'{score}_mean']):.3f}" for score in scores.values()),
            f"{100 * float(row['test_top1_mean']):.2f} ± {100 * float(row['test_top1_std']):.2f}",
        ]
        for row in rows
    ]
    return markdown_table(header, lines, labels=0).rstrip()


def _apart(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The largest relative difference of two trajectories."""
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def _results(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name / "results.json").read_text(encoding="utf-8"))


def _page(name: str) -> str:
    return f"experiments/results/{name}/README.md"
