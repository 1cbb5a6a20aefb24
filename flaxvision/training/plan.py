"""What is static about a group of trials, and how functions are compiled for its devices."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Hashable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxvision._describe import digest
from flaxvision.data import Dataset
from flaxvision.data.stream import Stream
from flaxvision.layers import Chain
from flaxvision.ops.policy import NATIVE, Form, Policy
from flaxvision.runtime import cores
from flaxvision.training.batches import WHOLE, Shard
from flaxvision.training.members import PyTree
from flaxvision.training.optimizers import code_of_optimizer
from flaxvision.training.recipe import Recipe, from_dict
from flaxvision.training.state import layer_of, split_model

AXIS, MEMBERS = "batch", "members"  # the device axis, by what its devices have a share of
IN_PLACE = "xla_cpu_copy_insertion_use_region_analysis", True  # weights change after what reads them: no copies
UNTUNED = "xla_gpu_autotune_level", 0  # the first choice of kernels, without timing others
EVALUATED = 500  # examples of a step of evaluation
IN_CACHE = 5 * 2**18  # bytes of a layer's patches that stay in the cache of two cores
FULL_VECTORS = 4  # 2**FULL_VECTORS examples fill the vectors that lie along the batch
KEPT = 8 + len(cores())  # plans whose compiled programs, of some 10 MB each, are kept: more than train at a time
T = TypeVar("T")
_starting = threading.Lock()  # collectives must start in one order on all devices


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that is static about a group of trials; equal plans share their compiled programs."""

    graphdef: nnx.GraphDef
    recipe: Recipe  # `Recipe.structure()`
    classes: int  # how many there are; 0 without classes
    steps_per_epoch: int
    total_steps: int
    stacked: bool  # members by `vmap`; otherwise a tree each
    devices: tuple[jax.Device, ...]
    dtype: jnp.dtype  # of activations
    layers: tuple[str, ...] = ()  # names of those that learn
    microbatch: int | None = None  # examples of a batch whose gradient is computed at a time; None: all of them
    looped: bool = True  # whether steps run in a compiled loop, see `may_loop`
    stream: Stream | None = None  # how a data set above the memory is gone through
    own_code: str = ""  # checksum of an optimizer of one's own
    spread: bool = False  # whether several devices have members each; otherwise they share each batch
    tuned: bool = True  # whether XLA times kernels on a GPU before it chooses some, see `tuning_pays`

    @property
    def epochs(self) -> int:
        """How many there are, the last one whole or not."""
        return -(-self.total_steps // self.steps_per_epoch)

    def steps_of(self, epoch: int) -> int:
        """How many updates epoch `epoch` (from 0) has."""
        return min(self.steps_per_epoch, self.total_steps - epoch * self.steps_per_epoch)

    @property
    def sharded(self) -> bool:
        """Whether several devices share each batch."""
        return len(self.devices) > 1 and not self.spread

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """Its devices."""
        return jax.sharding.Mesh(np.array(self.devices), (MEMBERS if self.spread else AXIS,))

    @property
    def platform(self) -> str:
        """Where it runs: "cpu", "gpu" or "tpu"."""
        return self.devices[0].platform

    @property
    def on_cpu(self) -> bool:
        """Whether it runs on a CPU."""
        return self.platform == "cpu"

    @property
    def policy(self) -> Policy:
        """Which forms layers take in training."""
        return NATIVE if self.recipe.conv == "native" else Policy.for_training(self.platform, stacked=self.stacked)

    def of_evaluation(self) -> Plan:
        """What of it evaluation depends on, so that one program serves optimizers, frozen layers and durations."""
        alike = ("loss", "precision", "conv", "test_time_flip")
        recipe = from_dict({name: getattr(self.recipe, name) for name in alike})
        where = self.stacked, self.devices, self.dtype
        return Plan(self.graphdef, recipe, self.classes, 0, 0, *where, spread=self.spread, tuned=self.tuned)


def plan_for(
    model: Chain,
    recipe: Recipe,
    dataset: Dataset,
    total_steps: int,
    devices: tuple[jax.Device, ...],
    *,
    stacked: bool,
    spread: bool,
) -> Plan:
    """The plan of members like `model`, as it is prepared, and `recipe`."""
    graphdef, params, _, _ = split_model(model, recipe.frozen)
    positions = sorted({layer_of(path) for path, _ in jax.tree.leaves_with_path(params)})
    code = code_of_optimizer(recipe.optimizer)
    given = recipe.precision if recipe.precision in ("bfloat16", "float64") else jax.tree.leaves(params)[0].dtype
    plan = Plan(
        graphdef,
        recipe.structure(),
        0 if recipe.loss == "squared_error" else dataset.num_classes,
        recipe.steps_per_epoch(len(dataset.train)),
        total_steps,
        stacked,
        devices,
        jax.dtypes.canonicalize_dtype(given),
        tuple(model.names[position] for position in positions),
        None if stacked else microbatch_of(model, recipe, devices[0].platform),
        stream=dataset.stream,
        own_code=digest(code) if code else "",
        spread=spread and len(devices) > 1,
    )
    return dataclasses.replace(plan, looped=may_loop(model, plan), tuned=tuning_pays(model, plan))


def microbatch_of(model: Chain, recipe: Recipe, platform: str) -> int | None:
    """`Plan.microbatch`: what patches and gradients of it stay in the cache, if the batch is larger.

    Batch statistics are those of the whole batch, so not with any layer that has some.
    """
    if platform != "cpu" or recipe.conv == "native" or recipe.precision == "bfloat16":
        return None
    gradient = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    if gradient > IN_CACHE or jax.tree.leaves(nnx.state(model, nnx.BatchStat)):
        return None
    size = examples_in_cache(model)
    return size if size is not None and size < recipe.batch_size else None


def examples_in_cache(model: Chain) -> int | None:
    """Of how many examples the gradient is computed fastest on a CPU: a power of two; None where it does not matter.

    With few channels the patches of many examples leave the cache: an example of emnist_cnn takes 23 us among 32,
    38 among 256 and 86 among 1024, on two cores of an AMD EPYC with 1 MB of second-level cache each. XLA's own
    convolutions may not run in the loop over microbatches (jax-ml/jax#12868).
    """
    forms = [step.form(1, model.dtype, Policy.for_training("cpu")) for step in model.walk()]
    most = max((size for form, size in forms if form is not Form.PATCHES), default=0)
    if not most or any(form is Form.NATIVE for form, _ in forms):
        return None
    return 1 << max(FULL_VECTORS, (IN_CACHE // most).bit_length() - 1)


def has_native_convolution(model: Chain, examples: int, dtype: jnp.dtype, policy: Policy) -> bool:
    """Whether a network computes a convolution of so many examples in XLA's own form, as a layer of one's own may."""
    return any(step.form(examples, dtype, policy)[0] is Form.NATIVE for step in model.walk())


def may_loop(model: Chain, plan: Plan) -> bool:
    """`Plan.looped`: not where XLA's own convolution has gradients 50 times as slow in a loop (jax-ml/jax#12868)."""
    examples = plan.microbatch or plan.recipe.batch_size
    return not plan.on_cpu or not has_native_convolution(model, examples, plan.dtype, plan.policy)


def tuning_pays(model: Chain, plan: Plan) -> bool:
    """`Plan.tuned`: whether a GPU computes convolutions by XLA's own kernels, which differ by much.

    Timing waits for whatever else trains on the device: the eight programs of emnist-holdout took over 60 s with it, in
    place of 28 s (NVIDIA H200).
    """
    if plan.platform != "gpu" or plan.policy == NATIVE:
        return True
    examples = max(plan.recipe.batch_size, EVALUATED)  # forms of larger batches are native sooner
    return has_native_convolution(model, examples, model.dtype, plan.policy)


def options_for(plan: Plan) -> dict[str, bool | int] | None:
    """The compiler's options for a plan on one device."""
    if plan.on_cpu:
        return _known(*IN_PLACE)
    return None if plan.tuned else _known(*UNTUNED)


@functools.cache
def _known(option: str, value: bool | int) -> dict[str, bool | int] | None:
    """An option with its value, if this XLA knows it."""
    try:
        jax.jit(lambda: 0, compiler_options={option: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return None
    return {option: value}


def compile_for(
    plan: Plan,
    function: Callable[..., T],
    *,
    static: tuple[str, ...] = (),
    donated: tuple[int, ...] = (),
    members: tuple[int, ...] = (0,),
) -> Callable[..., T]:
    """A function of (shard, arguments...), compiled for the plan's devices, without its shard.

    Args:
        plan: The plan.
        function: What to compile.
        static: Names of its static arguments.
        donated: Positions of the arguments, without the shard, whose memory it takes.
        members: Positions of those that hold members, as the result does: each device takes and gives its own.
    """
    if not plan.sharded:
        alone = functools.partial(function, WHOLE)
        if plan.spread and plan.stacked:
            alone = functools.partial(_over_members, plan.mesh, alone, members)
        return jax.jit(alone, static_argnames=static, donate_argnums=donated, compiler_options=options_for(plan))

    count = len(plan.devices)
    ranks = np.arange(count, dtype=np.int32)

    @functools.cache  # one pmap for all calls: a new one would be traced again
    def mapped(arguments: int, **settings: Hashable) -> Callable[..., T]:
        def on_device(rank: jax.Array, *arguments: PyTree) -> T:
            return function(Shard(rank, count), *arguments, **settings)

        axes = (0, *[None] * arguments)
        return jax.pmap(on_device, AXIS, in_axes=axes, out_axes=None, devices=plan.devices)

    def call(*arguments: PyTree, **settings: Hashable) -> T:
        with _starting:
            result = mapped(len(arguments), **settings)(ranks, *arguments)
            # Steps in flight share the CPU's threads and can starve each other's collectives for ever: one at a time.
            return jax.block_until_ready(result) if plan.on_cpu else result

    return call


def _over_members(
    mesh: jax.sharding.Mesh,
    function: Callable[..., T],
    members: tuple[int, ...],
    *arguments: PyTree,
    **static: Hashable,
) -> T:
    """What a function gives on each device for its members, who need nothing of the others."""
    own, shared = jax.sharding.PartitionSpec(MEMBERS), jax.sharding.PartitionSpec()
    specs = tuple(own if position in members else shared for position in range(len(arguments)))
    alone = functools.partial(function, **static)
    return jax.shard_map(alone, mesh=mesh, in_specs=specs, out_specs=own, check_vma=False)(*arguments)
