"""Keeps the newest state of a run on disk (orbax), so that a killed run goes on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxvision._describe import Indescribable, describe, digest
from flaxvision.data import Dataset
from flaxvision.errors import UserError
from flaxvision.identity import AROUND, Identity, checksum_of, circumstances, differences, listed, switches
from flaxvision.layers import Chain
from flaxvision.layers.kinds import KINDS
from flaxvision.layers.kinds import describe as describe_layer
from flaxvision.models.files import variables
from flaxvision.training.recipe import Recipe
from flaxvision.training.selection import Best
from flaxvision.training.state import TrainState

DURATIONS = ("epochs", "steps", "examples")


def identity_of(model: Chain, dataset: Dataset, recipe: Recipe, total_steps: int) -> Identity:
    """What a run is: the network and the numbers that it starts from, the examples, the recipe, JAX's switches.

    The duration may change, as long as no learning rate depends on it.

    Args:
        model: The network, its warm start taken.
        dataset: What it is trained and evaluated on.
        recipe: How it is trained.
        total_steps: The duration in updates.

    Raises:
        UserError: If the recipe or a layer holds something that another process could not compare.
    """
    settings = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    without = (*DURATIONS, "warm_start", "warm_start_only")  # the numbers that it starts from tell
    described = {name: _described(name, value) for name, value in settings.items() if name not in without}
    if recipe.schedule != "constant":
        described[f"updates (of which schedule {recipe.schedule!r} depends)"] = total_steps
    tensors = variables(model)
    layers = {name: _layer(name, layer) for name, layer in model.named_layers()}
    if type(model) is not Chain:
        layers["network"] = _described(f"network {model.kind!r}", type(model))
    return {
        "network": {"input_shape": list(model.input_shape), "layers": list(layers), **layers},
        **described,
        "numbers of layers": {name: value.item() for name, value in tensors.items() if value.ndim == 0},
        "data": checksum_of(dataset),
        "initial weights": digest([[name, _described(name, value)] for name, value in sorted(tensors.items())]),
        **switches(),
        AROUND: circumstances(),
    }


def _layer(name: str, layer: Any) -> Any:
    if type(layer) in KINDS:
        return {key: value for key, value in describe_layer(name, layer).items() if key != "name"}
    graphdef, _ = nnx.split(layer)
    return {"kind": type(layer).__name__, "code": _described(f"layer {name!r}", type(layer)), "holds": str(graphdef)}


def _described(name: str, value: Any) -> Any:
    try:
        return describe(value)
    except Indescribable as error:
        raise UserError(
            f"{name} holds {error}, which another process could not compare, so that the run could never be continued: "
            "make it of optax's functions and plain numbers, or leave checkpoint out"
        ) from error


class Checkpoints:
    """The checkpoints of one run in one folder.

    Args:
        folder: Where they lie; made if missing.
        identity: What the run is, see `identity_of`.
    """

    def __init__(self, folder: str | Path, identity: Identity):
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
        self._check(about["identity"])
        tree = self.manager.restore(epoch, args=self.ocp.args.Composite(tree=self.ocp.args.StandardRestore())).tree
        kept = dict(about["best"])
        if "best" in tree:
            kept["state"] = _shaped(tree["best"], like)
        return _shaped(tree["state"], like), {k: np.asarray(v) for k, v in tree["arrays"].items()}, kept

    def _check(self, held: Identity) -> None:
        if "network" not in held:
            raise UserError(f"{self.manager.directory} holds checkpoints of an older version: give another folder")
        defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}  # of what is newer than it
        changed = differences({**defaults, **held, AROUND: 0}, {**defaults, **self.identity, AROUND: 0})
        if any(not each.startswith("initial weights") for each in changed):  # of another network they differ anyway
            changed = [each for each in changed if not each.startswith("initial weights")]
        if changed:
            moved = differences(held[AROUND], self.identity[AROUND])
            raise UserError(
                f"{self.manager.directory} holds checkpoints of another run: {listed(changed)}"
                f"{f' (and {listed(moved)})' if moved else ''}: give another folder"
            )

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
