"""Training step by step in Flax and in PyTorch from one start, in one order: where do the losses part?"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from export._tensors import state_dict
from export._torch import _import_torch
from flaxvision.data import Dataset
from flaxvision.errors import UserError
from flaxvision.layers import Chain
from flaxvision.models import create
from flaxvision.training import Recipe, fit
from flaxvision.training._fit import PREPROCESS
from flaxvision.training.batches import epoch_order

FLAX, TORCH, AGAIN = "flax", "torch", "torch again"  # the last: another summation order, the same mathematics


@dataclasses.dataclass(frozen=True, slots=True)
class Parting:
    """How two runs of losses differ."""

    first_step: float  # relative difference of the loss of step 1
    largest: float  # largest relative difference
    step: int | None  # the first step, from 1, that differs by more than the tolerance; None: no step


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """The loss of every step of the same training in several frameworks and precisions."""

    name: str
    tolerance: float  # relative difference of a loss beyond which two runs have parted
    losses: dict[tuple[str, str], np.ndarray]  # ("flax" | "torch" | "torch again", "float32" | "float64") -> (steps,)

    def parting(self, precision: str, other: str = FLAX, tolerance: float | None = None) -> Parting:
        """Where `other` parts from PyTorch in `precision`."""
        theirs, ours = self.losses[TORCH, precision], self.losses[other, precision]
        difference = np.abs(ours - theirs) / np.maximum(np.abs(theirs), np.finfo(theirs.dtype).tiny)
        beyond = np.flatnonzero(~(difference <= (self.tolerance if tolerance is None else tolerance)))
        return Parting(float(difference[0]), float(difference.max()), int(beyond[0]) + 1 if len(beyond) else None)

    def markdown(self) -> str:
        """A table of relative differences: a row a precision and pair."""
        lines = [
            f"| {self.name} | precision | step 1 | largest | first step beyond {self.tolerance:g} |",
            "| --- | --- | ---: | ---: | ---: |",
        ]
        for precision in ("float32", "float64"):
            for other, words in ((FLAX, "Flax against PyTorch"), (AGAIN, "PyTorch against itself")):
                if (other, precision) in self.losses:
                    parting = self.parting(precision, other)
                    step = "none" if parting.step is None else str(parting.step)
                    lines.append(
                        f"| {words} | {precision} | {parting.first_step:.1e} | {parting.largest:.1e} | {step} |"
                    )
        return "\n".join(lines) + "\n"


def trajectory(
    name: str,
    dataset: Dataset,
    recipe: Recipe,
    *,
    steps: int = 200,
    tolerance: float = 1e-4,
    init: str = "torch",
    **sizes: Any,
) -> Trajectory:
    """Train a network of the reports and its hand-written PyTorch reference side by side.

    One initialisation (drawn by us), one order of batches, the same optimiser, in float32 and float64; in float32 also
    PyTorch once more in another summation order (mkldnn off, one thread), since two correct float32 trainings part by
    themselves. Dropout must be off: the frameworks draw differently.

    Args:
        name: A network with a reference.
        dataset: What to train on.
        recipe: SGD, Adam or AdamW at a constant rate, without augmentation; its duration is not read.
        steps: Updates to train.
        tolerance: Relative difference of a loss beyond which runs have parted.
        init: As in `flaxvision.models.create`; the seed is the recipe's.
        **sizes: As in `flaxvision.models.create`.

    Raises:
        UserError: If PyTorch is missing, the network has no reference, or the recipe cannot be compared.
    """
    _import_torch()
    if recipe.schedule != "constant" or callable(recipe.learning_rate) or recipe.warmup_epochs or recipe.augment:
        raise UserError("a trajectory compares a constant learning rate without augmentation: leave those out")
    if not isinstance(recipe.optimizer, str):
        raise UserError("a trajectory compares sgd, adam or adamw: give optimizer by name")
    outputs = 1 if recipe.loss == "binary_cross_entropy" else dataset.num_classes
    sizes = sizes | ({"dropout": 0.0} if name == "mnist_net" else {})
    shape: dict[str, Any] = {"input_shape": dataset.input_shape, "num_classes": outputs}
    recipe = dataclasses.replace(recipe, epochs=None, examples=None, steps=steps, conv="native")
    dataset = dataclasses.replace(dataset, test=dataset.test[:1], validation=None)  # only the training is compared
    losses: dict[tuple[str, str], np.ndarray] = {}
    for precision, matmul in (("float32", "highest"), ("float64", "float64")):
        with jax.enable_x64(precision == "float64"):
            model = create(name, seed=recipe.seed, init=init, **shape, **sizes)
            run = fit(model, dataset, dataclasses.replace(recipe, precision=matmul), devices=1)
            order = _orders(recipe, len(dataset.train))
        losses[FLAX, precision] = run.history["step_loss"]
        losses[TORCH, precision] = _torch_losses(name, shape | sizes, model, dataset, recipe, order, precision)
        if precision == "float32":
            with _another_order():
                losses[AGAIN, precision] = _torch_losses(name, shape | sizes, model, dataset, recipe, order, precision)
    return Trajectory(name, tolerance, losses)


def _orders(recipe: Recipe, examples: int) -> np.ndarray:
    """The examples of every epoch that the steps reach, as Flax saw them, (epochs, examples)."""
    assert recipe.steps is not None
    per_epoch = -(-examples // recipe.batch_size)
    epochs = range(-(-recipe.steps // per_epoch))
    if not recipe.shuffle:
        return np.tile(np.arange(examples), (len(epochs), 1))
    seed, numbers = np.uint32(recipe.seed), np.arange(len(epochs), dtype=np.uint32)
    return np.array(jax.vmap(lambda epoch: epoch_order(seed, epoch, examples))(numbers))


def _torch_losses(
    name: str,
    arguments: dict[str, Any],
    model: Chain,
    dataset: Dataset,
    recipe: Recipe,
    order: np.ndarray,
    precision: str,
) -> np.ndarray:
    import torch

    from export.references import reference

    dtype = getattr(torch, precision)
    twin = reference(name, **arguments).to(dtype)
    twin.load_state_dict({k: torch.tensor(v) for k, v in state_dict(model).items()}, strict=False)
    twin.train()
    optimizer = _optimizer(recipe, twin)
    images, labels = dataset.train.images, torch.tensor(dataset.train.labels).long()
    scaling = PREPROCESS[recipe.pixels]
    losses: list[float] = []
    for indices in order:
        for start in range(0, len(indices), recipe.batch_size):
            if len(losses) == recipe.steps:
                return np.asarray(losses, precision)
            chosen = indices[start : start + recipe.batch_size]
            x = torch.tensor(images[chosen]).to(dtype)
            if x.ndim == 4:
                x = (x * scaling.scale + scaling.offset).permute(0, 3, 1, 2).contiguous()
            optimizer.zero_grad()
            loss = _loss(recipe.loss, twin(x), labels[chosen], x)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return np.asarray(losses, precision)


def _loss(loss: str, outputs: Any, labels: Any, inputs: Any) -> Any:
    import torch.nn.functional as F

    if loss == "squared_error":
        return (outputs - inputs).square().sum() / len(inputs)
    if loss == "binary_cross_entropy":
        return F.binary_cross_entropy_with_logits(outputs[:, 0], labels.to(outputs.dtype))
    return F.cross_entropy(outputs, labels)


def _optimizer(recipe: Recipe, twin: Any) -> Any:
    import torch

    rate, decay = float(recipe.learning_rate), float(recipe.weight_decay)  # type: ignore[arg-type]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            twin.parameters(), rate, momentum=recipe.momentum, nesterov=recipe.nesterov, weight_decay=decay
        )
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(twin.parameters(), rate, weight_decay=decay)


@contextlib.contextmanager
def _another_order() -> Iterator[None]:
    """Other kernels and one thread: the same mathematics, summed in another order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    backend: Any = torch.backends.mkldnn
    before, backend.enabled = backend.enabled, False
    try:
        yield
    finally:
        backend.enabled = before
        torch.set_num_threads(threads)
