"""What an object shows of itself where it ends a notebook's cell: a piece of HTML that loads nothing.

It takes the notebook's own colors and fonts, holds a few dozen rows whatever the object holds, and escapes all text.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxvision._text import data_name, visible
from flaxvision.errors import UserError
from flaxvision.report import formats
from flaxvision.report.style import COLUMN, DASHED, OKABE_ITO, encode, figure_style, new_panels
from flaxvision.training.metrics import METRICS, SPLITS, metric_of

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.figure import Figure

    from flaxvision.data import Dataset
    from flaxvision.models import Summary
    from flaxvision.report.display import Entry
    from flaxvision.sweep import SweepResult
    from flaxvision.training import History, Recipe, Result

ROWS = 60  # of a table; of more the first
CLASSES = 10  # of a data set that are shown with samples
_INCH = 110  # pixels of a figure's inch


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """An image within the page."""

    source: str  # a data URI
    width: int  # pixels on the page
    alt: str
    pixelated: bool = False  # whether its pixels are to be seen


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """A table; so many leading columns are words, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | Picture | Entry]]
    labels: int = 1
    caption: str = ""


def summary_html(summary: Summary) -> str:
    """A network's layers."""
    header, *rows = summary.cells
    total = f"{summary.parameters:,} parameters", f"{summary.multiply_adds:,} multiply-adds"
    memory = ", ".join(f"{name.replace('_', '/')} {value:.2f}" for name, value in summary.megabytes.items())
    return _html(f"{len(summary.rows)} layers", total, [Rows(header, rows, labels=3)], notes=[f"MB: {memory}"])


def history_html(history: History) -> str:
    """Curves, and the last epoch's numbers."""
    return _html("History", [_count(history.epochs, "epoch")], *_of_history(history, history.epochs))


def result_html(result: Result) -> str:
    """What was trained, and how it went."""
    facts = [_count(result.history.epochs, "epoch"), f"{formats.seconds(result.timing.total)} s"]
    facts.append(f"{result.timing.examples_per_second:,.0f} examples/s")
    if result.diverged:
        facts.append("diverged: a loss or a weight is not finite")
    return _html(result.model.kind, facts, *_of_history(result.history, result.best_epoch))


def dataset_html(dataset: Dataset) -> str:
    """Counts, and samples of the first classes."""
    from flaxvision.data.look import shape_text
    from flaxvision.data.page import plot, samples

    images, shown = dataset.train.images.ndim == 4, dataset.classes[:CLASSES]
    counts = {name: np.bincount(split.labels, minlength=dataset.num_classes) for name, split in dataset.splits.items()}
    rows: list[list[str | Picture]] = []
    for number, name in enumerate(shown):
        strip = samples(dataset.train, number) if images else None
        shown_by = [Picture(alt=f"examples of {name}", **strip) if strip else ""] if images else []
        rows.append([name, *shown_by, *(f"{count[number]:,}" for count in counts.values())])
    header = ["class", *(["first in train"] if images else []), *dataset.splits]
    pictures = [] if images or dataset.input_shape != (2,) else [Picture(plot(dataset), 600, "the points by class")]
    more = dataset.num_classes - len(shown)
    notes = [f"{more:,} classes more"] if more else []
    notes += [*dataset.loading_notes, *filter(None, (dataset.source.note,)), *dataset.source.notes]
    facts = [shape_text(dataset), *(f"{len(split):,} {name}" for name, split in dataset.splits.items())]
    return _html(data_name(dataset.name), facts, [Rows(header, rows, labels=1 + images)], pictures, notes)


def recipe_html(recipe: Recipe) -> str:
    """The settings that are given, and what they mean."""
    from flaxvision.sweep.spec import as_typed

    meanings = {field.name: field.metadata["meaning"] for field in dataclasses.fields(recipe)}
    words = (str, int, float, list)
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in recipe.given.items()}
    rows = [(n, as_typed(v) if isinstance(v, words) else repr(v), meanings[n]) for n, v in plain.items()]
    table = [Rows(("setting", "value", "what it is"), rows, labels=3)] if rows else []
    return _html("Recipe", [], table, notes=["Every other setting has its default: help(fv.Recipe) explains them all."])


