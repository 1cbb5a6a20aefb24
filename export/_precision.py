"""Files of half precision and of 8 bits."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import onnx
from flax import nnx
from onnx import helper, numpy_helper

from flaxvision._onnxruntime import onnxruntime
from flaxvision.data import Dataset
from flaxvision.errors import UserError
from flaxvision.layers import Network
from flaxvision.models._from_onnx import DESCRIPTION, GRAPH
from flaxvision.training.checks import as_model_takes

PRECISIONS = ("float16", "int8")
CALIBRATION = 512  # training images on which the ranges of values are measured
AT_A_TIME = 64  # of them
LARGEST_HALF = float(np.finfo(np.float16).max)
# What computes with 8 bits, and what passes these on. A mean has more digits than what it is of; a softmax or a GELU
# of its parts needs more, and so does a sum with a constant: the scaling of pixels, or a variance and its epsilon.
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
IN_8_BITS = (*PRODUCTS, "Add", "Relu", "Clip", "Concat", "MaxPool", "Reshape", "Flatten", "Transpose")
BOTH = "both classes"  # the node that makes two probabilities of one


def calibration_of(dataset: Dataset) -> np.ndarray:
    """The training images with which `to_onnx` measures the ranges of an int8 file: 512, evenly spread.

    >>> import export, flaxvision as fv
    >>> export.calibration_of(fv.data.load("glyphs", limit=1000)).shape
    (512, 28, 28, 1)
    """
    images = dataset.train.images
    return images[spread(len(images), CALIBRATION)]


def spread(number: int, wanted: int) -> np.ndarray:
    """So many of `number` indices, or all, evenly spread."""
    return np.linspace(0, number - 1, min(number, wanted)).round().astype(int)


def calibration_for(model: Network, precision: str | None, calibration: np.ndarray | None) -> np.ndarray | None:
    """The examples, checked; `UserError` unless there are some of the model's exactly where they are needed."""
    if (precision == "int8") != (calibration is not None):
        if precision == "int8":
            raise UserError("precision='int8' measures ranges: give calibration=export.calibration_of(data)")
        raise UserError(f"calibration has no effect with precision={precision!r}: leave it out, or give 'int8'")
    if calibration is None:
        return None
    if model.dtype != np.float32:
        raise UserError(f"precision='int8' is for networks of float32; {model.kind} has {model.dtype}")
    examples = as_model_takes(model, calibration)
    if not len(examples):
        raise UserError("calibration is empty: give some hundreds of training images")
    return examples


def in_float16(model: Network) -> Network:
    """The network with weights of half precision.

    Raises:
        UserError: For a weight that is too large for it.
    """
    half = nnx.clone(model)
    names = half.parameter_names()
    for path, variable in nnx.to_flat_state(nnx.state(half, (nnx.Param, nnx.BatchStat))):
        largest = float(jnp.abs(variable[...]).max()) if variable[...].size else 0.0
        if largest > LARGEST_HALF:
            raise UserError(
                f"{names[path]} of {model.kind} holds {largest:.4g}, and float16 at most {LARGEST_HALF:.0f}: "
                "fold_batch_norm=True may help, or leave precision out"
            )
        variable.set_value(variable[...].astype(jnp.float16))
    return half


def in_int8(
    proto: onnx.ModelProto, weights: Mapping[str, np.ndarray], inputs: np.ndarray, most_bytes: int
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A graph of float32 as one of 8 bits, by onnxruntime's static quantization; and its initializers.

    Weights have a scale per channel and 7 bits of 8: processors without VNNI add products of 8 bits in 16, which can
    overflow, and would give other results than the rest.
    """
    if sum(array.nbytes for array in weights.values()) > most_bytes:
        raise UserError(f"precision='int8' is for weights of {most_bytes / 1e9:.3g} GB at most: leave it out")
    onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[np.ndarray] = iter(_batches(whole, inputs))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {whole.graph.input[0].name: batch}

    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    whole.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    about = {entry.key: entry.value for entry in proto.metadata_props}
    # BatchNorm is folded and shapes are known: nothing to prepare, of which it would warn otherwise.
    helper.set_model_props(whole, {"onnx.quant.pre_process": "onnxruntime.quant"})
    full = [
        node.name
        for node in proto.graph.node
        if node.name == BOTH or (node.op_type == "Add" and not weights.keys().isdisjoint(node.input))
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            whole,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(IN_8_BITS),
            nodes_to_exclude=full,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
        )
        small = onnx.load(path)
    # Its graph is no longer that of the network that the description tells of.
    helper.set_model_props(small, {key: value for key, value in about.items() if key not in (DESCRIPTION, GRAPH)})
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in small.graph.initializer}
    del small.graph.initializer[:]
    return small, tensors


def _batches(proto: onnx.ModelProto, inputs: np.ndarray) -> Iterator[np.ndarray]:
    size = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value or min(AT_A_TIME, len(inputs))
    for start in range(0, len(inputs), size):
        yield np.resize(inputs[start : start + size], (size, *inputs.shape[1:]))
