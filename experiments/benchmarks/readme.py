"""The numbers of README and docs: what stands between their marks is written from the results of experiments."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import stated
from common import RESULTS, Options
from steps import BEST_TORCH

ROOT = RESULTS.parents[1]
FOLDER = RESULTS / "benchmarks"
STEPS = "experiments/results/benchmarks/steps/README.md"
BEGIN = "<!-- Written by `python experiments/benchmarks readme` from here -->"
END = "<!-- to here -->"
PART = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
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
    """Write the marked parts of all pages anew."""
    for page in BLOCKS:
        page.write_text(written(page), encoding="utf-8")


def written(page: Path) -> str:
    """A page as it should be: its marked parts, in their order, from the results."""
    text, blocks = page.read_text(encoding="utf-8"), iter(BLOCKS[page])
    if len(PART.findall(text)) != len(BLOCKS[page]):
        raise ValueError(f"{page} should have {len(BLOCKS[page])} parts between {BEGIN} and {END}")
    found = PART.sub(lambda _: f"{BEGIN}\n\n{next(blocks)()}\n\n{END}", text)
    depth = len(page.relative_to(ROOT).parts) - 1
    return found if depth == 0 else found.replace("](experiments/", f"]({'../' * depth}experiments/")


def table(lines: Sequence[Sequence[str]], header: Sequence[str] = HEADER, numbers: Sequence[int] = (2,)) -> str:
    """A table of Markdown, with the columns `numbers` to the right."""
    rule = ["---:" if column in numbers else "---" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *lines))


def in_short() -> str:
    """The README's table, of no more than fifteen lines."""
    made = Page("steps")
    lost = [f"{of} ({short(ratio)})" for (of, _), ratio in beside(made, BEST_TORCH).items() if ratio < 1]
    few = f"PyTorch trains {', '.join(lost)} faster. " if lost else ""
    lines = [*steps(), *tables(), *gpu()]
    text = f"{few}On {machine(made)}; the last three rows on {machine(Page('gpu'))}. Why, and what else was measured: "
    return f"{table(lines)}\n\n{textwrap.fill(f'{text}[How it is fast](docs/speed.md).', 120)}"


def on_a_cpu() -> str:
    """All that was measured on a CPU."""
    made = Page("steps")
    text = f"{slower(made)} Rows are medians of several turns. Each page has the whole command, machine and versions; "
    rest = textwrap.fill(f"{text}for the first row {machine(made)}.", 120)
    return f"{table([*steps(), *tables(), *sizes(), *scaling()])}\n\n{rest}"


def on_a_gpu() -> str:
    """What was measured on a GPU."""
    page = Page("gpu")
    whole = {title.partition(":")[0]: page.seconds(title) for title in page.titles if title.endswith(": seconds")}
    ours = {name: each["flaxvision"] for name, each in whole.items()}
    low, high = min(ours, key=ours.__getitem__), max(ours, key=ours.__getitem__)
    times = {who: [each[who] / each["flaxvision"] for each in whole.values()] for who in (PYTORCH, "torch.compile")}
    step = page.rows("A step, ms")
    emnist, vgg = step["emnist_cnn"], step["vgg19"]
    half = "torch.compile, bfloat16, channels last"
    together = page.rows("Trials together, emnist_cnn")
    counts = [count for count in together if int(count) >= 256]
    lines = [
        (
            f"{len(whole)} whole tables, nothing compiled before",
            f"{ours[low]:.1f} s (`{low}`) to {ours[high]:.1f} s (`{high}`)",
            f"{spread(times[PYTORCH])} times as long; with `torch.compile` {spread(times['torch.compile'])} times; "
            "estimated from 150 steps of each cell",
        ),
        ("a step of `vgg19`", f"{first(vgg['flaxvision']):.1f} ms", f"{first(vgg[PYTORCH]):.1f} ms"),
        ("the same in bfloat16", f"{first(vgg['flaxvision, bfloat16']):.1f} ms", f"{first(vgg[half]):.1f} ms, {half}"),
        ("a step of `emnist_cnn`", f"{first(emnist['flaxvision']):.2f} ms", f"{first(emnist[PYTORCH]):.1f} ms"),
    ]
    lines += [
        (f"{count} trials of `emnist_cnn` together", f"as long as {float(together[count]['of a single one']):.0f}", "")
        for count in counts
    ]
    header = ("what is timed", "flaxvision", "PyTorch, data on the GPU, one trial after the other")
    command = f"`{page.record['command']}`, one run, {machine(page)} ([all numbers]({page.address}))"
    return f"{table(lines, header, ())}\n\n{textwrap.fill(f'{command}.', 120)}"


class Page:
    """One committed results.json of the benchmarks."""

    def __init__(self, name: str):
        self.address = f"experiments/results/benchmarks/{name}/README.md"
        self.link = f"[`{name}`]({self.address})"
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

    @property
    def titles(self) -> list[str]:
        """The titles of its tables."""
        return [table["title"] for table in self.record["tables"]]

    def rows(self, title: str) -> dict[str, Mapping[str, str]]:
        """First cell of a table -> the row, by the header."""
        return {of: row for (of, _), row in self.table(title).items()}

    def seconds(self, title: str) -> dict[str, float]:
        """Contestant -> seconds of a whole table."""
        return {who: first(row["seconds"]) for who, row in self.rows(title).items()}

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
                what, span = f"a train step of {len(each)} networks, their batch sizes", spread(each)
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
        seconds = {key: first(row["seconds"]) for key, row in page.table("Seconds").items()}
        for number, who in enumerate(whose):
            each = [took / seconds[table, "flaxvision"] for (table, name), took in seconds.items() if name == who]
            ratio = f"{short(page.ratios()[MEAN, who])} ({spread(each)})"
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


def gpu() -> Iterator[Line]:
    page = Page("gpu")
    ratios = page.ratios()
    each = [ratio for (_, who), ratio in ratios.items() if who == PYTORCH]
    mean = math.exp(sum(map(math.log, each)) / len(each))
    what = f"{len(each)} whole tables on a GPU, estimated from 150 steps of each cell"
    yield what, "PyTorch, its data on the GPU", f"{short(mean)} ({spread(each)})", page.link
    for network in ("emnist_cnn", "vgg19"):
        yield (
            f"a train step of `{network}` there",
            "the faster PyTorch",
            short(ratios[network, "the faster PyTorch"]),
            "",
        )


def beside(page: Page, who: str) -> dict[tuple[str, str], float]:
    """The ratios of one contestant on single networks."""
    return {key: ratio for key, ratio in page.ratios().items() if key[1] == who and not key[0].startswith(MEAN)}


def machine(page: Page) -> str:
    """On what, and with which versions, a page was made."""
    versions = (f"{name} {found}" for name in ("jax", "torch") if (found := page.record["versions"].get(name)))
    return ", ".join([page.record["device"], *versions])


def first(cell: str) -> float:
    """The number with which a cell begins."""
    return float(cell.split()[0].replace(",", ""))


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


def spread(ratios: Sequence[float]) -> str:
    return f"{short(min(ratios))} to {short(max(ratios))}"


BLOCKS: dict[Path, tuple[Callable[[], str], ...]] = {
    ROOT / "README.md": (in_short,),
    ROOT / "docs/speed.md": (on_a_cpu, stated.airbench, on_a_gpu),
    ROOT / "docs/exports.md": (stated.agreement,),
    ROOT / "docs/report.md": (stated.marks,),
    ROOT / "docs/lab.md": (stated.rates, stated.momentum, stated.batches),
}
