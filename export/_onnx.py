"""A chain as an ONNX file that an engineer likes to open: one node a layer, PyTorch's tensor names, no detours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import flaxvision
from export._fold import fold_batch_norms
from export._layers import check_layers, places
from export._onnx_about import describe_input, describe_network, describe_output, metadata_of
from export._tensors import final_order, state_dict, with_input_shape
from flaxvision._files import write_atomically
from flaxvision.errors import UserError, check_choice
from flaxvision.layers import Chain
from flaxvision.training.losses import loss_of

LAYOUTS = ("NCHW", "NHWC")
OPSETS = range(13, 24)  # what the nodes below mean the same in
OPSET = 17  # the default: read by every onnxruntime since 1.12
LARGEST = 2**31 - 2**24  # bytes of weights that a file holds: protobuf takes less than 2 GiB in all
SMALL = 1024  # bytes of a tensor that always stays in the file: shapes may depend on its numbers
ALIGNED = 4096  # bytes at whose multiples weights beside the file begin, so that they can be mapped into memory


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
    opset: int = OPSET,
    batch: int | None = None,
    fold_batch_norm: bool = False,
    normalize: bool = False,
    softmax: bool = False,
    metadata: Mapping[str, object] | None = None,
) -> Path:
    """Write the evaluation-mode network to an ONNX file that says what it takes, what it gives and every value's shape.

    Initializers are the tensors of the PyTorch reference's `state_dict`, by name and bit for bit (but for a folded
    BatchNorm). The order of Flatten is folded into the linear weight, so that an NCHW file of images has no Transpose.
    Weights of more than 2 GB lie beside the file, as `path` with ".data" at its end.

    Args:
        model: The model, in whatever mode.
        path: Where to write, atomically; equal models give equal bytes.
        input_shape: Shape of one example, (H, W, C) or (D,); None for the model's own.
        layout: "NCHW" takes and gives (N, C, H, W); "NHWC" takes and gives images as they are stored, by a Transpose.
        opset: Operator set, 13 to 23; the file has the lowest IR version that goes with it.
        batch: Examples of one call, for runtimes that want a fixed number (WebGL, onnx2tf, ncnn); None for any number.
        fold_batch_norm: Fold each BatchNorm into the convolution or linear layer before it.
        normalize: Take uint8 images and scale them by `model.preprocess` in the graph; not for points.
        softmax: Give class probabilities, as `flaxvision.predict` does, instead of logits.
        metadata: More entries for the file's metadata, beside class names, preprocessing and the chain: text, or what
            JSON holds.

    Returns:
        The path.

    Raises:
        UserError: For what is no model, a layer that cannot be exported (its name, place and the allowed kinds),
            weights of another type than float16, float32 or float64, an unknown layout or opset, normalize on a model
            of points, softmax on a model without class scores, metadata that is no JSON or has the name of an entry of
            ours, or a path that cannot be written.

    Example:
        >>> export.to_onnx(model, "phone.onnx", normalize=True, softmax=True, batch=1)  # doctest: +SKIP
    """
    check_choice("layout", layout, LAYOUTS)
    if isinstance(opset, bool) or not isinstance(opset, (int, np.integer)) or opset not in OPSETS:
        raise UserError(f"opset is {opset!r}: give a whole number from {OPSETS[0]} to {OPSETS[-1]}")
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, (int, np.integer)) or batch < 1):
        raise UserError(f"batch is {batch!r}: give the number of examples of one call, 1 or more, or None for any")
    check_layers(model)
    if normalize and len(model.input_shape) != 3:
        raise UserError(f"normalize=True is for images; {model.kind} takes points of shape {model.input_shape}")
    if input_shape is not None and input_shape != model.input_shape:
        model = with_input_shape(model, input_shape)
    if fold_batch_norm:
        model = fold_batch_norms(model)
    proto, weights = _build(model, layout, int(opset), batch, normalize, softmax)
    helper.set_model_props(proto, metadata_of(model, metadata or {}, normalize))
    try:
        _check(proto, weights)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{model.kind} makes no valid ONNX graph ({reason}): change the layer that it names") from error
    return _write(Path(path), proto, weights)


def _build(
    model: Chain, layout: str, opset: int, batch: int | None, normalize: bool, softmax: bool
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The file without its initializers, and these."""
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
        output = (max(output[0], 2),)
    graph.nodes[-1].output[0] = name
    element = helper.np_dtype_to_tensor_dtype(dtype)
    examples = "batch" if batch is None else int(batch)
    takes, gives = (examples, *_laid_out(shape, layout)), (examples, *_laid_out(output, layout))
    taken = describe_input(model, takes, layout, normalize)
    given = describe_output(model, gives, layout, softmax)
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            model.kind,
            [helper.make_tensor_value_info("input", TensorProto.UINT8 if normalize else element, takes, taken)],
            [helper.make_tensor_value_info(name, element, gives, given)],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        producer_name="flaxvision",
        producer_version=flaxvision.__version__,
        ir_version=helper.find_min_ir_version_for([helper.make_opsetid("", opset)]),
        doc_string=describe_network(model, taken, given),
    )
    return proto, graph.initializers


def _check(proto: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> None:
    """Check the graph and note the shape of every value; large weights are inputs here, their numbers do not matter."""
    lean = onnx.ModelProto()
    lean.CopyFrom(proto)
    for name, array in weights.items():
        if array.nbytes <= SMALL:
            lean.graph.initializer.append(numpy_helper.from_array(array, name))
        else:
            element = helper.np_dtype_to_tensor_dtype(array.dtype)
            lean.graph.input.append(helper.make_tensor_value_info(name, element, array.shape))
    onnx.checker.check_model(lean, full_check=True)
    shapes = onnx.shape_inference.infer_shapes(lean, strict_mode=True, data_prop=True)
    proto.graph.value_info.extend(shapes.graph.value_info)


def _write(path: Path, proto: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> Path:
    """Write the file with its weights, or with those beside it where protobuf cannot hold them."""
    if sum(array.nbytes for array in weights.values()) <= LARGEST:
        proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    else:
        beside = path.with_name(f"{path.name}.data")
        end = 0
        for name, array in weights.items():
            if array.nbytes <= SMALL:
                proto.graph.initializer.append(numpy_helper.from_array(array, name))
                continue
            start = -(-end // ALIGNED) * ALIGNED
            end = start + array.nbytes
            element = helper.np_dtype_to_tensor_dtype(array.dtype)
            tensor = TensorProto(name=name, data_type=element, dims=array.shape, data_location=TensorProto.EXTERNAL)
            for key, value in (("location", beside.name), ("offset", start), ("length", array.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            proto.graph.initializer.append(tensor)
        write_atomically(beside, _pieces(array for array in weights.values() if array.nbytes > SMALL))
    return write_atomically(path, proto.SerializeToString(deterministic=True))


def _pieces(arrays: Iterable[np.ndarray]) -> Iterator[bytes | memoryview]:
    """The arrays' bytes, each from a multiple of `ALIGNED` on."""
    end = 0
    for array in arrays:
        yield bytes(-end % ALIGNED)
        yield array.reshape(-1).view(np.uint8).data
        end += -end % ALIGNED + array.nbytes


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
