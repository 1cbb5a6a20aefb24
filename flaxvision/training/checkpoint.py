"""Keeps the newest state of a run on disk (orbax), so that a killed run goes on as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxvision.errors import UserError
from flaxvision.training.selection import Best
from flaxvision.training.state import TrainState


class Checkpoints:
    """The checkpoints of one run in one folder.

    Args:
        folder: Where they lie; made if missing.
        identity: What must be equal for a checkpoint to be continued.
    """

    def __init__(self, folder: str | Path, identity: dict[str, Any]):
        import orbax.checkpoint as ocp

        self.identity = json.loads(json.dumps(identity))
        self.ocp = ocp
        try:
            self.manager = ocp.CheckpointManager(
                Path(folder).absolute(), options=ocp.CheckpointManagerOptions(max_to_keep=2, create=True)
            )
        except OSError as error:
            raise UserError(f"cannot keep checkpoints in {folder}: {error.strerror}; give another folder") from error

    def save(self, epoch: int, state: TrainState, arrays: dict[str, np.ndarray], best: Best) -> None:
        """Keep the state after `epoch` epochs, its history and selection."""
        kept = {"value": best.value, "at": best.at, "epoch": best.epoch, "stopped": best.stopped}
        tree = {"state": state, "arrays": arrays}
        if best.state is not None:
            tree["best"] = best.state
        self.manager.save(
            epoch,
            args=self.ocp.args.Composite(
                tree=self.ocp.args.StandardSave(_plain(tree)),
                about=self.ocp.args.JsonSave({"identity": self.identity, "best": kept}),
            ),
        )

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, np.ndarray], dict[str, Any]] | None:
        """The newest state, history and selection, shaped like `like`; None where nothing was kept.

        Raises:
            UserError: If the folder holds the checkpoints of another run.
        """
        epoch = self.manager.latest_step()
        if epoch is None:
            return None
        about = self.manager.restore(epoch, args=self.ocp.args.Composite(about=self.ocp.args.JsonRestore())).about
        if about["identity"] != self.identity:
            raise UserError(f"{self.manager.directory} holds checkpoints of another run: give another folder")
        tree = self.manager.restore(epoch, args=self.ocp.args.Composite(tree=self.ocp.args.StandardRestore())).tree
        kept = dict(about["best"])
        if "best" in tree:
            kept["state"] = _shaped(tree["best"], like)
        return _shaped(tree["state"], like), {k: np.asarray(v) for k, v in tree["arrays"].items()}, kept

    def close(self) -> None:
        """Wait until everything is on disk."""
        self.manager.wait_until_finished()
        self.manager.close()


def _plain(tree: dict[str, Any]) -> dict[str, Any]:
    """Every state as a list of numpy arrays: names and container types are the running code's business."""
    return {
        name: part if name == "arrays" else {str(i): np.asarray(x) for i, x in enumerate(jax.tree.leaves(part))}
        for name, part in tree.items()
    }


def _shaped(leaves: dict[str, Any], like: TrainState) -> TrainState:
    numbers = range(len(jax.tree.leaves(like)))
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(leaves[str(i)]) for i in numbers])
