"""Networks of fully connected layers: reports B2, C and E."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flaxvision.errors import UserError
from flaxvision.models._checks import flag, widths

if TYPE_CHECKING:
    from flaxvision.models.build import Build


def linear(b: Build, outputs: int) -> None:
    """One linear layer (reports C1 and C2)."""
    b.linear("layers.0", outputs)


def polar_linear(b: Build, outputs: int) -> None:
    """Points (x, y) to (r, phi), then one linear layer (report C1)."""
    b.polar("layers.0")
    b.linear("layers.1", outputs)


def mlp(
    b: Build,
    outputs: int,
    hidden: tuple[int, ...] = (256, 512),
    activation: str = "relu",
    batch_norm: bool = False,
    dropout: float = 0.0,
) -> None:
    """Hidden layers of the given widths, each with BatchNorm (if asked for), activation, dropout (reports B2, C, E)."""
    stack = "layers" if len(b.shape) == 1 else "linear_relu_stack"
    position = 0
    features_of = widths("hidden", hidden)
    if not features_of and (activation != "relu" or batch_norm or dropout):
        raise UserError("activation, batch_norm and dropout have no effect without hidden layers: leave them out")

    def name() -> str:
        nonlocal position
        position += 1
        return f"{stack}.{position - 1}"

    for features in features_of:
        b.linear(name(), features)
        if flag("batch_norm", batch_norm):
            b.batch_norm(name())
        b.activation(name(), activation)
        if dropout:
            b.dropout(name(), dropout)
    b.linear(name(), outputs)
