"""Ratios as rows and as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from common import Study
from matplotlib.figure import Figure

from flaxvision.report import INK, OKABE_ITO, PAGE, figure_style, new_figure

Ratios = Mapping[str, Mapping[str, np.ndarray]]  # task -> contestant -> its time in flaxvision's, (repeats,)


def add_ratios(
    study: Study, ratios: Ratios, peer: str, least: float, notes: Mapping[str, str] = MappingProxyType({})
) -> None:
    """A row a task, where `peer` should be `least`; `notes` by task."""
    for task, of_task in ratios.items():
        if peer in of_task:
            ratio = float(np.median(of_task[peer]))
            study.row(f"{task}: {peer} / flaxvision", ratio, "", interval=(least, np.inf), note=notes.get(task, ""))


def add_means(
    study: Study, ratios: Ratios, names: Sequence[str], wanted: Mapping[str, float], mean: str = "geometric mean"
) -> None:
    """A row for the geometric mean of each of `names` over tasks."""
    for name in names:
        medians = [float(np.median(of_task[name])) for of_task in ratios.values() if name in of_task]
        if medians:
            interval = (wanted[name], np.inf) if name in wanted else None
            ratio = float(np.exp(np.mean(np.log(medians))))
            study.row(f"{mean}: {name} / flaxvision", ratio, "", interval=interval)


def draw_ratios(ratios: Ratios, names: Sequence[str], label: str) -> Figure:
    """For every task a bar for each of `names`: the median of its ratios, with quartiles and the number; 1 is ours."""
    tasks = list(ratios)
    with figure_style():
        figure = new_figure(PAGE, 0.15 * len(tasks) * len(names) + 0.7)
        axes = figure.subplots()
        high = 0.8 / len(names)
        most = max(float(np.median(values)) for of_task in ratios.values() for values in of_task.values())
        for j, name in enumerate(names):
            for i, task in enumerate(tasks):
                if name not in ratios[task]:
                    continue
                low, median, top = np.percentile(ratios[task][name], [25, 50, 75])
                place = i - 0.4 + (j + 0.5) * high
                axes.barh(place, median, 0.9 * high, color=OKABE_ITO[j], label=name if i == 0 else None)
                axes.plot([low, top], [place, place], color=INK, linewidth=0.8)
                text = f"{median:.2g}" if median < 10 else f"{median:.0f}"
                axes.text(max(median, top) + 0.01 * most, place, text, va="center", fontsize=6)
        axes.axvline(1, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(tasks)), tasks)
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(label)
        axes.set_xlim(0, None)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=len(names))
    return figure