def sweep_html(result: SweepResult) -> str:
    """The table, the curves, and where the rest is."""
    from flaxvision.report.display import display_tables
    from flaxvision.report.figures import drawings
    from flaxvision.report.remarks import cautions

    tables, notes = [], cautions(result)
    for table in display_tables(result):
        tables.append(Rows(table.header, table.rows, table.labels, table.caption))
        notes += table.notes
    draw = drawings(result)
    pictures: list[Picture] = []
    try:
        figures = {name: draw[name]() for name in ("accuracy", "loss")}
        pictures = [_figure(figure, f"{name} over epochs") for name, figure in figures.items() if figure is not None]
    except UserError as error:  # a history that is gone costs no more than the curves
        notes.append(f"No curves: {error}")
    page = result.directory / "report.html"
    notes.append(f"More on the page {page}" if page.exists() else f"The run: {result.directory}")
    notes += map(str, result.problems)
    facts = _count(len(result.cells), "cell"), _count(len(result.outcomes), "trial")
    return _html(result.title, facts, tables, pictures[:1], notes)


def _of_history(history: History, best: int) -> tuple[list[Rows], list[Picture]]:
    """The numbers of an epoch, a row a split, and the curves."""
    row = history.row(best)
    metrics = [key for key in METRICS if np.isfinite([row.get(f"{split}_{key}", np.nan) for split in SPLITS]).any()]
    rows = [
        [split, *(formats.with_unit(f"{split}_{key}", row[f"{split}_{key}"]) for key in metrics)]
        for split in SPLITS
        if f"{split}_loss" in row
    ]
    header = ["split", *(metric_of(f"test_{key}").label for key in metrics)]
    which = "the last one" if best == history.epochs else "the one that is kept"
    figure = _curves(history, best)
    curves = [] if figure is None else [_figure(figure, "loss and accuracy over epochs")]
    return [Rows(header, rows, caption=f"Epoch {best}, {which}")], curves


def _curves(history: History, best: int) -> Figure | None:
    """Loss and accuracy over epochs: training dashed, the kept epoch marked where it is not the last."""
    kinds = [kind for kind in ("loss", "top1") if any(_finite(history, f"{split}_{kind}") for split in SPLITS)]
    if not kinds or history.epochs < 2:
        return None
    from matplotlib.ticker import MaxNLocator

    with figure_style():
        figure, panels = new_panels(len(kinds), 2.0)
        for axes, kind in zip(panels, kinds, strict=True):
            for split, color in zip(SPLITS, OKABE_ITO, strict=False):
                if _finite(history, name := f"{split}_{kind}"):
                    look: dict[str, Any] = DASHED if split == "train" else {}
                    values = metric_of(name).scale * np.asarray(history[name], float)
                    axes.plot(np.arange(1, len(values) + 1), values, color=color, label=split, **look)
            if best < history.epochs:
                axes.axvline(best, color=OKABE_ITO[-1], linewidth=0.6)
            axes.set_xlabel("epoch")
            axes.set_title(formats.metric_name(f"test_{kind}").removeprefix("test "), loc="left")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(axis="y")
        panels[0].legend()
    return figure


def _finite(history: History, name: str) -> bool:
    return name in history and bool(np.isfinite(history[name]).any())


def _figure(figure: Figure, alt: str) -> Picture:
    source = f"data:image/svg+xml;base64,{base64.b64encode(encode(figure, 'svg')).decode()}"
    return Picture(source, round(_INCH * max(COLUMN, figure.get_figwidth())), alt)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _html(
    title: str,
    facts: Iterable[str],
    tables: Sequence[Rows] = (),
    pictures: Sequence[Picture] = (),
    notes: Sequence[str] = (),
) -> str:
    cut = [dataclasses.replace(table, rows=table.rows[:ROWS]) for table in tables]
    return _template().render(
        title=title, facts=list(facts), tables=cut, pictures=pictures, notes=[*_cut_notes(tables), *notes]
    )


def _cut_notes(tables: Sequence[Rows]) -> Iterator[str]:
    for table in tables:
        if len(table.rows) > ROWS:
            yield f"The first {ROWS} of {len(table.rows):,} rows."


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("flaxvision.report", "")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value,
    )  # fmt: skip
    return environment.get_template("notebook.html.jinja")
