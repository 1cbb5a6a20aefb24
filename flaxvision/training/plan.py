"""What is static about a group of trials, and how functions are compiled for its devices."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from flaxvision.layers import Chain, Conv, ConvTranspose
from flaxvision.layers.forms import IN_CACHE, LEAST, examples_in_cache, form_and_patches
from flaxvision.training.batches import Shard
from flaxvision.training.recipe import Recipe

AXIS = "batch"  # the device axis
IN_PLACE = "xla_cpu_copy_insertion_use_region_analysis", True  # weights change after what reads them: no copies
UNTUNED = "xla_gpu_autotune_level", 0  # the first choice of kernels, without timing others
EVALUATED = 500  # examples of a step of evaluation
_starting = threading.Lock()  # collectives must start in one order on all devices


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that is static about a group of trials; equal plans share their compiled programs."""

    graphdef: nnx.GraphDef
    recipe: Recipe  # `Recipe.structure()`
    classes: int  # how many there are; 0 without classes
    steps_per_epoch: int
    total_steps: int
    vmapped: bool  # members by `vmap`; otherwise unrolled in one program
    part: int | None  # examples of a batch whose gradient is computed at a time; None: all of them
    devices: tuple[jax.Device, ...]
    own_code: str = ""  # checksum of an optimizer of one's own
    tuned: bool = True  # whether XLA times kernels on a GPU before it chooses some, see `tuning_pays`

    @property
    def sharded(self) -> bool:
        """Whether several devices share each batch."""
        return len(self.devices) > 1

    @property
    def platform(self) -> str:
        """Where it runs: "cpu", "gpu" or "tpu"."""
        return self.devices[0].platform

    @property
    def on_cpu(self) -> bool:
        """Whether it runs on a CPU."""
        return self.platform == "cpu"

    @property
    def conv(self) -> str:
        """The form of convolutions in training, see `flaxvision.layers.Context`."""
        if self.recipe.conv == "native" or self.platform not in ("cpu", "gpu"):
            return "native"
        return "fast" if self.on_cpu else "batched" if self.vmapped else "accelerated"

    def of_evaluation(self) -> Plan:
        """What of it evaluation depends on, so that one program serves optimizers, frozen layers and durations."""
        recipe = Recipe(loss=self.recipe.loss, precision=self.recipe.precision, conv=self.recipe.conv)
        return dataclasses.replace(self, recipe=recipe, steps_per_epoch=0, total_steps=0, part=None, own_code="")


def part_of(model: Chain, recipe: Recipe, platform: str) -> int | None:
    """`Plan.part`: what patches and gradients of it stay in the cache, if the batch is larger.

    Batch statistics are those of the whole batch, so not with any layer that has some.
    """
    if platform != "cpu" or recipe.conv == "native" or recipe.precision == "bfloat16" or recipe.batch_size <= 2**LEAST:
        return None
    convolutions = sum(type(layer) in (Conv, ConvTranspose) for layer in model.layers)
    inner = sum(isinstance(module, (Conv, ConvTranspose)) for _, module in nnx.iter_modules(model)) - convolutions
    gradient = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    own = type(model).__call__ is not Chain.__call__  # a subclass may not apply its layers one after the other
    if own or inner or gradient > IN_CACHE or jax.tree.leaves(nnx.state(model, nnx.BatchStat)):
        return None
    part = examples_in_cache(model)
    return None if part is None or part >= recipe.batch_size else part


def tuning_pays(model: Chain, plan: Plan) -> bool:
    """`Plan.tuned`: whether a GPU computes convolutions by XLA's own kernels, which differ by much.

    Timing waits for whatever else trains on the device: the eight programs of emnist-holdout took over 60 s with it, in
    place of 28 s (NVIDIA H200).
    """
    own = type(model).__call__ is not Chain.__call__  # a subclass may convolve by itself, as may layers within layers
    if own or plan.conv not in ("accelerated", "batched"):
        return True
    examples = max(plan.recipe.batch_size, EVALUATED)  # forms of larger batches are native sooner
    shapes = [(examples, *shape[1:]) for shape in model.input_shapes()]
    forms = [form_and_patches(layer, shape, plan.conv)[0] for layer, shape in zip(model.layers, shapes, strict=True)]
    convolutions = sum(isinstance(module, (Conv, ConvTranspose)) for _, module in nnx.iter_modules(model))
    return "native" in forms or convolutions > sum(map(bool, forms))


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


def compile_for(plan: Plan, function: Callable, *, static: tuple[str, ...], donated: tuple[int, ...]) -> Callable:
    """A function of (shard, arguments...), compiled for the plan's devices, without its shard."""
    if not plan.sharded:
        alone = functools.partial(function, Shard(0, 1))
        return jax.jit(alone, static_argnames=static, donate_argnums=donated, compiler_options=options_for(plan))

    count = len(plan.devices)
    ranks = np.arange(count, dtype=np.int32)

    @functools.cache  # one pmap for all calls: a new one would be traced again
    def mapped(arguments: int, **settings: int) -> Callable:
        def on_device(rank: jax.Array, *arguments: Any) -> Any:
            return function(Shard(rank, count), *arguments, **settings)

        axes = (0, *[None] * arguments)
        return jax.pmap(on_device, AXIS, in_axes=axes, out_axes=None, devices=plan.devices)

    def call(*arguments: Any, **settings: int) -> Any:
        with _starting:
            result = mapped(len(arguments), **settings)(ranks, *arguments)
            # Steps in flight share the CPU's threads and can starve each other's collectives for ever: one at a time.
            return jax.block_until_ready(result) if plan.on_cpu else result

    return call
