"""The table of operations: for each of PyTorch's functions, methods and layers what makes nodes of it."""

from __future__ import annotations

import dataclasses
import inspect
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from flaxvision.models.reading.graph import Growth
from flaxvision.models.reading.table import Table, strange
from flaxvision.models.torch_reader.calls import VOCABULARY, Call

Handler = Callable[..., Any]  # of the growth, the call, for a layer its module, and PyTorch's own arguments
TABLE = Table[Handler](VOCABULARY)  # by a function, the name of a method of tensors, or a class of layers
reads, refuses = TABLE.reads, TABLE.refuses
ALIASES = {"axis": "dim", "keepdims": "keepdim", "axis0": "dim0", "axis1": "dim1"}  # numpy's words, which PyTorch takes


@dataclasses.dataclass(frozen=True, slots=True)
class Loose:
    """A parameter that is no layer's, maybe in another shape."""

    name: str
    tensor: torch.Tensor
    parameter: torch.Tensor  # as the module has it


def array_of(tensor: Any) -> np.ndarray | None:
    """The numbers of a parameter, if there is one."""
    return None if tensor is None else getattr(tensor, "tensor", tensor).detach().numpy()


def carry_out(growth: Growth, call: Call, args: tuple, kwargs: dict[str, Any]) -> Any:
    """What an operation gives: a tensor that is held, several, or a constant.

    Raises:
        UserError: If it is outside the table, or its arguments are.
    """
    targets: tuple[object, ...] = (call.node.target,)
    if call.module is not None:
        targets, args = type(call.module).__mro__, (call.module, *args)
    handler = TABLE.handler(call, *targets)
    named = {ALIASES.get(name, name): value for name, value in kwargs.items()}
    try:
        bound = inspect.signature(handler).bind(growth, call, *args, **named)
    except TypeError as error:
        call.refuse(f"{call.words} with these arguments ({error})", "leave them at PyTorch's defaults")
    with strange(call, "with these arguments", VOCABULARY):
        return handler(*bound.args, **bound.kwargs)


def pair_of(value: Any) -> tuple[int, int]:
    """One number for both axes, or one each."""
    if isinstance(value, int):
        return value, value
    numbers = [int(each) for each in value]
    return (numbers[0], numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])


MATMUL = (operator.matmul, torch.matmul, "matmul", torch.bmm, "bmm", torch.einsum)

refuses(
    "recurrent layers are outside it; a convolution or a linear layer over the whole example would do",
    *(nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell),
)
refuses(
    "attention is outside it; convolutions, or linear layers over channels and over places as MLP-Mixer has, would do",
    *(nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.Transformer),
    torch.nn.functional.scaled_dot_product_attention,
)
refuses("images only: use nn.Conv2d", nn.Conv1d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose3d)
refuses(
    "use the layer, nn.Conv2d and so on, which owns its weight",
    *(torch.nn.functional.batch_norm, torch.prelu, torch.conv_transpose2d),
)
refuses("nn.GroupNorm or nn.BatchNorm2d would do", torch.nn.functional.local_response_norm)
refuses(
    "gradients flow through the whole network here; frozen = [...] in the recipe keeps layers as they are",
    *("detach", "detach_", torch.detach),
)
refuses("a product, or a linear or 1 x 1 convolution layer, would do", *MATMUL)
