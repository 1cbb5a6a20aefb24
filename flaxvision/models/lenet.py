"""LeNet-5, the form of it that the field uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flaxvision.models.build import Build


def lenet5(b: Build, outputs: int, activation: str = "tanh") -> None:
    """LeNet-5 (LeCun et al., "Gradient-Based Learning Applied to Document Recognition", Proc. IEEE 1998).

    As usual today, every map of the second convolution sees all of the first, subsampling is a plain mean, and a linear
    layer takes the place of the radial basis functions. Images of 28 x 28 are padded to the paper's 32 x 32.
    """
    b.draw(conv="lenet", linear="lenet")
    b.conv("conv1", 6, 5, padding=2 if b.shape[0] == 28 else 0)
    b.activation("act1", activation)
    b.avg_pool("pool1", 2)
    b.conv("conv2", 16, 5)
    b.activation("act2", activation)
    b.avg_pool("pool2", 2)
    b.linear("fc1", 120)
    b.activation("act3", activation)
    b.linear("fc2", 84)
    b.activation("act4", activation)
    b.linear("fc3", outputs)
