"""The report as one self-contained HTML page."""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxvision.report import formats
from flaxvision.report.confusion import confused_pairs, examples_of, of_winner
from flaxvision.report.display import cautions, data_used, display_tables, tells_more
from flaxvision.report.figures import figure_files
from flaxvision.report.fonts import substitutes
from flaxvision.report.style import COLUMN, DPI
from flaxvision.sweep.results import Outcome, SweepResult
from flaxvision.training.metrics import METRICS, SHOWN_METRICS

if TYPE_CHECKING:
    from jinja2 import Template

CLASSES = 64  # of more classes the best stand folded
LARGE = 300_000  # bytes; a larger vector figure stands in the page as pixels
_FIGURES = {
    "table": "Every cell of the table",
    "loss": "Loss over epochs",
    "accuracy": "Top-1 accuracy over epochs",
    "confusion": "What the winner confuses",
}


def report_html(
    result: SweepResult,
    files: Mapping[str, bytes] | None = None,
    extra_sections: Sequence[tuple[str, str]] = (),
) -> str:
    """The page; it loads nothing, so it can be mailed.

    Args:
        result: What to report.
        files: The figures by file name, as from `figure_files`; drawn here if not given.
        extra_sections: More sections: a heading (text) and its HTML, which is trusted.
    """
    files = figure_files(result) if files is None else files
    metrics = [metric for metric in SHOWN_METRICS if metric in result.metrics]
    found = (path for pattern in ("trials.jsonl", "winner/*.*") for path in sorted(result.directory.glob(pattern)))
    beside = [path.relative_to(result.directory).as_posix() for path in found]
    return _template().render(
        result=result,
        headline=_headline(result),
        cautions=cautions(result),
        tables=display_tables(result),
        data=data_used(result),
        figures={name: _figure(name, files) for name in _FIGURES if f"{name}.svg" in files},
        column=COLUMN,
        substitutes=substitutes(result),
        **_by_class(result),
        classes_shown=CLASSES,
        trial_header=[*result.keys, *(formats.metric_name(metric) for metric in metrics)],
        trials=[_trial(outcome, result.keys, metrics) for outcome in result.outcomes],
        siblings=["results.csv", "results.md", "results.tex", *beside, *files],
        command=result.provenance.get("command"),
        extra_sections=extra_sections,
    )


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("flaxvision.report", "")
    options: dict[str, Any] = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    return Environment(loader=loader, autoescape=True, **options).get_template("page.html.jinja")


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
    return {
        "objective": formats.metric_name(result.objective, unit=False),
        "first": first,
        "others": others,
        "where": dict(winner.cell),
        "epochs": len(winner.history.get("train_loss", ())),
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
