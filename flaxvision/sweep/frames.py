"""A sweep's result as pandas data frames."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flaxvision.errors import UserError
from flaxvision.sweep.results import Cell, Outcome, Searched, SweepResult
from flaxvision.sweep.spec import as_typed
from flaxvision.training.metrics import METRICS, SPLITS

if TYPE_CHECKING:
    import pandas as pd

    from flaxvision.sweep.search.records import SearchRecord


def cells_frame(result: SweepResult) -> pd.DataFrame:
    """A row a cell, see `SweepResult.to_frame`."""
    return _pandas().DataFrame(list(map(dict, (_of_cell(result, cell) for cell in result.cells))))


def trials_frame(result: SweepResult) -> pd.DataFrame:
    """A row a trial, see `SweepResult.trials_frame`."""
    return _pandas().DataFrame([dict(_of_trial(result, each)) for each in result.outcomes]).set_index("id")


def epochs_frame(result: SweepResult) -> pd.DataFrame:
    """A row an epoch, see `SweepResult.epochs_frame`."""
    rows = [row for each in result.outcomes for row in _epochs(result, each)]
    return _pandas().DataFrame(rows, columns=None if rows else ["id", "epoch"]).set_index(["id", "epoch"])


def search_frame(found: Searched) -> pd.DataFrame:
    """A row a trial of a search, see `Searched.to_frame`."""
    rows = [dict(_searched(found, record)) for record in found.trials]
    return _pandas().DataFrame(rows, columns=None if rows else ["number"]).set_index("number")


def _searched(found: Searched, record: SearchRecord) -> Iterator[tuple[str, Any]]:
    yield "number", record["number"]
    for key in found.keys:
        label, value = record["cell"][key], record["config"].get(key)
        yield key, value if value is not None and _same(label, value) else label
    epochs, reached = record["rungs"][-1] if record["rungs"] else (0, None)
    yield from (("status", record["status"]), ("epochs", epochs), (found.objective, reached))
    yield from (("seconds", record["seconds"]), ("batch", record["batch"]), ("elapsed", record["elapsed"]))


def _pandas() -> types.ModuleType:
    try:
        import pandas
    except ImportError as error:
        raise UserError("data frames need pandas: pip install 'flaxvision[pandas]'") from error
    return pandas


def _of_cell(result: SweepResult, cell: Cell) -> Iterator[tuple[str, Any]]:
    for key in result.keys:
        yield key, _value(cell.outcomes[0], key)
    yield from (("stage", cell.stage), ("n", cell.n), ("diverged", cell.diverged), ("failed", cell.failed))
    yield "parameters", cell.parameters
    for metric in result.metrics:
        yield from ((metric, cell.mean(metric)), (f"{metric}_std", cell.std(metric)))
    for name in ("best_epoch", "converged_epoch", "seconds"):
        yield name, cell.mean(name)


def _of_trial(result: SweepResult, trial: Outcome) -> Iterator[tuple[str, Any]]:
    yield "id", trial.id
    for key in result.keys:
        yield key, _value(trial, key)
    failed = trial.status == "failed"
    yield from (("stage", trial.stage), ("seed", trial.seed), ("status", trial.status))
    yield "parameters", trial.parameters or None
    for metric in result.metrics:
        yield metric, trial.final.get(metric)
    for name in ("best_epoch", "converged_epoch", "seconds"):
        yield name, None if failed else getattr(trial, name)
    yield "message", trial.message


def _epochs(result: SweepResult, trial: Outcome) -> Iterator[dict[str, Any]]:
    names = [name for split in SPLITS for metric in METRICS if (name := f"{split}_{metric}") in trial.history]
    columns = [trial.history[name].tolist() for name in names]
    where = {key: _value(trial, key) for key in result.keys}
    for epoch, values in enumerate(zip(*columns, strict=True), start=1):
        ended = {"step": trial.epoch_steps, "seconds": trial.epoch_seconds}
        when = {name: counts[epoch - 1] if epoch <= len(counts) else None for name, counts in ended.items()}
        numbers = {**when, **dict(zip(names, values, strict=True))}
        yield {"id": trial.id, "epoch": epoch, **where, "seed": trial.seed, **numbers}


def _value(trial: Outcome, key: str) -> Any:
    """What a varied key is in a trial: its value, where that is what the table calls it; else the name of the point."""
    label = dict(trial.cell).get(key)
    value = trial.config.get(key)
    return value if value is not None and _same(label, value) else label


def _same(label: str | None, value: object) -> bool:
    """Whether a label spells a value: 1e-3 spells 0.001."""
    if label is None or isinstance(value, (list, dict)):
        return False
    try:
        return label == as_typed(value) or float(label) == value
    except ValueError:
        return False
