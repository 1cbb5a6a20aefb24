"""Training step by step in Flax and in PyTorch from one start, in one order: where do the losses part?"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from export._checkpoints import import_torch
from export._torch_optimizers import check_followed, torch_optimizer
from flaxvision._files import write_atomically
from flaxvision.data import Dataset
from flaxvision.errors import UserError
from flaxvision.layers import Chain, Dropout
from flaxvision.models import create
from flaxvision.models._from_torch import PREFIX, module_of
from flaxvision.models._state_dict import whole_state_dict
from flaxvision.training import Recipe, fit
from flaxvision.training.batches import epoch_order
from flaxvision.training.checks import check_fit
from flaxvision.training.optimizers import settings_of_optimizers
from flaxvision.training.preparing import preprocess_for

FLAX, TORCH, AGAIN = "flax", "torch", "torch again"  # the last: another summation order, the same mathematics
DATA_ORDER = ("batch_size", "shuffle", "seed")
FOLLOWED = (
    *("optimizer", "learning_rate", "weight_decay", "decay_biases", "clip_norm", *settings_of_optimizers()),
    *("loss", "label_smoothing", "pixels", *DATA_ORDER),
)
SET_HERE = ("epochs", "steps", "examples", "conv")


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
    # ("flax" | "torch", "float32" | "float64") -> (steps,); ("torch again", "float32") -> (orders, steps)
    losses: dict[tuple[str, str], np.ndarray]

    def partings(self, precision: str, other: str = FLAX, tolerance: float | None = None) -> tuple[Parting, ...]:
        """Where each run of `other` parts from PyTorch in `precision`."""
        theirs = self.losses[TORCH, precision]
        found = []
        for ours in np.atleast_2d(self.losses[other, precision]):
            difference = np.abs(ours - theirs) / np.maximum(np.abs(theirs), np.finfo(theirs.dtype).tiny)
            beyond = np.flatnonzero(~(difference <= (self.tolerance if tolerance is None else tolerance)))
            step = int(beyond[0]) + 1 if len(beyond) else None
            found.append(Parting(float(difference[0]), float(difference.max()), step))
        return tuple(found)

    def parting(self, precision: str, other: str = FLAX, tolerance: float | None = None) -> Parting:
        """Of the runs of `other`, the one that parts from PyTorch furthest."""
        return max(self.partings(precision, other, tolerance), key=lambda parting: parting.largest)

    def markdown(self) -> str:
        """A table of relative differences: a row a precision and pair."""
        header = (self.name, "precision", "step 1", "largest", f"first step beyond {self.tolerance:g}")
        lines = [header, ("---", "---", "---:", "---:", "---:")]
        for precision in ("float32", "float64"):
            for other, words in ((FLAX, "Flax against PyTorch"), (AGAIN, "PyTorch against itself")):
                if (other, precision) in self.losses:
                    runs = self.partings(precision, other)
                    steps = [run.step for run in runs if run.step is not None]
                    step = str(min(steps)) if steps else "none"
                    step += f" ({len(steps)} of {len(runs)} runs)" if len(runs) > 1 else ""
                    first, largest = max(r.first_step for r in runs), max(r.largest for r in runs)
                    lines.append((words, precision, f"{first:.1e}", f"{largest:.1e}", step))
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def record(self) -> dict[str, Any]:
        """The losses as plain data: precision -> run -> a number a step, None where it is not finite."""
        losses: dict[str, dict[str, list[float | None]]] = {"float32": {}, "float64": {}}
        for (run, precision), values in self.losses.items():
            for order, of_order in enumerate(np.atleast_2d(values)):
                # As text first: the shortest digits that tell float32 numbers apart.
                numbers = [float(str(value)) if np.isfinite(value) else None for value in of_order]
                losses[precision][run if values.ndim == 1 else f"{run}, order {order}"] = numbers
        return {"network": self.name, "tolerance": self.tolerance, "losses": losses}

    def write(self, folder: str | Path) -> list[Path]:
        """Write trajectory.md and trajectory.json."""
        files = {"trajectory.md": self.markdown(), "trajectory.json": json.dumps(self.record(), indent=1) + "\n"}
        return [write_atomically(Path(folder) / name, text) for name, text in files.items()]


def trajectory(
    name: str,
    dataset: Dataset,
    recipe: Recipe,
    *,
    steps: int = 200,
    orders: int = 5,
    tolerance: float = 1e-4,
    init: str = "torch",
    **arguments: Any,
) -> Trajectory:
    """Train a network and its PyTorch counterpart side by side: a hand-written reference, or the user's own module.

    One initialisation (drawn by us), one order of batches, the same optimiser, in float32 and float64; in float32 also
    PyTorch in other summation orders (the examples of each batch and the inputs of each layer permuted, mkldnn off,
    another number of threads), since two correct float32 trainings part by themselves: where a unit's input is so near
    to zero that rounding decides whether ReLU passes it, the gradients differ at once. Dropout is off: the frameworks
    draw differently.

    Args:
        name: A network with a reference, or "torch:file.py:Class", which is read and trained as it is.
        dataset: What to train on.
        recipe: An optimizer that PyTorch has, at a constant rate; its duration is not read, and other settings that
            PyTorch does not follow, such as augmentation, must be left out.
        steps: Updates to train.
        orders: How many other summation orders; 0 for none.
        tolerance: Relative difference of a loss beyond which runs have parted.
        init: As in `flaxvision.models.create`; the seed is the recipe's.
        **arguments: As in `flaxvision.models.create`.

    Raises:
        UserError: If PyTorch is missing, the network has no reference or one that does not fit, or the recipe cannot be
            compared; found before anything is trained.
    """
    import_torch()
    _check_recipe(recipe)
    if arguments.get("dropout"):
        raise UserError(f"a trajectory trains without dropout, given is {arguments['dropout']}: leave it out")
    outputs = 1 if recipe.loss == "binary_cross_entropy" else dataset.num_classes
    arguments = arguments | ({"dropout": 0.0} if name == "mnist_net" else {})
    shape: dict[str, Any] = {"input_shape": dataset.input_shape, "num_classes": outputs}
    recipe = dataclasses.replace(recipe, epochs=None, examples=None, steps=steps, conv="native")
    dataset = dataclasses.replace(dataset, test=dataset.test[:1], validation=None)  # only the training is compared
    losses: dict[tuple[str, str], np.ndarray] = {}
    for precision, matmul in (("float32", "highest"), ("float64", "float64")):
        with jax.enable_x64(precision == "float64"):
            model = create(name, seed=recipe.seed, init=init, **shape, **arguments)
            check_fit(model, dataset, recipe)
            twin = _counterpart(name, shape, arguments, model, recipe, precision)
            run = fit(model, dataset, dataclasses.replace(recipe, precision=matmul), devices=1)
            order = _orders(recipe, len(dataset.train))
        losses[FLAX, precision] = run.history["step_loss"]
        losses[TORCH, precision] = _torch_losses(copy.deepcopy(twin), dataset, recipe, order, precision)
        if precision == "float32" and orders:
            losses[AGAIN, precision] = _losses_in_other_orders(twin, dataset, recipe, order, orders)
    return Trajectory(name, tolerance, losses)


def _check_recipe(recipe: Recipe) -> None:
    ignored = [
        f"{field.name}={value!r}"
        for field in dataclasses.fields(Recipe)
        if field.name not in (*FOLLOWED, *SET_HERE) and (value := getattr(recipe, field.name)) != field.default
    ]
    if ignored:
        raise UserError(
            f"a trajectory cannot follow {', '.join(ignored)} in PyTorch: leave it out; it follows "
            f"{', '.join(FOLLOWED)}"
        )
    check_followed(recipe)


def _counterpart(
    name: str, shape: dict[str, Any], arguments: dict[str, Any], model: Chain, recipe: Recipe, precision: str
) -> Any:
    """The module, or the reference, with the numbers of `model`, in training mode; neither drops anything."""
    import torch

    from flaxvision.models.torch_reader.drop_path import replace_drop_paths

    if not name.startswith(PREFIX):
        return _reference(name, shape | arguments, model, precision)
    if model.torch is not None and model.torch.ending not in ("", "log_softmax"):
        raise UserError(f"{name} ends in {model.torch.ending}: give the scores before it, which losses in PyTorch take")
    twin = module_of(name, shape["num_classes"], arguments, recipe.seed).to(getattr(torch, precision))
    twin.load_state_dict({key: torch.tensor(value) for key, value in whole_state_dict(model).items()}, strict=True)
    for layer in model.layers:
        if isinstance(layer, Dropout):
            layer.rate[...] = np.zeros((), layer.rate[...].dtype)
    replace_drop_paths(twin)
    twin.train()  # what it gives back may be the user's
    return twin


def _reference(name: str, arguments: dict[str, Any], model: Chain, precision: str) -> Any:
    """The hand-written reference with the numbers of `model`, in training mode."""
    import torch

    from export.references import reference

    try:
        twin = reference(name, **arguments).to(getattr(torch, precision))
        twin.load_state_dict({key: torch.tensor(value) for key, value in whole_state_dict(model).items()}, strict=True)
    except (TypeError, KeyError, RuntimeError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the PyTorch reference of {name} is the report's and does not fit {given} ({reason}): "
            "leave the sizes out, and give a data set of the report's shape"
        ) from error
    return twin.train()


def _orders(recipe: Recipe, examples: int) -> np.ndarray:
    """The examples of every epoch that the steps reach, as Flax saw them, (epochs, examples)."""
    assert recipe.steps is not None
    per_epoch = -(-examples // recipe.batch_size)
    epochs = range(-(-recipe.steps // per_epoch))
    if not recipe.shuffle:
        return np.tile(np.arange(examples), (len(epochs), 1))
    seed, numbers = np.uint32(recipe.seed), np.arange(len(epochs), dtype=np.uint32)
    return np.array(jax.vmap(lambda epoch: epoch_order(seed, epoch, examples))(numbers))


def _permuted(order: np.ndarray, batch_size: int, seed: int) -> np.ndarray:
    """The same batches, the examples of each in another order: mean loss and gradients are the same sums reordered."""
    random = np.random.default_rng(seed)
    starts = range(0, order.shape[1], batch_size)
    return np.array([np.concatenate([random.permutation(row[s : s + batch_size]) for s in starts]) for row in order])


def _permute_inputs(twin: Any, seed: int) -> Any:
    """Have every linear and convolutional layer add up its inputs in another order; returns the network."""
    import torch

    random = torch.Generator().manual_seed(seed)
    for layer in twin.modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) and getattr(layer, "groups", 1) == 1:
            order = torch.randperm(layer.weight.shape[1], generator=random)
            vars(layer)["forward"] = functools.partial(_in_order, layer, order)
    return twin


def _in_order(layer: Any, order: Any, x: Any) -> Any:
    import torch

    forward = torch.nn.functional.linear if isinstance(layer, torch.nn.Linear) else layer._conv_forward
    return forward(x[:, order], layer.weight[:, order], layer.bias)


def _torch_losses(twin: Any, dataset: Dataset, recipe: Recipe, order: np.ndarray, precision: str) -> np.ndarray:
    import torch

    from flaxvision.models.torch_reader.compare import WithoutDropout

    dtype = getattr(torch, precision)
    optimizer = torch_optimizer(recipe, twin.parameters())
    images, labels = dataset.train.images, torch.tensor(dataset.train.labels).long()
    scaling = preprocess_for(dataset, recipe.pixels)
    scale, offset = torch.tensor(scaling.scale, dtype=dtype), torch.tensor(scaling.offset, dtype=dtype)
    losses: list[float] = []
    for indices in order:
        for start in range(0, len(indices), recipe.batch_size):
            if len(losses) == recipe.steps:
                return np.asarray(losses, precision)
            chosen = indices[start : start + recipe.batch_size]
            x = torch.tensor(images[chosen]).to(dtype)
            if x.ndim == 4:
                x = (x * scale + offset).permute(0, 3, 1, 2).contiguous()
            optimizer.zero_grad()
            with WithoutDropout():
                loss = _loss(recipe, twin(x), labels[chosen], x)
            loss.backward()
            if recipe.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(twin.parameters(), recipe.clip_norm)
            with _counting_in(dtype):
                optimizer.step()
            losses.append(loss.item())
    return np.asarray(losses, precision)


@contextlib.contextmanager
def _counting_in(dtype: Any) -> Iterator[None]:
    """PyTorch's default type, in which NAdam keeps the one product of momenta of all parameters, whatever theirs is."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _losses_in_other_orders(twin: Any, dataset: Dataset, recipe: Recipe, order: np.ndarray, count: int) -> np.ndarray:
    losses = []
    with _other_kernels():
        for number in range(count):
            permuted = _permuted(order, recipe.batch_size, number)
            network = _permute_inputs(copy.deepcopy(twin), number)
            losses.append(_torch_losses(network, dataset, recipe, permuted, "float32"))
    return np.stack(losses)


def _loss(recipe: Recipe, outputs: Any, labels: Any, inputs: Any) -> Any:
    import torch.nn.functional as F

    if recipe.loss == "squared_error":
        return (outputs - inputs).square().sum() / len(inputs)
    share = recipe.label_smoothing
    if recipe.loss == "binary_cross_entropy":
        targets = (1 - share) * labels.to(outputs.dtype) + share / 2
        return F.binary_cross_entropy_with_logits(outputs[:, 0], targets)
    return F.cross_entropy(outputs, labels, label_smoothing=share)


@contextlib.contextmanager
def _other_kernels() -> Iterator[None]:
    """Kernels other than mkldnn's, and another number of threads."""
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
