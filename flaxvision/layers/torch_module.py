"""What a network keeps of the PyTorch module, or Keras model, that it was read from."""

from __future__ import annotations

import dataclasses

ENDINGS = ("softmax", "log_softmax", "sigmoid")  # by activation


@dataclasses.dataclass(frozen=True, slots=True)
class TorchTensor:
    """An entry of the module's `state_dict`."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # "float32"
    source: str  # under which name the network has it: its own, or that of the tensor that it is, too


@dataclasses.dataclass(frozen=True, slots=True)
class TorchModule:
    """A PyTorch module that a network was read from, or a Keras model, of which there is no more than `frozen`."""

    tensors: tuple[TorchTensor, ...]  # in the order of its `state_dict`
    ending: str = ""  # the activation of `ENDINGS` that it ends in and the network does not, which trains on scores
    frozen: tuple[str, ...] = ()  # what does not learn, as there: variables, or whole layers of Keras
