"""The layer vocabulary: Flax NNX layers, those that Flax lacks, and the network that holds them."""

from flaxvision.layers.activations import ACTIVATIONS, Activation, PReLU
from flaxvision.layers.arithmetic import Add, Affine, Concat, Multiply, Subtract
from flaxvision.layers.context import EVALUATION, Context, ContextLayer, Hyperparameter
from flaxvision.layers.convolution import Conv, ConvTranspose
from flaxvision.layers.dropout import Dropout, SpatialDropout
from flaxvision.layers.initializers import INITS
from flaxvision.layers.kinds import KINDS
from flaxvision.layers.linear import Linear
from flaxvision.layers.network import Chain, Network, Node
from flaxvision.layers.normalization import BatchNorm, GroupNorm
from flaxvision.layers.pooling import AvgPool, GlobalAvgPool, GlobalMaxPool, MaxPool, Upsample
from flaxvision.layers.preprocess import Preprocess
from flaxvision.layers.shapes import Flatten, PolarTransform
from flaxvision.ops.pooling import max_pool

__all__ = [
    "ACTIVATIONS",
    "EVALUATION",
    "INITS",
    "KINDS",
    "Activation",
    "Add",
    "Affine",
    "AvgPool",
    "BatchNorm",
    "Chain",
    "Concat",
    "Context",
    "ContextLayer",
    "Conv",
    "ConvTranspose",
    "Dropout",
    "Flatten",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GroupNorm",
    "Hyperparameter",
    "Linear",
    "MaxPool",
    "Multiply",
    "Network",
    "Node",
    "PReLU",
    "PolarTransform",
    "Preprocess",
    "SpatialDropout",
    "Subtract",
    "Upsample",
    "max_pool",
]
