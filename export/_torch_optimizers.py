"""The optimizers of recipes as PyTorch has them: an entry each, of classes and arguments of `torch.optim`."""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flaxvision.errors import UserError
from flaxvision.training.optimizers import OPTIMIZERS
from flaxvision.training.recipe import Recipe

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True, slots=True)
class Peer:
    """What builds the same optimizer in PyTorch."""

    kind: str  # its class in `torch.optim`
    arguments: Mapping[str, str | tuple[str, ...]]  # the class's argument -> the recipe's setting, or several


ADAM: Mapping[str, str | tuple[str, ...]] = {"betas": ("beta1", "beta2"), "eps": "epsilon"}
PEERS: dict[str, Peer | None] = {  # None: PyTorch has none
    "sgd": Peer("SGD", {"momentum": "momentum", "nesterov": "nesterov"}),
    "adam": Peer("Adam", ADAM),
    "adamw": Peer("AdamW", ADAM),
    "rmsprop": Peer(
        "RMSprop", {"alpha": "smoothing", "eps": "epsilon", "momentum": "momentum", "centered": "centered"}
    ),
    "lion": None,
    "adagrad": Peer("Adagrad", {"eps": "epsilon"}),
    "adadelta": Peer("Adadelta", {"rho": "smoothing", "eps": "epsilon"}),
    "adamax": Peer("Adamax", ADAM),
    "nadam": Peer("NAdam", {**ADAM, "momentum_decay": "momentum_decay"}),
    "radam": Peer("RAdam", ADAM),
    "lamb": None,
    "muon": None,  # PyTorch's takes matrices only
}
if PEERS.keys() != OPTIMIZERS.keys():
    raise TypeError(f"optimizers without an entry here, or here only: {sorted(PEERS.keys() ^ OPTIMIZERS.keys())}")


def check_followed(recipe: Recipe) -> Peer:
    """What builds a recipe's optimizer in PyTorch.

    Raises:
        UserError: If PyTorch has no such optimizer, or none that goes on at a constant rate.
    """
    names = [name for name, peer in PEERS.items() if peer is not None]
    peer = PEERS.get(recipe.optimizer) if isinstance(recipe.optimizer, str) else None
    if peer is None or callable(recipe.learning_rate):
        raise UserError(
            f"in PyTorch an optimizer is one of {', '.join(names)}, by name and at a constant learning rate: give those"
        )
    return peer


def torch_optimizer(recipe: Recipe, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """A recipe's optimizer in PyTorch, at a constant rate.

    Raises:
        UserError: As `check_followed`.
    """
    import torch

    tensors = list(parameters)
    decayed = [recipe.decay_biases or tensor.ndim > 1 for tensor in tensors]
    groups: list[dict[str, Any]] = [
        {"params": list(itertools.compress(tensors, decayed))},
        {"params": list(itertools.compress(tensors, map(operator.not_, decayed))), "weight_decay": 0.0},
    ]
    peer = check_followed(recipe)
    settings = OPTIMIZERS[str(recipe.optimizer)].settings(recipe.given)
    arguments: dict[str, Any] = {
        argument: settings[name] if isinstance(name, str) else tuple(settings[each] for each in name)
        for argument, name in peer.arguments.items()
    }
    kind = getattr(torch.optim, peer.kind)
    return kind(
        [group for group in groups if group["params"]],
        lr=recipe.learning_rate,
        weight_decay=float(recipe.weight_decay),
        **arguments,
    )
