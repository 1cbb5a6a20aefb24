"""(g) Pools with windows of all sizes, on maps up to 224 x 224: compilation, values and gradients."""

from __future__ import annotations

import dataclasses

import numpy as np
from common import Options, Study
from contest import Turn, timed
from rows import number

ABOUT = """
One pool, its values and the gradient of its input, beside PyTorch as it is and compiled. Maps are (N, C, H, W) in
PyTorch with channels last, as ours are. Every contestant is a process; they compute in turn.
"""


@dataclasses.dataclass(frozen=True)
class Pool:
    """What is pooled, and how."""

    kind: str  # "max" or "avg"
    size: tuple[int, int, int, int]  # of the input, (N, H, W, C)
    window: tuple[int, int]
    strides: tuple[int, int]
    times: int = 20  # pools of a block

    def __str__(self) -> str:
        size, window, strides = (" x ".join(map(str, pair)) for pair in (self.size, self.window, self.strides))
        return f"{self.kind}, {size}, window {window}, stride {strides}"

    def drawn(self) -> tuple[np.ndarray, np.ndarray]:
        """An input and a cotangent of what it gives."""
        batch, *sides, channels = self.size
        given = (batch, *((n - k) // s + 1 for n, k, s in zip(sides, self.window, self.strides, strict=True)), channels)
        random = np.random.default_rng(0)
        return random.standard_normal(self.size, np.float32), random.standard_normal(given, np.float32)


SHAPES = (
    ((64, 28, 28, 32), (2, 2), (2, 2)),
    ((32, 56, 56, 64), (3, 3), (2, 2)),  # ResNet's
    ((32, 35, 35, 64), (3, 3), (1, 1)),  # Inception's
    ((32, 14, 14, 64), (5, 5), (3, 3)),
    ((32, 16, 16, 32), (16, 16), (1, 1)),
    ((8, 112, 112, 16), (14, 14), (14, 14)),
    ((8, 56, 56, 32), (28, 28), (7, 7)),
    ((4, 112, 112, 16), (56, 56), (1, 1)),
    ((4, 224, 224, 8), (112, 112), (8, 8)),
    ((4, 224, 224, 8), (224, 224), (1, 1)),
)


def run(options: Options) -> None:
    study = Study(options, "", "Pools with windows of all sizes", ABOUT)
    repeats = 1 if options.quick else options.extra.repeats
    header = ("", "our compilation, s", "flaxvision, ms", "PyTorch, ms", "torch.compile, ms")
    for kind, title in (("max", "Maxima"), ("avg", "Means"))[: 1 if options.quick else 2]:
        rows = []
        for size, window, strides in SHAPES[4:5] if options.quick else SHAPES:
            pool = Pool(kind, size, window, strides)
            entries = {
                "ours": (pool_flaxvision, {"pool": pool}),
                "PyTorch": (pool_torch, {"pool": pool, "compiled": False}),
                "compiled": (pool_torch, {"pool": pool, "compiled": True}),
            }
            found = timed(options, {"pool": pool}, entries, repeats=repeats)
            ms = [number(1e3 * found[name].median / pool.times) if name in found else "–" for name in entries]
            rows.append((str(pool), number(found["ours"].compilation), *ms))
            print(rows[-1], flush=True)
        study.table(title, header, rows, f"Medians of {repeats} blocks.")
    study.write()


def pool_flaxvision(turn: Turn, pool: Pool) -> None:
    import jax

    import flaxvision as fv
    from flaxvision.layers import AvgPool, MaxPool

    fv.runtime.prepare()  # as wherever flaxvision trains
    layer = {"max": MaxPool, "avg": AvgPool}[pool.kind](pool.window, pool.strides)

    @jax.jit
    def both(x: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        y, pull = jax.vjp(layer, x)
        return y, pull(g)[0]

    x, g = map(jax.numpy.asarray, pool.drawn())
    while turn():
        for _ in range(pool.times):
            jax.block_until_ready(both(x, g))


def pool_torch(turn: Turn, pool: Pool, compiled: bool) -> None:
    import torch

    function = {"max": torch.nn.functional.max_pool2d, "avg": torch.nn.functional.avg_pool2d}[pool.kind]
    function = torch.compile(function) if compiled else function
    x, g = (torch.tensor(array).permute(0, 3, 1, 2) for array in pool.drawn())  # channels last
    x.requires_grad_()
    while turn():
        for _ in range(pool.times):
            x.grad = None
            function(x, pool.window, pool.strides).backward(g)
