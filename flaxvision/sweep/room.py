"""Memory for trials: how much there is, what their examples take of it, and what can never fit."""

from __future__ import annotations

import math

from flaxvision._limits import free_memory, memory
from flaxvision._memory import is_mapped
from flaxvision.data import Dataset
from flaxvision.errors import UserError

NUMBERS = 2 * 4  # bytes that each parameter takes at least: it and its gradient
GB = 2**30


def free_on(platform: str) -> float:
    """Bytes that new work may take on a platform; infinity where the system does not say."""
    if platform == "cpu":
        return free_memory()
    return min(limit - in_use for limit, in_use in _of_devices())


def examples_on(platform: str, dataset: Dataset) -> float:
    """Bytes of a data set in the memory of a platform: on a CPU mapped ones are there as long as there is room."""
    images = [split.images for split in dataset.splits.values()]
    return float(sum(each.nbytes for each in images if platform != "cpu" or not is_mapped(each)))


def check_room(dataset: Dataset, parameters: int, platform: str) -> None:
    """Raise `UserError` for a trial that takes more than all the memory of a platform, whatever else it takes."""
    examples, network = examples_on(platform, dataset), float(NUMBERS * parameters)
    room = memory() if platform == "cpu" else min(limit for limit, _ in _of_devices())
    if examples + network > room:
        raise UserError(
            f"a trial takes {(examples + network) / GB:,.1f} GB at least, {examples / GB:,.1f} for examples and "
            f"{network / GB:,.1f} for parameters and gradients, of the {room / GB:,.1f} that there are: a smaller "
            "limit, size or network takes less"
        )


def _of_devices() -> list[tuple[float, float]]:
    """Bytes that there are, and that are taken, on each local device, each of which gets as much as another."""
    import jax

    told = [device.memory_stats() or {} for device in jax.local_devices()]
    return [(each.get("bytes_limit", math.inf), each.get("bytes_in_use", 0.0)) for each in told]
