"""A study's sweeps: tables of the library's specs, filled in runs/NAME, and the same trials in plain PyTorch."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import KEPT, RESULTS, Options, Study, cached, commit, installed, stacked

import flaxvision as fv
from flaxvision.sweep import Outcome, Spec, config_hash, load_spec, override, run
from flaxvision.sweep.config import DataConfig, TrialConfig
from flaxvision.sweep.files import DataFolders
from flaxvision.sweep.inputs import load_dataset
from flaxvision.sweep.progress import watcher
from flaxvision.sweep.store import read_records
from flaxvision.sweep.trials import Trial
from flaxvision.training.metrics import metric_of

DRAWN = {"two_clusters": "two_clusters", "emnist_balanced": "glyphs47"}  # data set -> what --quick takes; else glyphs


@dataclasses.dataclass(frozen=True, eq=False)
class Runs:
    """A cell's trials: `runs["test_top1"]` is (seeds, epochs), and so on with what `fv.training.History` names."""

    outcomes: tuple[Outcome, ...]  # by seed
    folder: Path  # of the sweep
    spec: Spec  # with the published numbers

    def __getitem__(self, name: str) -> np.ndarray:
        return np.stack([outcome.history[name] for outcome in self.outcomes])

    @property
    def config(self) -> dict[str, Any]:
        """All settings of the first seed's trial."""
        return self.outcomes[0].config

    @property
    def parameters(self) -> int:
        """How many the network has."""
        return self.outcomes[0].parameters

    @property
    def seconds(self) -> np.ndarray:
        """Of training and evaluation, without compilation, (seeds,)."""
        return np.array([outcome.seconds for outcome in self.outcomes])

    def last(self, metric: str) -> np.ndarray:
        """A metric after the last epoch: see `after`."""
        return after(self, metric)

    def confusions(self) -> np.ndarray:
        """Confusion matrices of the test set, (seeds, C, C), rows true."""
        return np.stack([fv.training.History(outcome.history).confusion("test") for outcome in self.outcomes])

    def models(self) -> list[fv.layers.Chain]:
        """The trained networks."""
        return [fv.load_model(self.folder / "trials" / f"{outcome.id}.safetensors") for outcome in self.outcomes]

    def published(self, metric: str = "test_top1") -> dict[str, float]:
        """See `published`."""
        return published(self.spec, metric, dict(self.outcomes[0].cell))

    def by_epoch(self, earlier: Sequence[float]) -> tuple[float, ...]:
        """Published accuracies, as many as there are epochs here: the earlier ones as given, the last the spec's."""
        return (*earlier, self.published()["published"])[: self["test_top1"].shape[1]]


Arrays = Mapping[str, np.ndarray] | Runs  # metric -> (seeds, epochs)


def after(runs: Arrays, metric: str, epoch: int = 0) -> np.ndarray:
    """A metric after an epoch, counted from 1, or (0) the last, (seeds,), accuracies in percent; empty without runs."""
    return metric_of(metric).scale * runs[metric][:, epoch - 1] if runs else np.zeros(0)


def draw_published(
    study: Study, runs: Mapping[str, Runs], earlier: Mapping[str, Sequence[float]], loss: str, caption: str
) -> None:
    """The figure "curves": test accuracies beside the published ones (see `Runs.by_epoch`), and losses."""
    title, accuracy = {"test_loss": "test loss", "train_loss": "training loss"}[loss], "test accuracy (%)"
    panels = {
        accuracy: {name: 100 * found["test_top1"] for name, found in runs.items()},
        title: {name: found[loss] for name, found in runs.items()},
    }
    dashed = {accuracy: {name: np.array(runs[name].by_epoch(values)) for name, values in earlier.items()}}
    study.lines("curves", caption, panels, "", dashed=dashed, solid_means="ours", dashed_means="published")


def published(spec: Spec, metric: str, where: Mapping[str, str]) -> dict[str, float]:
    """What `Study.row` takes of a cell's published value and its tolerance; accuracies in percent."""
    (entry,) = [p for p in spec.published if p.metric == metric and p.where.items() <= where.items()]
    scale = metric_of(metric).scale
    return {"published": round(scale * entry.value, 6), "tolerance": round(scale * entry.tolerance, 6)}


