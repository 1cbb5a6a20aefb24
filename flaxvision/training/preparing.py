"""What a run starts from: a model with its preprocessing and warm start, the devices, and the data on them."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxvision._memory import joined
from flaxvision.data import Dataset
from flaxvision.errors import UserError
from flaxvision.layers import BatchNorm, Chain, Preprocess
from flaxvision.layers.context import matches
from flaxvision.models.files import assign, read
from flaxvision.training.batches import Examples
from flaxvision.training.members import Members, PyTree, Separate, Stacked
from flaxvision.training.plan import AXIS, MEMBERS, Plan
from flaxvision.training.recipe import BALANCED, Recipe
from flaxvision.training.state import cast

PREPROCESS = {"unit": Preprocess(1 / 255), "signed": Preprocess(1 / 127.5, -1.0), "raw": Preprocess()}
T = TypeVar("T")
AT_A_TIME = 1000  # images whose sums are computed at a time
_standards: dict[int, tuple[weakref.ref[np.ndarray], Preprocess]] = {}  # by the id of the images


def prepare(model: Chain, dataset: Dataset, recipe: Recipe) -> Chain:
    """A copy of `model` with its preprocessing, classes and warm start."""
    model = nnx.clone(model)
    model.classes = dataset.classes
    model.preprocess = preprocess_for(dataset, recipe.pixels)
    for layer in norms(model).values():
        layer.batches = 0  # models that differ in this only share a program; `count_batches` adds it again
    if recipe.precision == "float64":
        nnx.update(model, cast(nnx.state(model), jnp.dtype("float64")))
    if recipe.warm_start is not None:
        assign(model, read(recipe.warm_start)[0], recipe.warm_start, recipe.warm_start_only)
    return model


def norms(model: Chain) -> dict[str, BatchNorm]:
    """The batch normalizations of a model by name."""
    return {name: layer for name, layer in model.named_layers() if isinstance(layer, BatchNorm)}


def count_batches(model: Chain, before: Mapping[str, int], updates: int, frozen: tuple[str, ...]) -> None:
    """Let the batch normalizations that were trained count the batches that they have seen, once for each use."""
    uses = Counter(node.layer for node in model.nodes)
    for name, layer in norms(model).items():
        layer.batches = before[name] + (0 if matches(name, frozen) else updates * uses[name])


def with_frozen(recipe: Recipe, model: Chain) -> Recipe:
    """A recipe that keeps what the module of PyTorch, or Keras model, that a model was read from keeps."""
    own = () if model.torch is None else model.torch.frozen
    return dataclasses.replace(recipe, frozen=tuple(dict.fromkeys((*recipe.frozen, *own)))) if own else recipe


def preprocess_for(dataset: Dataset, pixels: str) -> Preprocess:
    """The preprocessing of a data set's images by a recipe's `pixels`; points are taken as they are."""
    images = dataset.train.images
    if images.dtype != np.uint8:
        return Preprocess()
    return standard(images) if pixels == "standard" else PREPROCESS[pixels]


def standard(images: np.ndarray) -> Preprocess:
    """What gives each channel of uint8 images mean 0 and deviation 1; a channel of one value becomes 0.

    >>> standard(np.array([[[[1]], [[3]]]], np.uint8))
    Preprocess(scale=1.0, offset=-2.0)
    """
    known = _standards.get(id(images))
    if known is not None and known[0]() is images:  # trials in threads ask for the same
        return known[1]
    totals = np.zeros((2, images.shape[-1]))
    for start in range(0, len(images), AT_A_TIME):
        some = images[start : start + AT_A_TIME].reshape(-1, images.shape[-1]).astype(np.float64)
        totals += some.sum(axis=0), np.square(some).sum(axis=0)  # exact: whole numbers below 2**53
    mean, square = totals / (images.size / images.shape[-1])
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    scale = 1 / np.where(deviation > 0, deviation, 1)
    parts = [values.tolist() for values in (scale, -mean * scale)]
    found = Preprocess(*(values[0] if len(values) == 1 else tuple(values) for values in parts))
    _standards[id(images)] = weakref.ref(images), found
    return found


def with_weights(recipe: Recipe, dataset: Dataset) -> Recipe:
    """A recipe whose balanced class weights are numbers: examples over classes times examples of each class.

    Raises:
        UserError: If a class has no training example.
    """
    if recipe.class_weights != (BALANCED,):
        return recipe
    counts = np.bincount(dataset.train.labels, minlength=dataset.num_classes)
    if not counts.all():
        lacking = [dataset.classes[number] for number in np.flatnonzero(counts == 0)]
        raise UserError(
            f"class_weights is {BALANCED!r} but {dataset.name} has no training example of {', '.join(lacking[:3])}"
            f"{f' and {len(lacking) - 3} more' * (len(lacking) > 3)}: give numbers, or other examples"
        )
    return dataclasses.replace(recipe, class_weights=tuple((len(dataset.train) / (len(counts) * counts)).tolist()))


def chosen_devices(devices: str | int | Sequence[jax.Device]) -> tuple[jax.Device, ...]:
    """The devices that `fit` is told to use: "auto" or "batch", a count or themselves."""
    local = jax.local_devices()
    if devices in ("auto", "batch"):
        return tuple(local)
    if isinstance(devices, int):
        if not 1 <= devices <= len(local):
            raise UserError(f"devices is {devices}: give a number from 1 to {len(local)}, or 'auto'")
        return tuple(local[:devices])
    if isinstance(devices, str):
        raise UserError(f"devices is {devices!r}: give 'auto', 'batch', a number from 1 to {len(local)}, or devices")
    return tuple(devices)


@dataclasses.dataclass(frozen=True, eq=False)
class Placed:
    """A data set's examples on devices; there as long as a run holds it."""

    dataset: Dataset
    train: Examples
    held_out: Examples  # all that is evaluated, in one array, so that one program serves every split
    ranges: dict[str, range]  # where each split lies in it


