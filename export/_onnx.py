"""A chain as an ONNX file that an engineer likes to open: one node a layer, PyTorch's tensor names, no detours."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import flaxvision
from export._fold import fold_batch_norms
from export._layers import check_layers, places
from export._tensors import final_order, state_dict, with_input_shape
from flaxvision._files import write_atomically
from flaxvision.errors import UserError, check_choice
from flaxvision.layers import Chain
from flaxvision.models.files import describe_model
from flaxvision.training.losses import loss_of

LAYOUTS = ("NCHW", "NHWC")
OPSETS = (17, 18, 19, 20, 21, 22, 23)  # what the nodes below mean the same in
IR_VERSION = 9  # read by every onnxruntime since 1.17
RESERVED = "flaxvision."  # what metadata entries of our own begin with
DESCRIPTION = f"{RESERVED}model"  # the entry from which `from_onnx` builds the chain again


class Graph:
    """Nodes and initializers under construction, with the name of the value that the next node takes.

    Args:
        entry: Name of the input.
        taken: Names that neither a node nor a constant may have: those of the output and of the weights.
    """

    def __init__(self, entry: str, taken: Iterable[str]):
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, np.ndarray] = {}
        self.value = entry
        self._taken = {entry, *taken}

    def add(self, op: str, inputs: list[str] | None = None, output: str | None = None, **attributes: Any) -> str:
        """Add a node after the newest one (or on `inputs`) and return its output's name."""
        output = self._unique(output or f"{op.lower()}_{len(self.nodes)}")
        node = helper.make_node(op, inputs or [self.value], [output], name=output, **attributes)
        self.nodes.append(node)
        self.value = output
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add an initializer that is no weight and return its name."""
        name = self._unique(name)
        self.initializers[name] = value
        return name

    def _unique(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def to_onnx(
    model: Chain,
    path: str | Path,
    *,
    input_shape: tuple[int, ...] | None = None,
    layout: str = "NCHW",
    opset: int = 20,
    fold_batch_norm: bool = False,
    normalize: bool = False,
    softmax: bool = False,
    metadata: Mapping[str, object] | None = None,
) -> Path:
    """Write the evaluation-mode network to an ONNX file with a dynamic batch.

    Initializers are the tensors of the PyTorch reference's `state_dict`, by name and bit for bit (but for a folded
    BatchNorm). The order of Flatten is folded into the linear weight, so that an NCHW file has no Transpose.

    Args:
        model: The model, in whatever mode.
        path: Where to write, atomically; equal models give equal bytes.
        input_shape: Shape of one example, (H, W, C) or (D,); None for the model's own.
        layout: "NCHW" takes and gives (N, C, H, W); "NHWC" takes and gives images as they are stored, by a Transpose.
        opset: Operator set, 17 to 23.
        fold_batch_norm: Fold each BatchNorm into the convolution or linear layer before it.
        normalize: Take uint8 images and scale them by `model.preprocess` in the graph; not for points.
        softmax: Give class probabilities, as `flaxvision.predict` does, instead of logits.
        metadata: More entries for the file's metadata, beside class names, preprocessing and the chain: text, or what
            JSON holds.

    Returns:
        The path.

    Raises:
        UserError: For a layer that cannot be exported (its name, place and the allowed kinds), an unknown layout or
            opset, normalize on a model of points, softmax on a model without class scores, metadata that is no JSON,
            or a path that cannot be written.
    """
    check_choice("layout", layout, LAYOUTS)
    check_choice("opset", opset, OPSETS)
    check_layers(model)
    if normalize and len(model.input_shape) != 3:
        raise UserError(f"normalize=True is for images; {model.kind} takes points of shape {model.input_shape}")
    if input_shape is not None and tuple(input_shape) != model.input_shape:
        model = with_input_shape(model, tuple(input_shape))
    if fold_batch_norm:
        model = fold_batch_norms(model)
    proto = _build(model, layout, opset, normalize, softmax)
    helper.set_model_props(proto, _metadata(model, metadata or {}))
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{model.kind} makes no valid ONNX graph ({reason}): change the layer that it names") from error
    return write_atomically(path, proto.SerializeToString(deterministic=True))


def _build(model: Chain, layout: str, opset: int, normalize: bool, softmax: bool) -> onnx.ModelProto:
    shape, dtype, tensors, output = model.input_shape, model.dtype, state_dict(model), model.output_shape
    name = "probabilities" if softmax else "logits" if len(output) == 1 else "images"
    graph = Graph("input", (name, *tensors))
    if normalize:
        graph.add("Cast", to=helper.np_dtype_to_tensor_dtype(dtype), output="pixels")
        along = (-1, 1, 1) if layout == "NCHW" else (-1,)  # where there is a number a channel
        for part, op, nothing in (("scale", "Mul", 1), ("offset", "Add", 0)):
            value = np.asarray(getattr(model.preprocess, part), dtype)
            if np.any(value != nothing):
                value = value.reshape(along) if value.ndim else value
                graph.add(op, [graph.value, graph.constant(f"preprocess.{part}", value)])
    if len(shape) == 3 and layout == "NHWC":
        graph.add("Transpose", perm=[0, 3, 1, 2])
    for row, place in places(model, tensors, opset):
        row.onnx(graph, place)
    if not graph.nodes:
        graph.add("Identity")
    order = final_order(model)
    if order is not None:  # the chain ends on flattened features: give them in our order
        graph.add("Gather", [graph.value, graph.constant("output.order", np.argsort(order))], axis=1)
    if len(output) == 3 and layout == "NHWC":
        graph.add("Transpose", perm=[0, 2, 3, 1])
    if softmax:
        _probabilities(graph, output, dtype)
    graph.nodes[-1].output[0] = name
    element = TensorProto.UINT8 if normalize else helper.np_dtype_to_tensor_dtype(dtype)
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            model.kind,
            [helper.make_tensor_value_info("input", element, ["batch", *_laid_out(shape, layout)])],
            [
                helper.make_tensor_value_info(
                    name,
                    helper.np_dtype_to_tensor_dtype(dtype),
                    ["batch", *(_laid_out(output, layout) if not softmax else (max(output[0], 2),))],
                )
            ],
            [numpy_helper.from_array(value, key) for key, value in graph.initializers.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        producer_name="flaxvision",
        producer_version=flaxvision.__version__,
        ir_version=IR_VERSION,
    )
    return proto


def _probabilities(graph: Graph, output: tuple[int, ...], dtype: Any) -> None:
    loss = loss_of(output)
    if loss == "squared_error":
        raise UserError(f"softmax=True is for class scores; this network gives images of shape {output}")
    if loss == "cross_entropy":
        graph.add("Softmax", axis=1)
        return
    one = graph.add("Sigmoid")
    unit = graph.constant("one", np.asarray(1, dtype))
    zero = graph.add("Sub", [unit, one])
    graph.add("Concat", [zero, one], axis=1)


def _laid_out(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    return (shape[2], *shape[:2]) if len(shape) == 3 and layout == "NCHW" else shape


def _metadata(model: Chain, extra: Mapping[str, object]) -> dict[str, str]:
    about = {
        DESCRIPTION: json.dumps(describe_model(model)),
        "classes": json.dumps(model.classes),
        "preprocess": f"value * {model.preprocess.scale!r} + {model.preprocess.offset!r}",
    }
    return about | dict(sorted((key, _text(key, value)) for key, value in extra.items()))


def _text(key: str, value: object) -> str:
    if not isinstance(key, str) or key.startswith(RESERVED):
        raise UserError(f"metadata {key!r}: give a name that is text and does not begin with {RESERVED!r}")
    try:
        return value if isinstance(value, str) else json.dumps(value, default=lambda number: number.tolist())
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"metadata {key!r} is a {type(value).__name__}: give text, numbers, lists or a dict") from error
