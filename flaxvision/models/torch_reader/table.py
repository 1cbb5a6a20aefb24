"""The table of operations: for each of PyTorch's functions, methods and layers what makes nodes of it."""

from __future__ import annotations

import dataclasses
import inspect
import operator
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from flaxvision.models.reading.graph import Growth
from flaxvision.models.torch_reader.calls import VOCABULARY, Call

Handler = Callable[..., Any]  # of the growth, the call, for a layer its module, and PyTorch's own arguments
H = TypeVar("H", bound=Handler)

# A function, the name of a method of tensors, or a class of layers -> what reads it.
OPERATIONS: dict[object, Handler] = {}
# The same of what cannot be read -> what would do instead.
INSTEAD: dict[object, str] = {}


@dataclasses.dataclass(frozen=True, slots=True)
class Loose:
    """A parameter that is no layer's, maybe in another shape."""

    name: str
    tensor: torch.Tensor


def reads(*targets: object) -> Callable[[H], H]:
    """Make the function below read these operations."""

    def add(handler: H) -> H:
        for target in dict.fromkeys(targets):  # some functions have two names
            if target in OPERATIONS:
                raise ValueError(f"{target} stands in the table already")
            OPERATIONS[target] = handler
        return handler

    return add


def refuses(instead: str, *targets: object) -> None:
    """Note what would do instead of these operations."""
    INSTEAD.update(dict.fromkeys(targets, instead))


def carry_out(growth: Growth, call: Call, args: tuple, kwargs: dict[str, Any]) -> Any:
    """What an operation gives: a tensor that is held, several, or a constant.

    Raises:
        UserError: If it is outside the table, or its arguments are.
    """
    target = call.node.target
    handler: Handler | None
    if call.module is not None:
        kinds = [kind for kind in type(call.module).__mro__ if kind in OPERATIONS or kind in INSTEAD]
        key: object = kinds[0] if kinds else type(call.module)
        args = (call.module, *args)
    else:
        key = target
    handler = OPERATIONS.get(key)
    if handler is None:
        call.refuse(call.words, INSTEAD.get(key, VOCABULARY))
    try:
        bound = inspect.signature(handler).bind(growth, call, *args, **kwargs)
    except TypeError as error:
        call.refuse(f"{call.words} with these arguments ({error})", "leave them at PyTorch's defaults")
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
