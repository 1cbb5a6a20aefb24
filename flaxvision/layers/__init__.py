"""The layer vocabulary: Flax NNX layers, those that Flax lacks, and the network that holds them.

A module of layers lists its public names itself, so that one that is added there is here.
"""

from flaxvision.layers import (
    activations,
    arithmetic,
    convolution,
    dropout,
    linear,
    loose,
    moving,
    normalization,
    pooling,
    shapes,
)
from flaxvision.layers.activations import *
from flaxvision.layers.arithmetic import *
from flaxvision.layers.context import EVALUATION, Context, ContextLayer, Hyperparameter
from flaxvision.layers.convolution import *
from flaxvision.layers.dropout import *
from flaxvision.layers.initializers import INITS
from flaxvision.layers.kinds import KINDS
from flaxvision.layers.linear import *
from flaxvision.layers.loose import *
from flaxvision.layers.moving import *
from flaxvision.layers.network import Chain, Network, Node
from flaxvision.layers.normalization import *
from flaxvision.layers.pooling import *
from flaxvision.layers.preprocess import Preprocess
from flaxvision.layers.shapes import *
from flaxvision.layers.torch_module import TorchModule, TorchTensor
from flaxvision.ops.pooling import max_pool

__all__ = [
    "EVALUATION",
    "INITS",
    "KINDS",
    "Chain",
    "Context",
    "ContextLayer",
    "Hyperparameter",
    "Network",
    "Node",
    "Preprocess",
    "TorchModule",
    "TorchTensor",
    "max_pool",
    *activations.__all__,
    *arithmetic.__all__,
    *convolution.__all__,
    *dropout.__all__,
    *linear.__all__,
    *loose.__all__,
    *moving.__all__,
    *normalization.__all__,
    *pooling.__all__,
    *shapes.__all__,
]


def __dir__() -> list[str]:
    return __all__
