"""The layer vocabulary: Flax NNX layers, the few that Flax lacks, and the chain that holds them."""

from flax.nnx import Conv, ConvTranspose, Linear

from flaxvision.layers.basic import ACTIVATIONS, Activation, Flatten, PolarTransform
from flaxvision.layers.chain import Chain, Preprocess
from flaxvision.layers.context import EVALUATION, Context, ContextLayer, Hyperparameter
from flaxvision.layers.initializers import INITS
from flaxvision.layers.kinds import KINDS
from flaxvision.layers.pooling import AvgPool, GlobalAvgPool, GlobalMaxPool, MaxPool, max_pool
from flaxvision.layers.stochastic import BatchNorm, Dropout

__all__ = [
    "ACTIVATIONS",
    "EVALUATION",
    "INITS",
    "KINDS",
    "Activation",
    "AvgPool",
    "BatchNorm",
    "Chain",
    "Context",
    "ContextLayer",
    "Conv",
    "ConvTranspose",
    "Dropout",
    "Flatten",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "Hyperparameter",
    "Linear",
    "MaxPool",
    "PolarTransform",
    "Preprocess",
    "max_pool",
]
