"""The report as one self-contained HTML page."""

from __future__ import annotations

import base64
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxvision.report import formats
from flaxvision.report.confusion import confused_pairs, examples_of, of_winner
from flaxvision.report.display import Table, display_tables, excerpt, narrow, tells_more
from flaxvision.report.figures import figure_files
from flaxvision.report.fonts import substitutes
from flaxvision.report.interactive import plots_json
from flaxvision.report.remarks import cautions, data_used, provenance_shown
from flaxvision.report.search import best_table, search_words
from flaxvision.report.style import COLUMN, DPI
from flaxvision.report.winner import Insight
from flaxvision.report.words import recipe_words
from flaxvision.sweep.results import Outcome, SweepResult, ranked
from flaxvision.training.metrics import METRICS, SHOWN_METRICS

if TYPE_CHECKING:
    from jinja2 import Template

    from flaxvision.sweep.status import Status

CLASSES = 64  # of more classes the best stand folded
LARGE = 300_000  # bytes; a larger vector figure stands in the page as pixels
ROWS = 20  # of a table with more keys than a heat map shows so many stand open, the best
FILTERED = 12  # rows from which on a table has a filter
LISTED = 20  # failures that the head of the page lists
PHONE = 40  # characters that a telephone has room for
REFRESH = 5  # seconds after which a browser reads the page of a running sweep again
_FIGURES = {
    "table": "Every cell of the table",
    "keys": "The objective over each key",
    "search": "The best that the search had found so far",
    "space": "What every trial of the search reached, over each key",
    "loss": "Loss over epochs",
    "accuracy": "Top-1 accuracy over epochs",
    "confusion": "What the winner confuses",
}


def report_html(
    result: SweepResult,
    files: Mapping[str, bytes] | None = None,
    extra_sections: Sequence[tuple[str, str]] = (),
    *,
    insight: Insight | None = None,
    status: Status | None = None,
) -> str:
    """The page; it loads nothing, so it can be mailed.

    Args:
        result: What to report.
        files: The figures by file name, as from `figure_files`; drawn here if not given.
        extra_sections: More sections: a heading (text) and its HTML, which is trusted.
        insight: What the winner's network shows, see `flaxvision.report.winner`; None leaves that out.
        status: How far the sweep is, if it still runs: then the page says so, and refreshes itself.
    """
    files = figure_files(result) if files is None else files
    metrics = [metric for metric in SHOWN_METRICS if metric in result.metrics]
    found = (
        path
        for pattern in ("trials.jsonl", "search.jsonl", "winner/*.*")
        for path in sorted(result.directory.glob(pattern))
    )
    beside = [path.relative_to(result.directory).as_posix() for path in found]
    tables = ["results.csv", "results.md", "results.tex"] if status is None else ["status.json"]
    data, charts = plots_json(result)
    search = result.search if result.search and result.search.trials else None
    return _template().render(
        result=result,
        status=status,
        refresh=REFRESH,
        example=_example(result),
        headline=_headline(result),
        cautions=cautions(result),
        tables=[_table(table, result) for table in display_tables(_sorted(result))] if result.cells else [],
        searched=_table(best_table(search), result) if search else None,
        search_words=search_words(search) if search else "",
        data=data_used(result),
        insight=insight or Insight(),
        words=recipe_words(result),
        figures={name: _figure(name, files) for name in _FIGURES if f"{name}.svg" in files},
        charts=charts,
        plots=data,
        column=COLUMN,
        substitutes=substitutes(result),
        **_by_class(result),
        classes_shown=CLASSES,
        trial_header=[*result.keys, *(formats.metric_name(metric) for metric in metrics)],
        trials=[_trial(outcome, result.keys, metrics) for outcome in excerpt(result).outcomes],
        siblings=[*tables, *beside, *files],
        command=result.provenance.get("command"),
        provenance=provenance_shown(result),
        extra_sections=extra_sections,
        listed=LISTED,
        style=_text("page.css"),
        script=_text("page.js"),
    )


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("flaxvision.report", "")
    options: dict[str, Any] = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    return Environment(loader=loader, autoescape=True, **options).get_template("page.html.jinja")


