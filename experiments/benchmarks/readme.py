"""The README's numbers of speed: everything between its two marks is written from the results of the benchmarks."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from common import RESULTS, Options
from steps import BEST_TORCH

README = RESULTS.parents[1] / "README.md"
FOLDER = RESULTS / "benchmarks"
STEPS = "experiments/results/benchmarks/steps/README.md"
BEGIN = "<!-- Written by `python experiments/benchmarks readme` from here -->"
END = "<!-- to here -->"
HEADER = ("what is timed", "compared with", "times as long", "numbers")
MEAN = "geometric mean"
PYTORCH = "PyTorch"
NAMES = {PYTORCH: "PyTorch, its data in memory", "DataLoader": "PyTorch, a `DataLoader` over PIL images"}
EIGHT = (
    "PyTorch at its fastest is the fastest of eight settings on each network: eager and compiled, contiguous and "
    "channels last, plain and fused optimizer."
)
Line = tuple[str, str, str, str]  # the cells of a row


def run(options: Options) -> None:
    """Write the part of the README anew."""
    before, _, after = parts(README.read_text(encoding="utf-8"))
    README.write_text(f"{before}{section()}{after}", encoding="utf-8")


def parts(text: str) -> tuple[str, str, str]:
    """The README before, between and after the marks."""
    before, rest = text.split(BEGIN + "\n")
    between, after = rest.split(END)
    return f"{before}{BEGIN}\n", between, f"{END}{after}"


def section() -> str:
    """What stands between the marks."""
    made = Page("steps")
    lines = [HEADER, ("---", "---", "---:", "---"), *steps(), *tables(), *sizes(), *scaling()]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    versions = ", ".join(f"{name} {made.record['versions'][name]}" for name in ("jax", "flax", "torch"))
    text = (
        f"{slower(made)} Rows are medians of several turns; each page has the whole command, machine and versions, for "
        f"the first row {made.record['device']}, {versions}."
    )
    return f"\n{rows}\n\n{textwrap.fill(text, 120)}\n\n"


class Page:
    """One committed results.json of the benchmarks."""

    def __init__(self, name: str):
        self.link = f"[`{name}`](experiments/results/benchmarks/{name}/README.md)"
        self.record: dict[str, Any] = json.loads((FOLDER / name / "results.json").read_text(encoding="utf-8"))

    def ratios(self) -> dict[tuple[str, str], float]:
        """(Network, table or kind of mean; contestant) -> its time in flaxvision's."""
        found = {}
        for row in self.record["rows"]:
            what, _, ours = row["what"].partition(" / ")
            if ours == "flaxvision":
                of, _, who = what.rpartition(": ")
                found[of, who] = float(row["ours"])
        return found

    def table(self, title: str) -> dict[tuple[str, str], Mapping[str, str]]:
        """(First cell, second cell) of a table -> the row, by the header."""
        (table,) = (table for table in self.record["tables"] if table["title"] == title)
        return {(str(row[0]), str(row[1])): dict(zip(table["header"], row, strict=True)) for row in table["rows"]}


def steps() -> Iterator[Line]:
    page = Page("steps")
    ratios = page.ratios()
    for (of, who), ratio in ratios.items():
        if of.startswith(MEAN) and PYTORCH in who and who != PYTORCH:
            each = [value for (task, name), value in ratios.items() if name == who and not task.startswith(MEAN)]
            if of == MEAN:
                what, span = f"a train step of {len(each)} networks, their batch sizes", spread(min(each), max(each))
                yield what, who, f"{short(ratio)} ({span})", page.link
            else:
                yield of.removeprefix(f"{MEAN} "), who, short(ratio), ""
    page = Page("steps/peers")
    for number, who in enumerate(("Keras on JAX", "Flax, jax.jit")):
        what = "a train step of the reports' networks"
        yield "" if number else what, who, short(page.ratios()[MEAN, who]), "" if number else page.link


def tables() -> Iterator[Line]:
    for name, what, whose in (
        ("tables", "whole tables, from the command to the report, nothing compiled before", ("PyTorch", "DataLoader")),
        ("tables/peers", "of the tables, one seed timed", ("torch.compile", "Keras on JAX", "Flax, nnx.jit")),
    ):
        page = Page(name)
        seconds = {key: float(row["seconds"].split()[0]) for key, row in page.table("Seconds").items()}
        for number, who in enumerate(whose):
            each = [took / seconds[table, "flaxvision"] for (table, name), took in seconds.items() if name == who]
            ratio = f"{short(page.ratios()[MEAN, who])} ({spread(min(each), max(each))})"
            timed, link = ("", "") if number else (f"{len(each)} {what}", page.link)
            yield timed, NAMES.get(who, who), ratio, link


def sizes() -> Iterator[Line]:
    page = Page("sizes")
    for network in ("emnist_cnn", "tiny_cnn", "mnist_net"):
        ratios = {batch: row["PyTorch / flaxvision"] for (batch, _), row in page.table(f"Batch, {network}").items()}
        large, small = (short(float(ratios[batch])) for batch in ("1024", "16"))
        what = f"a step at batch 1024 (at 16): `{network}`"
        yield what, "PyTorch as a first script runs it", f"{large} ({small})", page.link


def scaling() -> Iterator[Line]:
    page = Page("scaling/threads")
    for row in page.record["rows"]:
        network, what = row["what"].split(": ")
        yield f"{what.split(',')[0]} together: `{network}`", "the same one by one", short(1 / row["ours"]), page.link


def slower(page: Page) -> str:
    """Which networks PyTorch trains faster, and how it was run."""
    each = [(who, ratio, of) for (of, who), ratio in page.ratios().items() if not of.startswith(MEAN)]
    lost = [f"{of} ({short(ratio)})" for _, ratio, of in sorted(each) if ratio < 1]
    found = f"{', '.join(lost)} faster ([beside what the machine does at best]({STEPS}))" if lost else "none faster"
    found = f"Of the first row's networks PyTorch trains {found}."
    return f"{EIGHT} {found}" if each[0][0] == BEST_TORCH else found


def short(ratio: float) -> str:
    """Two significant digits, below 2 three.

    >>> short(2.768), short(1.4823), short(12.4)
    ('2.8', '1.48', '12')
    """
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}" if ratio >= 2 else f"{ratio:.2f}"


def spread(low: float, high: float) -> str:
    return f"{short(low)} to {short(high)}"
