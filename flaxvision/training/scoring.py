"""What trained networks score and predict, with the preprocessing that travels with them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from numpy.typing import ArrayLike

from flaxvision._cache import shared_cache
from flaxvision.data import Split
from flaxvision.data.examples import check_labels
from flaxvision.errors import UserError
from flaxvision.layers import Chain, Context
from flaxvision.ops.dtypes import at_least_float32
from flaxvision.ops.policy import Policy
from flaxvision.training.batches import Examples, Shard, take_range
from flaxvision.training.checks import as_model_takes
from flaxvision.training.losses import Sums, class_scores, loss_of, sum_batch, zero_sums
from flaxvision.training.members import Members
from flaxvision.training.metrics import Metrics
from flaxvision.training.plan import AXIS, EVALUATED, KEPT, Plan, compile_for
from flaxvision.training.state import cast


def evaluate(model: Chain, split: Split, *, test_time_flip: bool = False) -> Metrics:
    """What a model scores on a split; every example counts once.

    The loss is that of the model's outputs: squared error for images, binary cross-entropy for one logit, else
    cross-entropy.

    Args:
        model: The model.
        split: The examples.
        test_time_flip: Whether to score the mean of the outputs for an image and its mirror image, as a recipe's
            `test_time_flip` does.

    Raises:
        UserError: If the examples do not fit the model.
    """
    if not isinstance(split, Split):
        raise UserError(f"evaluate got a {type(split).__name__}: give a Split, such as data.test")
    if not len(split):
        raise UserError("evaluate got a split without examples: give one example or more")
    as_model_takes(model, split.images)
    loss = loss_of(model.output_shape)
    classes = 0 if loss == "squared_error" else max(model.output_shape[0], 2)
    if classes:
        check_labels(f"{model.kind} on these examples", split.labels, classes)
    evaluator, variables = Evaluator.of(model, classes, flipped=test_time_flip)
    parts = []
    for part in (split[rows] for rows in batches(len(split))):
        real = np.arange(EVALUATED) < len(part)
        parts.append(jax.device_get(_score(evaluator, variables, padded(part.images), padded(part.labels), real)))
    return Metrics.of(jax.tree.map(lambda *sums: np.sum(sums, axis=0), *parts))


def predict(model: Chain, images: ArrayLike, *, test_time_flip: bool = False) -> np.ndarray:
    """Class probabilities, float32 (N, C), of images as stored (pixels 0 to 255) or points (float32 (N, D)).

    The model scales pixels itself, as it was trained (`model.preprocess`). A model with one logit gives two columns; a
    model whose outputs are images gives those, (N, H, W, C).

    Args:
        model: The model.
        images: (N, H, W, C), or (N, H, W) where C is 1: uint8, or another number type with pixels 0 to 255.
        test_time_flip: As in `evaluate`.

    Raises:
        UserError: If the examples do not fit the model, or their values look scaled already; it says what to write.

    >>> import numpy as np, flaxvision as fv
    >>> model = fv.models.create("linear", input_shape=(2, 2, 1), num_classes=3)
    >>> fv.predict(model, np.zeros((5, 2, 2), np.uint8)).shape
    (5, 3)
    """
    images = as_model_takes(model, images)
    evaluator, variables = Evaluator.of(model, flipped=test_time_flip)
    parts = [np.zeros((0, *model.output_shape), np.float32)] if not len(images) else []
    for part in (images[rows] for rows in batches(len(images))):
        parts.append(np.asarray(_predict(evaluator, variables, padded(part)))[: len(part)])
    return np.concatenate(parts)


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """All that is static about a network in evaluation mode."""

    graphdef: nnx.GraphDef
    loss: str
    classes: int  # how many there are; 0 without classes
    dtype: jnp.dtype  # of activations
    policy: Policy
    flipped: bool = False  # whether outputs are the mean of those for an image and its mirror image

    @classmethod
    def of(cls, model: Chain, classes: int = 0, *, flipped: bool = False) -> tuple[Evaluator, nnx.State]:
        """The evaluator of a model on its own, and the model's variables."""
        if flipped and (len(model.input_shape) != 3 or len(model.output_shape) > 1):
            raise UserError(f"test_time_flip is for images with classes, not for {model.kind}: leave it out")
        graphdef, variables = nnx.split(model)
        policy = Policy.for_training(jax.default_backend()).for_evaluation()
        return cls(graphdef, loss_of(model.output_shape), classes, model.dtype, policy, flipped), variables

    @property
    def context(self) -> Context:
        """How the network is called."""
        return Context(policy=self.policy)

    def network(self, variables: nnx.State) -> Chain:
        """The network with its numbers."""
        stats, others = nnx.split_state(variables, nnx.BatchStat, ...)
        return nnx.merge(self.graphdef, cast(others, self.dtype), stats, copy=True)

    def run(self, variables: nnx.State, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The network's outputs for images as stored, and its inputs, both of float32 at least."""
        model = self.network(variables)
        inputs = model.preprocess(images, self.dtype)
        outputs = model(inputs, self.context)
        if self.flipped:
            outputs = (outputs + model(inputs[:, :, ::-1], self.context)) / 2
        return outputs.astype(at_least_float32(outputs.dtype)), inputs.astype(at_least_float32(inputs.dtype))

    def score(self, variables: nnx.State, images: jax.Array, labels: jax.Array, mask: jax.Array | None) -> Sums:
        """The sums over a batch, see `sum_batch`."""
        outputs, inputs = self.run(variables, images)
        return sum_batch(self.loss, self.classes, outputs, labels, inputs, mask)


_score = jax.jit(Evaluator.score, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _predict(evaluator: Evaluator, variables: nnx.State, images: jax.Array) -> jax.Array:
    outputs, _ = evaluator.run(variables, images)
    scores = class_scores(evaluator.loss, outputs)
    return outputs if scores is None else jax.nn.softmax(scores)


def batches(examples: int) -> Iterator[slice]:
    """Where the batches of an evaluation lie among so many examples."""
    return (slice(start, start + EVALUATED) for start in range(0, examples, EVALUATED))


def padded(array: np.ndarray) -> np.ndarray:
    """An array with zeros after its rows, so that one program serves batches of any length."""
    return np.concatenate([array, np.zeros((EVALUATED - len(array), *array.shape[1:]), array.dtype)])


@shared_cache(KEPT)
def evaluation_for(plan: Plan) -> Callable[..., Members[Sums]]:
    """The evaluation of a plan made by `Plan.of_evaluation`, compiled: equal ones share a program.

    It takes members' variables, the data, and where the examples to score start and stop, so that one program serves
    every part of the data.
    """
    return compile_for(plan, functools.partial(_evaluate, plan))


def _evaluate(
    plan: Plan, shard: Shard, variables: Members[nnx.State], data: Examples, first: jax.Array, stop: jax.Array
) -> Members[Sums]:
    (images, labels), size = data, min(EVALUATED, len(data[1]))
    recipe, policy = plan.recipe, plan.policy.for_evaluation()
    evaluator = Evaluator(plan.graphdef, recipe.loss, plan.classes, plan.dtype, policy, recipe.test_time_flip)

    def one(number: jax.Array, total: Members[Sums]) -> Members[Sums]:
        batch = take_range(images, labels, first + number * size, stop, size, shard)
        sums = variables.map(lambda one: evaluator.score(one, batch.images, batch.labels, batch.mask))
        return jax.tree.map(jnp.add, total, sums)

    zeros = variables.zeros(functools.partial(zero_sums, plan.classes, at_least_float32(plan.dtype)))
    total = lax.fori_loop(0, (stop - first + size - 1) // size, one, zeros)
    return lax.psum(total, AXIS) if plan.sharded else total