_placed: weakref.WeakValueDictionary[tuple[int, tuple[jax.Device, ...]], Placed] = weakref.WeakValueDictionary()
_placing = threading.Lock()


def put(tree: PyTree, devices: tuple[jax.Device, ...]) -> PyTree:
    """Arrays on devices, a copy on each; committed, since jit compiles anew for uncommitted ones."""
    if len(devices) == 1:
        return jax.device_put(tree, devices[0])
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def put_members(members: Members[T], plan: Plan) -> Members[T]:
    """Members on a plan's devices: all on each, or where it spreads them each on one, whose turn it is."""
    if not plan.spread:
        return put(members, plan.devices)
    if isinstance(members, Stacked):
        return jax.device_put(members, jax.sharding.NamedSharding(plan.mesh, jax.sharding.PartitionSpec(MEMBERS)))
    turns = itertools.cycle(plan.devices)
    return Separate(tuple(jax.device_put(tree, device) for tree, device in zip(members.trees, turns, strict=False)))


def beside(data: Examples, members: PyTree) -> Examples:
    """The copy of examples that lies on the one device where members do."""
    (device,) = jax.tree.leaves(members)[0].devices()

    def there(array: jax.Array) -> jax.Array:
        return next(shard.data for shard in array.addressable_shards if shard.device == device)

    return there(data[0]), there(data[1])


def place(dataset: Dataset, devices: tuple[jax.Device, ...]) -> Placed:
    """A data set's examples on devices; the same arrays for all who ask while one of them holds them.

    Trials in threads would each hold a copy otherwise.
    """
    key = id(dataset), devices
    with _placing:
        found = _placed.get(key)
        if found is None:
            others = [(name, split) for name, split in dataset.splits.items() if name != "train"]
            ends = np.cumsum([0, *(len(split) for _, split in others)]).tolist()
            ranges = {name: range(ends[i], ends[i + 1]) for i, (name, _) in enumerate(others)}
            images, labels = (joined([getattr(s, name) for _, s in others]) for name in ("images", "labels"))
            train, held_out = put(((dataset.train.images, dataset.train.labels), (images, labels)), devices)
            found = _placed[key] = Placed(dataset, train, held_out, ranges)
    return found
