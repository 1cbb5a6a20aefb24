"""Parameter counts and the layer summary that report E prints."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx

from flaxvision.layers import Chain


def count_parameters(model: nnx.Module) -> int:
    """The number of trainable values: every `nnx.Param`, frozen or not; running statistics do not count."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


@dataclasses.dataclass(frozen=True, slots=True)
class LayerRow:
    """One line of a summary."""

    name: str
    kind: str
    output_shape: tuple[int, ...]  # of one example
    parameters: int


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """A network's layers and sizes; `str()` is the printed table.

    Sizes are those of report E (pytorch-summary's): float32, batch of one, forward/backward counts every output twice.
    """

    rows: tuple[LayerRow, ...]
    input_shape: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """Trainable parameters of the whole network."""
        return sum(row.parameters for row in self.rows)

    @property
    def megabytes(self) -> dict[str, float]:
        """Sizes in MB of 2**20 bytes: "input", "forward_backward", "params" and their "total"."""
        outputs = sum(math.prod(row.output_shape) for row in self.rows)
        sizes = {
            "input": math.prod(self.input_shape) * 4 / 2**20,
            "forward_backward": 2 * outputs * 4 / 2**20,
            "params": self.parameters * 4 / 2**20,
        }
        return {**sizes, "total": sum(sizes.values())}

    def __str__(self) -> str:
        lines = [f"{'layer':<24}{'kind':<16}{'output shape':<20}{'parameters':>12}"]
        lines += [f"{row.name:<24}{row.kind:<16}{row.output_shape!s:<20}{row.parameters:>12,}" for row in self.rows]
        sizes = " / ".join(f"{value:.2f}" for value in self.megabytes.values())
        return "\n".join(
            [*lines, f"parameters: {self.parameters:,}", f"input / forward-backward / params / total MB: {sizes}"]
        )


def summary(model: Chain) -> Summary:
    """Layer names, output shapes, parameters and sizes of a chain, without running it."""
    rows: list[LayerRow] = []
    shape = jax.ShapeDtypeStruct((1, *model.input_shape), jnp.float32)
    for name, layer in model.named_layers():
        shape = jax.eval_shape(layer, shape)
        kind = getattr(layer, "function", type(layer).__name__)
        rows.append(LayerRow(name, kind, tuple(shape.shape[1:]), count_parameters(layer)))
    return Summary(tuple(rows), model.input_shape)