def fill(
    study: Study,
    table: str | Spec,
    *,
    seeds: int | None = None,
    only: Mapping[str, Sequence[str]] | None = None,
    dataset: str | None = None,
    quick: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    executor: str = "auto",
    **settings: Any,
) -> dict[Any, Runs]:
    """Fill a table, or take up what an earlier call left of it.

    Args:
        study: Notes the spec and the data.
        table: A spec, or the name of one in the library.
        seeds: Runs of every cell; those of the study when left out.
        only: Varied key -> labels of the points to take; all when left out.
        dataset: In place of the spec's.
        quick: Settings with --quick, beside made data, 256 examples and 2 epochs.
        epochs: Of every run; those of the spec when left out.
        executor: See `flaxvision.sweep.run`.
        **settings: Values that replace those of the spec; a tuple of several makes an axis.

    Returns:
        The runs by their labels: a tuple of them where several keys vary.
    """
    options = study.options
    original = load_spec(table) if isinstance(table, str) else table
    if options.quick:
        dataset, epochs = dataset or DRAWN.get(original.base["dataset"], "glyphs"), 2
        settings |= {"limit": 256, **(quick or {})}
    given = [f"{key}={_typed(value)}" for key, value in settings.items() if value is not None]
    spec = override(original, dataset=dataset, epochs=epochs, seeds=seeds or options.seeds, settings=given)
    points = only or {}
    axes = [
        dataclasses.replace(axis, points=tuple(p for p in axis.points if p.label in points.get(axis.key, (p.label,))))
        for axis in spec.axes
    ]
    starts = [spec.base, *(point.settings for axis in axes for point in axis.points)]
    pretrain = spec.pretrain if any(start.get("warm_start") == "pretrain" for start in starts) else None
    spec = dataclasses.replace(spec, axes=tuple(axes), pretrain=pretrain, published=())
    folder = _folder(study, spec)
    made_by = folder.with_suffix(".commit")
    if folder.name not in study.config and not options.quick:
        if made_by.exists():
            seconds = sum(record.get("seconds", 0) for record in read_records(folder))
            KEPT[folder.name] = {"commit": made_by.read_text(encoding="utf-8"), "seconds": round(seconds)}
        else:
            made_by.parent.mkdir(parents=True, exist_ok=True)
            made_by.write_text(commit(), encoding="utf-8")
    result = run(
        spec, folder, executor=executor, resume=folder.exists(), raw_dir=options.raw_dir,
        watch=None if options.quick else watcher(), export=False, report=False,
    )  # fmt: skip
    for outcome in result.failures:
        raise RuntimeError(f"trial {outcome.id} failed: {outcome.message}")
    study.sources |= result.provenance["data sets"]
    study.config[folder.name] = {"settings": spec.base, "cells": [cell.where for cell in result.cells]}
    labels = [tuple(cell.where.values()) for cell in result.cells]
    return {
        label if len(label) > 1 else "".join(label): Runs(cell.outcomes, folder, original)
        for label, cell in zip(labels, result.cells, strict=True)
    }


def _typed(value: Any) -> str:
    """A value as `--set` takes it."""
    return ",".join(map(json.dumps, value)) if isinstance(value, tuple) else json.dumps(value)


def _folder(study: Study, spec: Spec) -> Path:
    """Where a table is filled: seeds and points may be added to it, anything else makes another folder."""
    stages = [stage and stage.settings for stage in (spec.pretrain, spec.final)]
    name = f"{spec.name}-{config_hash([spec.base, spec.keys, stages])}"
    return (study.scratch() if study.options.quick else RESULTS.parents[1] / "runs" / study.options.name) / name


def dataset_of(options: Options, config: Mapping[str, Any]) -> fv.data.Dataset:
    return load_dataset(DataConfig.of(dict(config)), DataFolders(options.raw_dir))


def config_of(outcome: Outcome) -> TrialConfig:
    """A trial's data, model and recipe."""
    return Trial.of_record({"config": outcome.config, "cell": dict(outcome.cell)}).config


def recipe_of(outcome: Outcome) -> fv.Recipe:
    """How a trial trains, but for what it starts from and which epoch it keeps."""
    settings = config_of(outcome).recipe.items()
    kept = {key: value for key, value in settings if not key.startswith(("warm_", "select", "frozen"))}
    return fv.Recipe(**kept, seed=outcome.seed)


def torch_runs(options: Options, runs: Runs, seeds: int | None = None, *, quick: bool = False) -> Arrays:
    """The same trials in plain PyTorch: what `peers.train_torch` gives, (seeds, ...).

    It starts from the same pretrained weights where the trials do. Empty where PyTorch is not installed, and with
    --quick, unless `quick` asks for a seed.
    """
    if (options.quick and not quick) or not installed("torch"):
        return {}
    from peers import train_torch

    data, config = dataset_of(options, runs.config), config_of(runs.outcomes[0])
    start = pretrained(runs) if "warm_start" in config.recipe else {}
    checksum = hashlib.sha256(b"".join(tensor.tobytes() for tensor in start.values())).hexdigest()
    rest = {"weights": start, "frozen": tuple(config.recipe.get("frozen", ()))}
    rest |= {key: value for key, value in config.model.arguments.items() if key != "init"}
    found = []
    for outcome in runs.outcomes[: 1 if options.quick else seeds]:
        make = functools.partial(train_torch, config.model.name, data, recipe_of(outcome), **rest)
        found.append(cached(options, {"peer": outcome.config, "data": data.source.checksum, "start": checksum}, make))
    return stacked(found)


def pretrained(runs: Runs) -> dict[str, np.ndarray]:
    """The weights from which trials start, by the names of PyTorch's state_dict."""
    import export

    only = tuple(runs.config["warm_start_only"])
    tensors = export.to_torch(fv.load_model(runs.folder / "pretrain.safetensors")).state_dict()
    return {name: tensor.numpy() for name, tensor in tensors.items() if name.startswith(only)}
