"""A trial that is over, wherever it was trained, before anything of it is written."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from flaxvision._files import write_atomically

if TYPE_CHECKING:
    from flaxvision.sweep.files import RunFiles
    from flaxvision.sweep.trials import Record


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """A trial's record and what its files hold: whoever trains gives it to the process that fills the run."""

    record: Record
    weights: bytes = b""  # of one that failed none, nor the next
    history: bytes = b""

    def write(self, files: RunFiles) -> Record:
        """Write the trial's files, and give its record, which is written when they are there.

        Raises:
            UserError: If they cannot be written.
        """
        trial = self.record["id"]
        for path, content in ((files.weights(trial), self.weights), (files.history(trial), self.history)):
            if content:
                write_atomically(path, content)
        return self.record
