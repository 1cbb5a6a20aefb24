"""The table of Keras's layers and operations: for each what makes nodes of a network of it; maps are channels last."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

from flaxvision.models.keras_reader.load import as_numpy
from flaxvision.models.reading.graph import Held
from flaxvision.models.reading.reader import VOCABULARY, Operation, Reader
from flaxvision.models.reading.table import Table, strange

# What a layer's settings must be, by name, where ours have no choice.
PLAIN: dict[str, object] = {"data_format": "channels_last", "output_padding": None}


@dataclasses.dataclass(frozen=True, slots=True)
class At:
    """A call of a layer or operation that is read: what it takes, and where it stands."""

    reader: Reader
    call: Operation
    name: str
    layer: Any  # of Keras
    config: dict[str, Any]
    inputs: tuple[Held | np.ndarray, ...]  # all in order, also those of a list
    named: dict[str, Any]  # arguments by name that hold no value

    def held(self) -> Held:
        """The one value that it takes."""
        if len(self.inputs) == 1 and isinstance(self.inputs[0], Held):
            return self.inputs[0]
        self.call.refuse(f"{self.call.words} of {len(self.inputs)} values", "one of a single value would do")

    def values(self) -> list[Held]:
        """Those that it takes."""
        found = [each for each in self.inputs if isinstance(each, Held)]
        if len(found) != len(self.inputs):
            self.call.refuse(f"{self.call.words} with constants", "one of values of the network would do")
        return found

    def weight(self, name: str) -> np.ndarray | None:
        """An array of the layer's; None where it has none."""
        value = getattr(self.layer, name, None)
        if value is None:
            return None
        array = as_numpy(value)
        if array.dtype not in (np.float32, np.float64):
            array = array.astype(np.float32)
        if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
            self.reader.say("float64 weights are made float32: JAX_ENABLE_X64=1 keeps them")
        return array.astype(jax.dtypes.canonicalize_dtype(array.dtype))

    def needed(self, name: str) -> np.ndarray:
        """As `weight`, of one that every such layer has."""
        array = self.weight(name)
        if array is None:
            self.call.refuse(f"{self.call.words} without {name}", "build the model first")
        return array

    def axis(self, number: Any) -> int:
        """An axis of the value, counted without the batch."""
        rank = len(self.held().shape) + 1
        numbers = [int(each) % rank for each in np.ravel(number)]
        if len(numbers) != 1 or numbers[0] == 0:
            self.call.refuse(f"{self.call.words} over the axes {number}", "one over a single axis would do")
        return numbers[0] - 1

    @property
    def key(self) -> Hashable:
        """What the calls of one layer have in common."""
        return id(self.layer)

    def part(self, suffix: str) -> Operation:
        """The operation as that of a part of it."""
        return dataclasses.replace(self.call, wished_name=f"{self.call.wished_name}_{suffix}")


Handler = Callable[[At], Held]
TABLE = Table[Handler](VOCABULARY)  # by the class of a layer or operation
reads, refuses = TABLE.reads, TABLE.refuses


def carry_out(at: At) -> Held:
    """What a call gives.

    Raises:
        UserError: If it is outside the table, or its settings are.
    """
    handler = TABLE.handler(at.call, type(at.layer).__name__)
    for setting, value in PLAIN.items():
        given = at.config.get(setting, value)
        if given != value:
            at.call.refuse(f"{at.call.words} with {setting}={given!r}", f"{setting}={value!r} would do")
    if getattr(at.layer, "quantization_mode", None):
        at.call.refuse(f"{at.call.words}, quantized ({at.layer.quantization_mode}),", "give it before quantization")
    if getattr(at.layer, "lora_enabled", False):
        at.reader.say(f"the LoRA adapter of {at.name!r} is added to its kernel")
    at.reader.computes_in(getattr(at.layer, "compute_dtype", ""))
    known = len(at.reader.numbers)
    with strange(at.call, "with these settings", VOCABULARY):
        held = handler(at)
    if not getattr(at.layer, "trainable", True):
        at.reader.frozen |= {name.rpartition(".")[0] for name in list(at.reader.numbers)[known:]}
    return held


refuses("recurrent layers are outside it; convolutions or dense layers would do", "LSTM", "GRU", "SimpleRNN")
refuses("recurrent layers are outside it; convolutions or dense layers would do", "Bidirectional", "ConvLSTM2D", "RNN")
refuses("attention is outside it; convolutions would do", "MultiHeadAttention", "Attention", "AdditiveAttention")
refuses("images only: Conv2D and its pools would do", "Conv1D", "Conv3D", "MaxPooling1D", "Embedding")
refuses("give images of that size, and the model without it", "Resizing", "CenterCrop", "RandomCrop")
refuses("a sum or a product would do", "Maximum", "Minimum", "Dot")
refuses(
    "BatchNormalization, LayerNormalization or GroupNormalization would do", "UnitNormalization", "RMSNormalization"
)
refuses("a layer of Keras's own, or several, would do; Python code is not read", "Lambda", "TorchModuleWrapper")
