"""Trains one cohort of trials and gives what is to be kept of them: what every executor calls, in any process."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from flaxvision.identity import AROUND, Identity, circumstances
from flaxvision.runtime import cores
from flaxvision.sweep.devices import devices_for
from flaxvision.sweep.files import RunFiles
from flaxvision.sweep.finished import Finished
from flaxvision.sweep.inputs import create_model, dataset_of, identity_of, recipe_of
from flaxvision.sweep.records import checksum
from flaxvision.sweep.results import converged
from flaxvision.sweep.spec import APART, BATCH, config_hash
from flaxvision.sweep.trials import Record, Trial

if TYPE_CHECKING:
    import jax

    from flaxvision.training import Result
    from flaxvision.training.callbacks import Callback
    from flaxvision.training.checkpoint import Keep


@dataclasses.dataclass(frozen=True, slots=True)
class Cohort:
    """Trials to train together."""

    trials: tuple[Trial, ...]
    files: RunFiles
    mode: str  # of `flaxvision.training.train_cohort`
    threshold: float | None  # of convergence
    checkpoint_every: float = math.inf  # seconds
    seconds: float = 0.0  # of training beside other cohorts', about; 0: not known
    devices: str = APART  # as in `Spec`

    @property
    def name(self) -> str:
        """A trial's id; of several that train together a hash of theirs."""
        return name_of([trial.id for trial in self.trials])

    @property
    def pretrains(self) -> bool:
        """Whether others start from the weights that it leaves."""
        return any(trial.stage == "pretrain" for trial in self.trials)

    @property
    def starts_pretrained(self) -> bool:
        """Whether it starts from the weights that the [pretrain] stage leaves."""
        return any(trial.starts_pretrained for trial in self.trials)

    def run(self, callbacks: Iterable[Callback] = ()) -> list[Finished]:
        """Train, and give each trial's record, weights and history; nothing but checkpoints is written."""
        from flaxvision.training import train_cohort

        dataset = dataset_of(self.trials[0], self.files)
        models = [create_model(trial, dataset) for trial in self.trials]
        recipes = [recipe_of(trial, self.files) for trial in self.trials]
        identities = [identity_of(trial, self.files) for trial in self.trials]
        with devices_for(len(self.trials), self.devices) as devices:
            results = train_cohort(
                models,
                dataset,
                recipes,
                mode=self.mode,
                devices=BATCH if self.devices == BATCH else devices,
                callbacks=callbacks,
                checkpoint=self.keep(self.name, identities, devices),
            )
        return [self._finished(*each) for each in zip(self.trials, results, identities, strict=True)]

    def keep(self, name: str, identities: Iterable[Identity], devices: Sequence[jax.Device]) -> Keep:
        """Where its state is kept, for a run of the same trials that the same rests on, which may move the last bits.

        Args:
            name: Of the folder.
            identities: Those of its trials.
            devices: What it trains on.
        """
        from flaxvision.training.checkpoint import Keep

        rest = {key: value for each in identities for key, value in each.items() if key != AROUND}
        machine = {"cores": len(cores()), "devices": [device.device_kind for device in devices]}
        ids = [trial.id for trial in self.trials]
        identity = {"trials": ids, "mode": self.mode, **rest, **circumstances(), **machine}
        return Keep(self.files.checkpoints / name, self.checkpoint_every, identity)

    def _finished(self, trial: Trial, result: Result, identity: Identity) -> Finished:
        from flaxvision.models import count_parameters
        from flaxvision.models.files import packed

        final = scores_of(result.history.row(result.best_epoch))
        data = next(content for name, content in identity.items() if name.startswith("data "))
        weights = packed(result.model, {"trial": trial.as_json(), "final": final, "data": data})
        history = packed_history(result.history.arrays)
        accuracy = result.history["test_top1"]
        scored = self.threshold is not None and bool(np.isfinite(accuracy).all())
        record: Record = {
            **trial.about,
            "status": "diverged" if result.diverged else "ok",
            "final": final,
            "best_epoch": result.best_epoch,
            "converged_epoch": converged(accuracy, self.threshold or 0.0) if scored else None,
            "parameters": count_parameters(result.model),
            "seconds": round(max(0.0, result.timing.total - result.timing.compilation), 3),
            "epoch_steps": list(result.history.steps),
            "epoch_seconds": [round(seconds, 3) for seconds in result.history.seconds],
            "cores": len(cores()),
            "config": trial.as_json(),
            "identity": identity,
            "checksums": {"weights": checksum(weights), "history": checksum(history)},
        }
        return Finished(record, weights, history)


def scores_of(row: Mapping[str, float]) -> dict[str, float | None]:
    """The numbers of an epoch; None for one that is not finite, and for those of a split whose loss is not.

    Outputs that are not numbers make that loss none, and their arg max is class 0: an accuracy of chance, or better.

    >>> scores_of({"train_loss": 2.0, "train_top1": 0.5, "test_loss": float("nan"), "test_top1": 0.1})
    {'train_loss': 2.0, 'train_top1': 0.5, 'test_loss': None, 'test_top1': None}
    """
    void = [name.removesuffix("loss") for name, value in row.items() if name.endswith("_loss") and not isfinite(value)]
    return {k: v if isfinite(v) and not k.startswith(tuple(void)) else None for k, v in row.items()}


def name_of(ids: Sequence[str]) -> str:
    """The name of a cohort of these trials."""
    return ids[0] if len(ids) == 1 else config_hash({"trials": ids})


def packed_history(arrays: dict[str, np.ndarray]) -> bytes:
    """What a history's file holds: a compressed npz."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