@functools.cache
def _text(name: str) -> str:
    return resources.files("flaxvision.report").joinpath(name).read_text(encoding="utf-8")


def _headline(result: SweepResult) -> dict[str, Any]:
    """The winner in words and numbers."""
    winner = result.winner
    if winner is None:
        return {}
    told = [m for m in METRICS.values() if len(result.classes) >= m.needs_classes and tells_more(result, m)]
    told.sort(key=lambda metric: metric.lower_is_better)  # shares first
    order = formats.distinct([result.objective, *(f"test_{metric.key}" for metric in told), "val_loss"])
    first, *others = [
        f"{formats.metric_name(metric, unit=False)} {formats.with_unit(metric, value)}"
        for metric in order
        if (value := winner.final.get(metric)) is not None
    ] or ["no finite result"]
    several = any(cell.n > 1 and winner in cell.outcomes for cell in result.cells)
    return {
        "objective": formats.metric_name(result.objective, unit=False),
        "first": first,
        "others": others,
        "where": dict(winner.cell),
        "epochs": len(winner.history.get("train_loss", ())),
        "typical": several,
    }


def _example(result: SweepResult) -> str:
    """What one may type into a filter."""
    return next((f"{key}={cell.where[key]}" for cell in result.cells for key in result.keys if key in cell.where), "")


def _sorted(result: SweepResult) -> SweepResult:
    """With the best cells first, where there are more keys than a heat map shows and more rows than stand open."""
    if len(result.keys) < 3 or len(result.cells) <= ROWS:
        return result
    return dataclasses.replace(result, cells=tuple(ranked(result.cells, formats.shown_metric(result))))


def _table(table: Table, result: SweepResult) -> dict[str, Any]:
    """A table, the columns that a telephone has no room for, and what one can do with its rows."""
    kept, left_out = narrow(table, PHONE, lambda t: sum(max(map(len, c.texts)) + 1 for c in t.columns))
    many = not table.across and len(table.rows) >= FILTERED
    return {
        "caption": table.caption,
        "across": table.across,
        "labels": table.labels,
        "columns": [{"heading": c.heading, "spare": c not in kept.columns, "marked": c.marked} for c in table.columns],
        "rows": table.rows,
        "notes": table.notes,
        "left_out": left_out,
        "kinds": " ".join(["sortable"] * (not table.across) + ["filterable"] * many),
        "most": ROWS if len(result.keys) > 2 and len(table.rows) > ROWS else 0,
    }


def _figure(name: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    vector, pixels = files[f"{name}.svg"], files[f"{name}.png"]
    kind, data = ("svg+xml", vector) if len(vector) <= LARGE else ("png", pixels)
    return {
        "alt": _FIGURES[name],
        "source": f"data:image/{kind};base64,{base64.b64encode(data).decode()}",
        "inches": int.from_bytes(pixels[16:20], "big") / DPI,  # a PNG's width stands there
    }


def _by_class(result: SweepResult) -> dict[str, list[dict[str, Any]]]:
    """The winner's most frequent errors, and its accuracies in percent, the worst first; None without examples."""
    found = of_winner(result)
    if found is None:
        return {"pairs": [], "classes": []}
    pairs, accuracies, names = found
    errors = confused_pairs(pairs)
    rows = zip(names, 100 * accuracies.astype(float), strict=True)
    return {
        "pairs": [{"true": names[i], "taken": names[j], "count": n, "of": examples_of(pairs, i)} for i, j, n in errors],
        "classes": [
            {"name": name, "percent": None if np.isnan(value) else float(value)}
            for name, value in sorted(rows, key=lambda row: (np.isnan(row[1]), row[1]))
        ],
    }


def _trial(outcome: Outcome, keys: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    values = {metric: outcome.final.get(metric) for metric in metrics}
    scores = ["–" if value is None else formats.number(metric, value) for metric, value in values.items()]
    return {
        "outcome": outcome,
        "values": [dict(outcome.cell).get(key, "") for key in keys] + scores,
        "epoch": outcome.best_epoch or "–",
        "seconds": formats.seconds(None if outcome.status == "failed" else outcome.seconds),
    }
