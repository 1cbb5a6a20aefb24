"""Where a sweep reads and writes."""

from __future__ import annotations

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True, slots=True)
class DataFolders:
    """Where data sets are read, see `flaxvision.data.load`."""

    raw_dir: str | None = None
    data_dir: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class RunFiles:
    """The files of a run."""

    directory: Path  # the run directory
    data: DataFolders = DataFolders()  # which its trials read

    def weights(self, trial_id: str) -> Path:
        """A trial's weights file."""
        return self.directory / "trials" / f"{trial_id}.safetensors"

    def history(self, trial_id: str) -> Path:
        """A trial's history file."""
        return self.directory / "trials" / f"{trial_id}.npz"

    @property
    def checkpoints(self) -> Path:
        """The folder of the states of trials that are not over."""
        return self.directory / "checkpoints"

    @property
    def pretrained(self) -> Path:
        """The weights that the [pretrain] stage leaves."""
        return self.directory / "pretrain.safetensors"
