"""What a search has tried: the best found so far, each key against what was reached, the best settings."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxvision.report import formats, style
from flaxvision.report.display import Column, Entry, Table
from flaxvision.report.over_keys import places_on
from flaxvision.report.overview import LOG_RANGE
from flaxvision.report.plots import OFF
from flaxvision.report.style import FAINT, OKABE_ITO, new_panels, note
from flaxvision.sweep.results import Searched, SweepResult
from flaxvision.sweep.search.found import best_first
from flaxvision.sweep.search.records import PRUNED, SearchRecord
from flaxvision.sweep.trials import NOT_GIVEN
from flaxvision.training.metrics import metric_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEST = 20  # trials in the table
COLUMNS = 3  # panels side by side
BLUE, ORANGE = OKABE_ITO[:2]


def draw_search(result: SweepResult) -> Figure | None:
    """The best that was found, over trials, epochs of all trials, and seconds; None without a search."""
    found = result.search
    if found is None or not any(record["status"] == "ok" for record in found.trials):
        return None
    scale = metric_of(found.objective).scale
    reached = scale * np.asarray([_reached(record) if record["status"] == "ok" else np.nan for record in found.trials])
    best = (np.fmin if metric_of(found.objective).lower_is_better else np.fmax).accumulate(reached)
    epochs = np.cumsum([_epochs(record) for record in found.trials])
    over: dict[str, np.ndarray] = {
        "trials": np.arange(1, len(best) + 1),
        "epochs of all trials": epochs,
        "seconds of searching": np.asarray([record["elapsed"] for record in found.trials]),
    }
    with style.figure_style():
        figure, panels = new_panels(len(over), 2.0, columns=COLUMNS, sharey=True)
        for axes, (label, values) in zip(panels, over.items(), strict=True):
            axes.plot(values, best, color=BLUE, drawstyle="steps-post")
            axes.plot(values, reached, ".", color=FAINT, markersize=4, alpha=0.6)
            axes.set_xlim(0, None)
            axes.set_xlabel(label)
            axes.grid(axis="y")
        panels[0].set_ylabel(f"best {formats.metric_name(found.objective)}")
    return figure


def draw_space(result: SweepResult) -> Figure | None:
    """What each trial reached over its value of each key; None without a search."""
    found = result.search
    if found is None or not any(np.isfinite(_reached(record)) for record in found.trials):
        return None
    with style.figure_style():
        figure, panels = new_panels(len(found.keys), 2.1, columns=COLUMNS, sharey=True)
        low, high = _limits(found)
        if not metric_of(found.objective).percent and 0 < LOG_RANGE * low < high:
            panels[0].set_yscale("log")
            panels[0].set_ylim(low / 1.2, high * 1.2)
            style.plain_logarithmic(panels[0].yaxis)
        else:
            room = 0.05 * (high - low) or 0.05
            panels[0].set_ylim(low - room, high + room)
        for axes, key in zip(panels, found.keys, strict=True):
            _draw_key(axes, found, key, (low, high))
            axes.grid(axis="y")
        for axes in panels[::COLUMNS]:
            axes.set_ylabel(formats.metric_name(found.objective))
        _explain(figure, found)
    return figure


def _draw_key(axes: Axes, found: Searched, key: str, limits: tuple[float, float]) -> None:
    scored = [record for record in found.trials if np.isfinite(_reached(record))]
    there = [record for record in scored if record["cell"][key] != NOT_GIVEN]
    places = places_on(axes, [record["cell"][key] for record in there])
    scale = metric_of(found.objective).scale
    reached = np.clip([scale * _reached(record) for record in there], *limits)
    for kind, look in _LOOKS.items():
        chosen = [k for k, record in enumerate(there) if _kind(found, record) == kind]
        axes.plot(places[chosen], reached[chosen], linestyle="", **look)
    share = found.importances.get(key)
    axes.set_xlabel(style.shorten(formats.key_label([key])))
    if share is not None:
        note(axes, f"importance {100 * share:.0f} %", (1, 1), (0, 2), ha="right", va="bottom")


_LOOKS: dict[str, dict[str, Any]] = {
    PRUNED: {"marker": ".", "markersize": 4, "color": FAINT, "alpha": 0.5},
    "ok": {"marker": "o", "markersize": 3.5, "color": BLUE},
    "finalist": {"marker": "D", "markersize": 5, "color": "none", "markeredgecolor": ORANGE, "zorder": 4},
}


def _kind(found: Searched, record: SearchRecord) -> str:
    return "finalist" if record["number"] in found.finalists else record["status"]


def _explain(figure: Figure, found: Searched) -> None:
    from matplotlib.lines import Line2D

    names = {PRUNED: "ended early", "ok": "trained to the end", "finalist": "in the table"}
    kinds = {_kind(found, record) for record in found.trials}
    handles = [Line2D([], [], linestyle="", label=names[k], **look) for k, look in _LOOKS.items() if k in kinds]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))


def _limits(found: Searched) -> tuple[float, float]:
    """The vertical axis: from the best to the worst, or to a loss far above those of the better half."""
    values = metric_of(found.objective).scale * np.asarray([v for v in map(_reached, found.trials) if np.isfinite(v)])
    if metric_of(found.objective).percent:
        return float(values.min()), float(values.max())
    return float(values.min()), float(min(values.max(), OFF * np.median(values)))


def best_table(found: Searched) -> Table:
    """The best trials of a search, those that trained to the end first."""
    lower = metric_of(found.objective).lower_is_better
    best = best_first(found.trials, lower=lower)[:BEST]
    columns = [Column(key, key, tuple(Entry(record["cell"][key]) for record in best)) for key in found.keys]
    rows: dict[str, list[str]] = {
        formats.metric_name(found.objective): [formats.number(found.objective, _reached(record)) for record in best],
        "epochs": [f"{_epochs(record)}" for record in best],
        "trial": [f"{record['number'] + 1}" for record in best],
        "in the table": ["yes" if record["number"] in found.finalists else "" for record in best],
    }
    columns += [Column(name, name, tuple(map(Entry, texts)), needed=True) for name, texts in rows.items()]
    more = f"the best {len(best)} of {len(found.trials):,} trials" if len(found.trials) > len(best) else "all trials"
    return Table(f"What the search has tried, {more}", tuple(columns), labels=len(found.keys))


def search_words(found: Searched) -> str:
    """What a search did, in a sentence or two."""
    counts = collections.Counter(record["status"] for record in found.trials)
    words = {"ok": "trained to the end", PRUNED: "ended early", "diverged": "diverged", "failed": "failed"}
    how = ", ".join(f"{counts[status]:,} {word}" for status, word in words.items() if counts[status])
    batches = len({record["batch"] for record in found.trials})
    several = f"{batches} batches" if batches > 1 else "one batch"
    chosen = formats.metric_name(found.objective, unit=False)
    return (
        f"{len(found.trials):,} trials in {several}: {how}. They were compared by {chosen}, so what they reached is "
        "optimistic: the best settings were trained anew with other seeds, and only these are in the table."
    )


def _epochs(record: SearchRecord) -> int:
    return record["rungs"][-1][0] if record["rungs"] else 0


def _reached(record: SearchRecord) -> float:
    value = record["rungs"][-1][1] if record["rungs"] else None
    return np.nan if value is None else value
