"""TensorBoard: event files in FOLDER/tensorboard/RUN, which `tensorboard --logdir FOLDER` draws."""

from __future__ import annotations

import time
from collections.abc import Mapping

from flaxvision.logs._logger import About


class TensorBoard:
    """A run as a folder of event files; its settings are hyperparameters of the HPARAMS page."""

    def __init__(self, about: About):
        from tensorboardX import SummaryWriter

        self.writer = SummaryWriter(str(about.folder / "tensorboard" / about.file_name), flush_secs=5)
        self.settings, self.began = dict(about.settings), time.time()

    def log(self, metrics: Mapping[str, float], step: int, seconds: float) -> None:
        """Add a point to each curve."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step, walltime=self.began + seconds)

    def end(self, status: str, final: Mapping[str, float]) -> None:
        """Say what was set, and close the file."""
        from tensorboardX.summary import hparams

        for summary in hparams({**self.settings, "status": status}, dict(final)):
            self.writer.file_writer.add_summary(summary)
        self.writer.close()
