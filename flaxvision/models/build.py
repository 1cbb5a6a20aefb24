"""Grows a network layer by layer, following the shape of one example, so that a misfit is caught before training."""

from __future__ import annotations

import dataclasses

from flax import nnx

from flaxvision import layers
from flaxvision.errors import UserError, check_choice
from flaxvision.layers import Network, Node
from flaxvision.layers.initializers import INITS, kernel_and_bias
from flaxvision.layers.kinds import Shape
from flaxvision.layers.network import fitted
from flaxvision.layers.pooling import Padding, as_pair
from flaxvision.ops.windows import Pair


@dataclasses.dataclass(frozen=True, slots=True)
class Value:
    """What a node of a network under construction gives: a handle, to be taken by later ones."""

    name: str | None  # of the node; None is the network's input
    shape: Shape  # of one example


class Build:
    """A network under construction.

    Every method adds a node that takes the value at hand and gives the next one, and returns a handle of it. A block
    with a skip connection:

    >>> import flaxvision as fv
    >>> b = fv.models.Build("block", (8, 8, 16))
    >>> skip = b.here()
    >>> _ = b.conv("conv1", 16, 3, padding=1)
    >>> _ = b.activation("act", "relu")
    >>> _ = b.conv("conv2", 16, 3, padding=1)
    >>> b.add("add", skip).shape
    (8, 8, 16)

    Args:
        kind: Name of the network, for files and errors.
        input_shape: Shape of one example, (H, W, C) or (D,).
        seed: Seed of the initial parameters.
        init: Whose initialization to use: the network's "own", as it says by `draw` (Flax's where it says nothing), or
            a framework's default, "flax", "torch" or "keras".
    """

    def __init__(self, kind: str, input_shape: Shape, *, seed: int = 0, init: str = "own"):
        check_choice("init", init, INITS)
        self.kind = kind
        self.input_shape = tuple(input_shape)
        self.init = init
        self.rngs = nnx.Rngs(seed)
        self.layers: list[tuple[str, nnx.Module]] = []
        self.nodes: list[Node] = []
        self._conv = self._linear = "flax" if init == "own" else init
        self._at = Value(None, self.input_shape)

    # Where the network stands.

    @property
    def shape(self) -> Shape:
        """Shape of the value at hand, of one example."""
        return self._at.shape

    def here(self) -> Value:
        """A handle of the value at hand."""
        return self._at

    def back_to(self, value: Value) -> None:
        """Go on from an earlier value, as the next branch of a block does."""
        self._at = value

    def layer(self, name: str, layer: nnx.Module, *others: Value) -> Value:
        """Add any layer; it takes the value at hand, and `others` after it.

        Raises:
            UserError: If it does not fit the shapes of what it takes.
        """
        return self._node(name, name, layer, others)

    def _add(self, name: str, layer: nnx.Module, shape: Shape) -> Value:
        """As `layer`, whose name this was while it was private; the shape is found, not taken."""
        return self.layer(name, layer)

    def again(self, name: str, layer: str, *others: Value) -> Value:
        """Apply a layer that the network has already, with the same parameters, as node `name`."""
        known = dict(self.layers)
        if layer not in known:
            raise UserError(f"{self.kind} has no layer {layer!r} to apply again: it has {', '.join(known)}")
        return self._node(name, layer, known[layer], others)

    def network(self) -> Network:
        """The network as built."""
        return Network(self.layers, input_shape=self.input_shape, kind=self.kind, nodes=self.nodes)

    def chain(self) -> Network:
        """As `network`."""
        return self.network()

    def draw(self, *, conv: str | None = None, linear: str | None = None) -> None:
        """Say how the layers that follow are drawn where the initialization is the network's own.

        Args:
            conv: For convolutions: "torch" or one of `flaxvision.layers.initializers.KERNELS`; None leaves it.
            linear: The same for linear layers.
        """
        if self.init == "own":
            self._conv, self._linear = conv or self._conv, linear or self._linear

    # Layers with parameters.

    def linear(self, name: str, features: int, *, bias: bool = True) -> Value:
        """Add a fully connected layer; a map is flattened first."""
        if len(self.shape) != 1:
            self.flatten("flatten" if not any(n == "flatten" for n, _ in self.layers) else f"{name}_flatten")
        (fan_in,) = self.shape
        drawn = kernel_and_bias(self._linear, fan_in)
        return self.layer(name, layers.Linear(fan_in, features, use_bias=bias, rngs=self.rngs, **drawn))

    def conv(
        self,
        name: str,
        features: int,
        kernel: int | Pair,
        *,
        stride: int | Pair = 1,
        padding: Padding = 0,
        groups: int = 1,
        dilation: int | Pair = 1,
        bias: bool = True,
    ) -> Value:
        """Add a convolution.

        Args:
            name: Of the layer.
            features: Channels of the output.
            kernel: Height and width, or one number for both; so are `stride` and `dilation`.
            stride: Step between windows.
            padding: "SAME", "VALID" or a count of pixels on each side (of height and width).
            groups: Into how many groups inputs and outputs divide; `b.shape[-1]` for a depthwise convolution.
            dilation: Distance of the kernel's values on the map.
            bias: Whether a bias is added.
        """
        channels = self._channels(name)
        if channels % groups or features % groups:
            raise UserError(f"layer {name!r} has groups={groups}: give a divisor of {channels} and {features} channels")
        size = as_pair(kernel)
        pads = padding if isinstance(padding, str) else tuple((side, side) for side in as_pair(padding))
        layer = layers.Conv(
            channels,
            features,
            size,
            strides=as_pair(stride),
            padding=pads,
            feature_group_count=groups,
            kernel_dilation=1 if dilation == 1 else as_pair(dilation),
            use_bias=bias,
            rngs=self.rngs,
            **kernel_and_bias(self._conv, channels // groups * size[0] * size[1]),
        )
        return self.layer(name, layer)

    def conv_transpose(
        self, name: str, features: int, kernel: int | Pair, *, stride: int | Pair = 1, bias: bool = True
    ) -> Value:
        """Add a transposed convolution without padding: side (n - 1) * stride + kernel, as in PyTorch."""
        size = as_pair(kernel)
        layer = layers.ConvTranspose(
            self._channels(name),
            features,
            size,
            strides=as_pair(stride),
            padding="VALID",
            transpose_kernel=True,
            use_bias=bias,
            rngs=self.rngs,
            **kernel_and_bias(self._conv, features * size[0] * size[1]),
        )
        return self.layer(name, layer)

    def batch_norm(self, name: str, *, momentum: float = 0.9, epsilon: float = 1e-5) -> Value:
        """Add batch normalization over the last axis; `momentum` is the share of the old statistics that is kept."""
        return self.layer(name, layers.BatchNorm(self.shape[-1], momentum, epsilon))

    def group_norm(self, name: str, groups: int) -> Value:
        """Add group normalization of the channels in `groups` groups."""
        return self.layer(name, layers.GroupNorm(groups, self.shape[-1]))

    def layer_norm(self, name: str) -> Value:
        """Add layer normalization over the last axis, at every position of a map by itself."""
        return self.layer(name, layers.LayerNorm(self.shape[-1]))

    def prelu(self, name: str, slopes: int = 1) -> Value:
        """Add a PReLU, with one slope or as many as there are channels."""
        return self.layer(name, layers.PReLU(slopes))

    # Layers without.

    def max_pool(
        self, name: str, window: int | Pair, stride: int | Pair | None = None, *, padding: Padding = 0
    ) -> Value:
        """Add a max-pool; `stride` defaults to the window, `padding` is as in `conv`."""
        return self.layer(name, layers.MaxPool(window, stride, padding or "VALID"))

    def avg_pool(
        self,
        name: str,
        window: int | Pair,
        stride: int | Pair | None = None,
        *,
        padding: Padding = 0,
        count_include_pad: bool = False,
    ) -> Value:
        """Add a mean-pool; `stride` defaults to the window, `padding` is as in `conv`."""
        return self.layer(name, layers.AvgPool(window, stride, padding or "VALID", count_include_pad))

    def adaptive_avg_pool(self, name: str, side: int) -> Value:
        """Add what PyTorch's AdaptiveAvgPool2d(side) does; nothing, where the map has that side.

        Raises:
            UserError: Unless the map's sides are multiples or divisors of `side`: there its windows overlap.
        """
        self._channels(name)
        height, width, _ = self.shape
        if any(of % side and side % of for of in (height, width)):
            raise UserError(
                f"{self.kind} does not fit examples of shape {self.input_shape}: layer {name!r} pools a map of "
                f"{height} x {width} to {side} x {side}; give images whose maps have multiples or divisors of {side}"
            )
        if side == 1:
            return self.global_avg_pool(name)
        window, scale = (max(height // side, 1), max(width // side, 1)), (max(side // height, 1), max(side // width, 1))
        if window != (1, 1):
            self.avg_pool(name, window)
        return self.here() if scale == (1, 1) else self.upsample(name if window == (1, 1) else f"{name}_again", scale)

    def global_avg_pool(self, name: str) -> Value:
        """Add a mean over the whole map."""
        return self.layer(name, layers.GlobalAvgPool())

    def global_max_pool(self, name: str) -> Value:
        """Add a maximum over the whole map."""
        return self.layer(name, layers.GlobalMaxPool())

    def upsample(self, name: str, scale: int | Pair) -> Value:
        """Repeat every value of the map along height and width."""
        return self.layer(name, layers.Upsample(scale))

    def resize(self, name: str, size: int | Pair) -> Value:
        """Interpolate the map bilinearly to another height and width."""
        return self.layer(name, layers.Resize(size))

    def activation(self, name: str, kind: str, number: float | None = None) -> Value:
        """Add an activation by its name, with its slope or alpha where it has one."""
        return self.layer(name, layers.Activation(kind, number))

    def dropout(self, name: str, rate: float, *, spatial: bool = False) -> Value:
        """Add dropout with probability `rate`, of values or (`spatial`) of whole channels."""
        return self.layer(name, (layers.SpatialDropout if spatial else layers.Dropout)(rate))

    def flatten(self, name: str) -> Value:
        """Flatten the map."""
        return self.layer(name, layers.Flatten())

    def affine(
        self, name: str, scale: float | tuple[float, ...] = 1.0, shift: float | tuple[float, ...] = 0.0
    ) -> Value:
        """Add a constant scale and shift, one number each or one per channel."""
        return self.layer(name, layers.Affine(scale, shift))

    def polar(self, name: str) -> Value:
        """Add the transform of points (x, y) to (r, phi)."""
        return self.layer(name, layers.PolarTransform())

    # Layers of several values: the one at hand, then others.

    def add(self, name: str, *others: Value) -> Value:
        """Add other values to the one at hand; an axis of size 1 is broadcast."""
        return self.layer(name, layers.Add(), *others)

    def subtract(self, name: str, other: Value) -> Value:
        """Subtract another value from the one at hand; an axis of size 1 is broadcast."""
        return self.layer(name, layers.Subtract(), other)

    def multiply(self, name: str, *others: Value) -> Value:
        """Multiply the value at hand with others; an axis of size 1 is broadcast, as that of a gate (1, 1, C)."""
        return self.layer(name, layers.Multiply(), *others)

    def concat(self, name: str, *others: Value) -> Value:
        """Put the channels of other values after those of the one at hand."""
        return self.layer(name, layers.Concat(), *others)

    def _channels(self, name: str) -> int:
        if len(self.shape) != 3:
            raise UserError(
                f"{self.kind} does not fit examples of shape {self.input_shape}: layer {name!r} needs a map (H, W, C)"
            )
        return self.shape[2]

    def _node(self, name: str, layer_name: str, layer: nnx.Module, others: tuple[Value, ...]) -> Value:
        values = (self._at, *others)
        given = {None, *(node.name for node in self.nodes)}
        unknown = [value for value in values if not isinstance(value, Value) or value.name not in given]
        if unknown:
            raise UserError(f"layer {name!r} takes {unknown[0]!r}: give handles of this network, as b.here() returns")
        shape = fitted(name, layer, tuple(value.shape for value in values), self.kind, self.input_shape)
        if name == layer_name:
            self.layers.append((name, layer))
        self.nodes.append(Node(name, layer_name, tuple(value.name for value in values)))
        self._at = Value(name, shape)
        return self._at
