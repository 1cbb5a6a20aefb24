"""Parameter counts and the layer summary that report E prints."""

from __future__ import annotations

import dataclasses
import math

import jax
from flax import nnx

from flaxvision.layers import Chain


def count_parameters(model: nnx.Module) -> int:
    """The number of trainable values: every `nnx.Param`, frozen or not; running statistics do not count.

    >>> import flaxvision as fv
    >>> fv.models.count_parameters(fv.models.create("mlp", hidden=(256, 512)))
    337674
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


@dataclasses.dataclass(frozen=True, slots=True)
class LayerRow:
    """One line of a summary."""

    name: str
    kind: str
    output_shape: tuple[int, ...]  # of one example
    parameters: int  # counted where the layer is first used
    multiply_adds: int  # of one example
    takes: tuple[str | None, ...]  # the rows whose outputs it takes; None is the network's input


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """A network's layers and sizes; `str()` is the printed table, and a notebook shows it as one.

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

    @property
    def multiply_adds(self) -> int:
        """Multiplications with an addition, of one example."""
        return sum(row.multiply_adds for row in self.rows)

    @property
    def cells(self) -> list[tuple[str, ...]]:
        """The table as text: the headings, then a row a layer."""
        cells: list[tuple[str, ...]] = [("layer", "kind", "output shape", "parameters", "multiply-adds", "takes")]
        before: str | None = None
        for row in self.rows:
            taken = ", ".join("(input)" if name is None else name for name in row.takes)
            counts = f"{row.parameters:,}", f"{row.multiply_adds:,}"
            cells.append((row.name, row.kind, str(row.output_shape), *counts, "" if row.takes == (before,) else taken))
            before = row.name
        return cells

    def __repr__(self) -> str:
        return f"Summary({len(self.rows)} layers, {self.parameters:,} parameters, {self.multiply_adds:,} multiply-adds)"

    def _repr_html_(self) -> str:
        from flaxvision.report.notebook import summary_html

        return summary_html(self)

    def __str__(self) -> str:
        cells = self.cells
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        sides = ("<", "<", "<", ">", ">", "<")
        lines = ["  ".join(map("{:{}{}}".format, line, sides, widths)).rstrip() for line in cells]
        sizes = " / ".join(f"{value:.2f}" for value in self.megabytes.values())
        lines.append(f"parameters: {self.parameters:,}, multiply-adds: {self.multiply_adds:,}")
        return "\n".join([*lines, f"input / forward-backward / params / total MB: {sizes}"])


def summary(model: Chain) -> Summary:
    """Layer names, output shapes, parameters, multiply-adds and sizes of a network, without running it.

    >>> import flaxvision as fv
    >>> print(fv.models.summary(fv.models.create("linear")))
    layer     kind     output shape  parameters  multiply-adds  takes
    flatten   Flatten  (784,)                 0              0
    layers.0  Linear   (10,)              7,850          7,840
    parameters: 7,850, multiply-adds: 7,840
    input / forward-backward / params / total MB: 0.00 / 0.01 / 0.03 / 0.04
    """
    rows: list[LayerRow] = []
    counted: set[str] = set()
    for step in model.walk():
        kind = getattr(step.layer, "function", type(step.layer).__name__)
        parameters = 0 if step.node.layer in counted else count_parameters(step.layer)
        counted.add(step.node.layer)
        rows.append(LayerRow(step.node.name, kind, step.output, parameters, step.multiply_adds, step.node.takes))
    return Summary(tuple(rows), model.input_shape)
