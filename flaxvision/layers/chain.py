"""A model: a chain of named layers, with the little that must travel with its weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from flax import nnx

from flaxvision.errors import UserError
from flaxvision.layers.context import EVALUATION, Context, ContextLayer
from flaxvision.layers.forms import Maps, apply


@dataclasses.dataclass(frozen=True, slots=True)
class Preprocess:
    """How stored values become a network's input: `value * scale + offset` (Keras's Rescaling).

    Each is one number, or a tuple of one a channel (for points: one a coordinate).
    """

    scale: float | tuple[float, ...] = 1.0
    offset: float | tuple[float, ...] = 0.0

    def __post_init__(self) -> None:
        for name in ("scale", "offset"):
            if isinstance(getattr(self, name), list):  # as JSON has it
                object.__setattr__(self, name, tuple(getattr(self, name)))

    def __call__(self, images: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Scale `images` (uint8 or float) to an array of `dtype`."""
        x = images.astype(dtype)
        return x if self == Preprocess() else x * self._on(x, self.scale) + self._on(x, self.offset)

    @staticmethod
    def _on(x: jax.Array, value: float | tuple[float, ...]) -> float | jax.Array:
        return value if isinstance(value, float) else jnp.asarray(value, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class Chain(nnx.Module):
    """Layers applied one after the other; calling it gives the evaluation-mode output.

    Args:
        layers: (name, layer) pairs; a name is that of the layer in the PyTorch reference and may hold dots.
        input_shape: Shape of one example, (H, W, C) or (D,).
        kind: What `create` calls this network, for files and reports.

    Raises:
        UserError: If two layers share a name.
    """

    def __init__(self, layers: Iterable[tuple[str, nnx.Module]], *, input_shape: tuple[int, ...], kind: str = "chain"):
        pairs = tuple(layers)
        self.names = tuple(name for name, _ in pairs)
        twice = {name for name in self.names if self.names.count(name) > 1}
        if twice:
            raise UserError(f"layer names {sorted(twice)} occur twice: give each layer of a chain a name of its own")
        self.layers = nnx.List([layer for _, layer in pairs])
        self.input_shape = tuple(int(size) for size in input_shape)
        self.kind = kind
        self.classes: tuple[str, ...] = ()  # class names in the order of the outputs, once trained
        self.preprocess = Preprocess()  # set by `fit`; read by evaluate, predict and the exporters

    def __call__(self, x: jax.Array, context: Context = EVALUATION) -> jax.Array:
        """Apply the chain to `x` of shape (B, *input_shape), already preprocessed."""
        maps = Maps(x)
        for position, (name, layer) in enumerate(self.named_layers()):
            inner = context.for_layer(name, position) if isinstance(layer, ContextLayer) else context
            maps = apply(layer, maps, inner)
        return maps.first()

    def named_layers(self) -> Iterable[tuple[str, nnx.Module]]:
        """The (name, layer) pairs in order."""
        return zip(self.names, self.layers, strict=True)

    @property
    def dtype(self) -> jnp.dtype:
        """The type of the parameters (float32 without any)."""
        leaves = jax.tree.leaves(nnx.state(self, nnx.Param))
        return leaves[0].dtype if leaves else jnp.dtype(jnp.float32)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output for one example, found without running the network; parameters may be abstract."""
        graphdef, state = nnx.split(self)
        example = jax.ShapeDtypeStruct((1, *self.input_shape), self.dtype)
        return tuple(jax.eval_shape(lambda state, x: nnx.merge(graphdef, state)(x), state, example).shape[1:])

    def input_shapes(self) -> list[tuple[int, ...]]:
        """The shapes, for one example, of every layer's input in order: (1, ...) each."""
        graphdef, state = nnx.split(self)
        shapes: list[tuple[int, ...]] = []

        def forward(state: nnx.State, x: jax.Array) -> jax.Array:
            for layer in nnx.merge(graphdef, state).layers:
                shapes.append(tuple(x.shape))
                x = layer(x, EVALUATION) if isinstance(layer, ContextLayer) else layer(x)
            return x

        jax.eval_shape(forward, state, jax.ShapeDtypeStruct((1, *self.input_shape), self.dtype))
        return shapes

    def parameter_names(self) -> dict[tuple, str]:
        """The name "layer.variable" of every variable, by its path in the model's state."""
        state = nnx.to_flat_state(nnx.state(self))
        return {path: ".".join([self.names[int(str(path[1]))], *map(str, path[2:])]) for path, _ in state}
