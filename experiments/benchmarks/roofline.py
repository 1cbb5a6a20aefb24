"""The least time of a train step: its products at the speed of a matrix product, its maps at that of the memory."""

from __future__ import annotations

import dataclasses
import math

from contest import Times, Turn, contest
from contestants import Task

import flaxvision as fv

SIDE = 1536  # of square matrices
PRODUCTS = 10  # of a block
COPIED, COPIES = 2**28, 3  # bytes that are read, and as many written, so many times in a block
REPEATS = 3  # blocks that count
# A map that a layer of products gives is written and read once forward; backward it is read again, and so is its
# gradient, which was written before. What lies between (normalization, activations) is at best done on the way.
PASSES = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """What a train step has to do."""

    multiply_adds: int  # forward, and twice as many backward, without the gradient of the images
    traffic: int  # bytes of maps in float32 that are read or written

    @classmethod
    def of(cls, task: Task) -> Work:
        """By the network's summary."""
        rows = [row for row in fv.models.summary(task.chain()).rows if row.multiply_adds]
        multiply_adds = 3 * sum(row.multiply_adds for row in rows) - rows[0].multiply_adds
        values = sum(math.prod(row.output_shape) for row in rows)
        return cls(task.batch * multiply_adds, task.batch * PASSES * 4 * values)


@dataclasses.dataclass(frozen=True, slots=True)
class Ceilings:
    """What the machine does on all cores."""

    multiply_adds: float  # a second, in float32 matrix products: the faster of JAX's and PyTorch's
    traffic: float  # bytes a second, read or written

    def __str__(self) -> str:
        return f"{self.multiply_adds / 1e9:.0f} billion multiply-adds and {self.traffic / 1e9:.0f} GB a second"

    @classmethod
    def measured(cls, side: int = SIDE, copied: int = COPIED) -> Ceilings:
        """In processes of their own, in turn."""
        entries = {
            "product, JAX": (multiply, {"side": side}),
            "product, PyTorch": (multiply_torch, {"side": side}),
            "copy": (copy_torch, {"copied": copied}),
        }
        times = contest(entries, repeats=REPEATS)
        products = [taken.median for name, taken in times.items() if name != "copy"]
        copy: Times = times["copy"]
        return cls(PRODUCTS * side**3 / min(products), COPIES * 2 * copied / copy.median)


def multiply(turn: Turn, side: int, dtype: str = "float32") -> None:
    """Matrix products by JAX."""
    import jax

    x = jax.random.normal(jax.random.key(0), (side, side), dtype)
    product = jax.jit(lambda x: x @ x)
    while turn():
        jax.block_until_ready([product(x) for _ in range(PRODUCTS)])


def multiply_torch(turn: Turn, side: int) -> None:
    """Matrix products by PyTorch."""
    import torch

    x = torch.randn(side, side)
    given = torch.empty_like(x)
    while turn():
        for _ in range(PRODUCTS):
            torch.mm(x, x, out=given)


def copy_torch(turn: Turn, copied: int) -> None:
    """Copies from memory to memory by PyTorch."""
    import torch

    x = torch.ones(copied // 4)
    given = torch.empty_like(x)
    while turn():
        for _ in range(COPIES):
            given.copy_(x)
