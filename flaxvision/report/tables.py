"""The results as CSV for programs and as Markdown for people."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from flaxvision.report.display import Table, display_tables
from flaxvision.report.remarks import cautions, data_used
from flaxvision.sweep.results import TABLE_METRICS, SweepResult

_NUMERIC = re.compile(r"([-+±≥≤]? ?[\d.,]+(e[-+]\d+)?( %)?( ± [\d.,]+| to [\d.,]+)?)?")  # one or two, or nothing
_UPRIGHT = re.compile(r"(?<!\\)\|")


def results_csv(result: SweepResult) -> str:
    """One row a cell, for programs: every digit, fractions, an empty field where there is no number."""
    final = any(cell.stage == "final" for cell in result.cells)
    metrics = [f"{metric}_{what}" for metric in TABLE_METRICS for what in ("mean", "std")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = [*result.keys, *(["stage"] if final else []), "n", "diverged", "failed", "parameters", *metrics]
    writer.writerow([*header, "best_epoch", "converged_epoch", "seconds"])
    for cell in result.cells:
        where = [cell.where.get(key, "") for key in result.keys] + ([cell.stage] if final else [])
        counts = [cell.n, cell.diverged, cell.failed, cell.parameters]
        scores = [value for metric in TABLE_METRICS for value in (cell.mean(metric), cell.std(metric))]
        means = [cell.mean(name) for name in ("best_epoch", "converged_epoch")]
        epochs = [int(mean) if mean is not None and mean.is_integer() else mean for mean in means]
        writer.writerow([*where, *counts, *scores, *epochs, cell.mean("seconds")])
    return text.getvalue()


def results_markdown(result: SweepResult) -> str:
    """The tables as GitHub-flavoured Markdown."""
    head = [f"# {_markdown(result.title)}\n", *(f"{_markdown(text)}\n" for text in cautions(result))]
    lines = [
        line
        for used in data_used(result)
        for line in (f"- {_markdown(used.line)}\n", *(f"  - {_markdown(note)}\n" for note in used.notes))
    ]
    tail = ["## The data\n", "".join(lines)] if lines else []
    return "\n".join([*head, *map(_markdown_table, display_tables(result)), *tail])


def _markdown_table(table: Table) -> str:
    header = [_markdown(name) for name in table.header]
    if table.across:
        header[0] += f" / {_markdown(table.across)}"
    rows = [[f"**{_markdown(e.text)}**" if e.best else _markdown(e.text) for e in row] for row in table.rows]
    notes = "\n".join(f"- {_markdown(note)}" for note in table.notes)
    return f"{_markdown(table.caption)}\n\n{markdown_table(header, rows, table.labels)}\n\n{notes}\n"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]], labels: int | None = None) -> str:
    """A table in GitHub-flavoured Markdown.

    Args:
        header: The headings, in Markdown.
        rows: The entries, in Markdown; only their upright lines are escaped here.
        labels: How many leading columns stand to the left, the others to the right. None: columns of numbers stand to
            the right.

    >>> print(markdown_table(["cell", "top-1"], [["a|b", 0.5]]))
    | cell | top-1 |
    | --- | ---: |
    | a\\|b | 0.5 |
    """
    cells = [[_UPRIGHT.sub(r"\\|", str(cell)) for cell in row] for row in rows]
    rule = []
    for i in range(len(header)):
        column = [row[i] for row in cells]
        numeric = any(column) and all(map(_NUMERIC.fullmatch, column))
        rule.append("---:" if (numeric if labels is None else i >= labels) else "---")
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *cells))


def _markdown(text: str) -> str:
    """Text that Markdown shows as it is; an underscore inside a word is safe."""
    return re.sub(r"([\\`*<>|\[\]]|\b_|_\b)", r"\\\1", " ".join(text.split()))
