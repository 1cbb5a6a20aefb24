"""What commands know of a run's winner: the network, its classes, how its images were converted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxvision.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from flaxvision.data.pixels import Wanted
    from flaxvision.layers import Network


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Winner:
    """A trained network that classifies, with what was noted of its training."""

    path: Path
    model: Network
    trial: dict[str, Any]  # the trial's settings; empty for weights that no sweep wrote
    final: dict[str, float | None]  # what it scored
    data: dict[str, Any]  # the checksum of each split of what it was trained on

    @classmethod
    def load(cls, path: Path) -> Winner:
        """The winner of a run directory, or the network of a weights file.

        Raises:
            UserError: If there is none, or it gives no classes.
        """
        from flaxvision.models.files import load_noted

        model, notes = load_noted(path, keep_types=True)
        if len(model.output_shape) != 1:
            raise UserError(f"{path} holds {model.kind}, which gives images and no classes")
        return cls(path, model, notes.get("trial", {}), notes.get("final", {}), notes.get("data", {}))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; numbers where it knows none."""
        number = max(self.model.output_shape[0], 2)
        return self.model.classes or tuple(map(str, range(number)))

    @property
    def about(self) -> str:
        """It in a few words."""
        trained = f" trained on {self.trial['dataset']}" if "dataset" in self.trial else ""
        return f"{self.model.kind}{trained}, {len(self.classes)} classes"

    @property
    def flipped(self) -> bool:
        """Whether it was scored by the mean of the outputs for an image and its mirror image."""
        return bool(self.trial.get("test_time_flip", False))

    def wanted(self) -> Wanted:
        """What image files become for it."""
        from flaxvision.data.for_model import wanted_by

        return wanted_by(self.model.input_shape, self.trial.get("fit"))

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The probabilities of images as stored, (N, classes)."""
        from flaxvision.training import predict

        return predict(self.model, images, test_time_flip=self.flipped)
