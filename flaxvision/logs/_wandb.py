"""Weights & Biases: files in FOLDER/wandb, which `wandb sync` uploads; with WANDB_MODE=online they go there at once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from flaxvision.logs._logger import About


class WandB:
    """A run of the project "flaxvision" (WANDB_PROJECT), in the group of its sweep."""

    def __init__(self, about: About):
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when it is imported
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        about.folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "flaxvision"),
            group=about.group,
            name=about.name,
            id=re.sub(r"[^\w-]", "_", f"{about.group}-{about.id}")[-64:],
            config=dict(about.settings),
            dir=about.folder,
            mode="online" if os.environ.get("WANDB_MODE") == "online" else "offline",
            resume="allow",
            reinit="create_new",  # trials run beside each other
            settings=wandb.Settings(console="off", disable_git=True, disable_code=True, x_disable_stats=True),
        )

    def log(self, metrics: Mapping[str, float], step: int, seconds: float) -> None:
        """Add a point to each curve."""
        self.run.log({**metrics, "seconds": seconds}, step=step)

    def end(self, status: str, final: Mapping[str, float]) -> None:
        """Add the numbers that stand for the run, and finish it."""
        self.run.summary.update({**final, "status": status})
        self.run.finish(exit_code=0 if status in ("ok", "diverged") else 1)
