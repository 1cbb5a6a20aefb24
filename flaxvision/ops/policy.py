"""What to compute how: one typed choice, made from the platform and the number of members that train together.

XLA's own convolution has cliffs on a CPU: gradients that are 4 to 50 times slower inside `lax.scan` (jax-ml/jax#12868),
maps of 2 x 2 that take 100 times as long as their arithmetic, few channels that are computed one by one. The other
forms are made of slices, additions and matrix products, with derivatives of any order. They compute what XLA's
computes, in another order of summation. Training on a CPU takes all of them; evaluation only those that are as exact as
XLA's: with few channels, and on the smallest maps, where vgg19's last block takes 3 ms for 370. Grouped convolutions of
XLA are the slowest: with 32 groups of four channels on maps of 14 x 14 the gradients take 2.5 s, here 27 ms (one core,
batch 32); depthwise ones of 3 x 3 on 28 x 28 x 32 take 56 ms, here 7. For maps of 16 to 160 channels memory is the
bound of all these forms; kernels in C++ (`ops.compiled`) stay in the cache, where a compiler is at hand.

On a GPU, too, XLA's convolutions of few channels lag: a step of emnist_cnn takes 0.36 ms by them, of five such networks
together 0.11 ms by matrix products, which XLA fuses and launches as one graph. Over members by `vmap` a convolution
becomes a grouped one (jax-ml/jax#26266): 3.2 ms for sixteen trials, by products 0.47.
"""

from __future__ import annotations

import dataclasses
import enum

from flaxvision.ops.compiled import library
from flaxvision.ops.windows import FEW_CHANNELS, WHOLE_CHANNELS


class Form(enum.Enum):
    """How a convolution is computed."""

    NATIVE = "XLA's own"
    PATCHES = "a product of patches and kernel, the batch first"
    BATCH_LAST = "a product of kernel and patches, the batch last"
    WINOGRAD = "Winograd's minimal filtering"
    GROUPS = "a product a group, the batch last; of single channels tap by tap"
    COMPILED = "a kernel in C++, compiled on this machine"


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """Which forms layers take."""

    first_layer: Form = Form.NATIVE  # convolutions from a picture's channels to many
    few_channels: Form = Form.NATIVE  # others with few input or output channels
    many_channels: Form = Form.NATIVE  # the others; of WINOGRAD where it applies, else of PATCHES
    groups: Form = Form.NATIVE  # grouped and depthwise ones
    patch_bytes: int = 0  # convolutions whose patches are larger take XLA's own form
    as_exact: bool = False  # only forms whose sums are as exact as XLA's own, and that evaluate as fast
    half: bool = False  # forms other than XLA's own for numbers of less than 32 bits, too
    narrow_products: bool = False  # linear layers of few outputs by way of the transposed kernel
    compiled: bool = False  # kernels in C++ where there is one that pays

    @property
    def batch_last_below(self) -> int:
        """Maps of fewer channels are laid with the batch last."""
        if self.few_channels is not Form.BATCH_LAST:
            return 0
        return WHOLE_CHANNELS if self.compiled else FEW_CHANNELS

    @classmethod
    def for_training(cls, platform: str, *, stacked: bool = False) -> Policy:
        """How a platform ("cpu", "gpu", …) trains one network, or the `stacked` members of a `vmap`.

        >>> Policy.for_training("cpu").many_channels
        <Form.WINOGRAD: "Winograd's minimal filtering">
        """
        if platform == "cpu":
            return CPU_TRAINING if stacked or library.compiler() is None else CPU_COMPILED
        if platform == "gpu":
            return GPU_STACKED if stacked else GPU
        return NATIVE

    def for_evaluation(self) -> Policy:
        """How what trains by this policy is evaluated."""
        return CPU_EVALUATION if self in (CPU_TRAINING, CPU_COMPILED) else self


NATIVE = Policy()
CPU_TRAINING = Policy(Form.PATCHES, Form.BATCH_LAST, Form.WINOGRAD, Form.GROUPS, 2**30, narrow_products=True)
CPU_COMPILED = dataclasses.replace(CPU_TRAINING, compiled=True)
CPU_EVALUATION = Policy(
    Form.PATCHES, Form.BATCH_LAST, Form.PATCHES, Form.GROUPS, 2**28, as_exact=True
)  # of larger batches
GPU = Policy(Form.BATCH_LAST, Form.BATCH_LAST, Form.NATIVE, Form.NATIVE, 2**28, half=True)
GPU_STACKED = Policy(Form.BATCH_LAST, Form.BATCH_LAST, Form.PATCHES, Form.GROUPS, 2**28, half=True)
