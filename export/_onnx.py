"""A network as an ONNX file that an engineer likes to open: one node per layer, PyTorch's tensor names, no detours."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import flaxvision
from export._fold import fold_batch_norms
from export._layers import check_layers, check_pixels, places
from export._onnx_about import describe_input, describe_network, describe_output, metadata_of
from export._place import Place
from export._precision import BOTH, PRECISIONS, calibration_for, in_float16, in_int8
from export._tensors import with_input_shape
from flaxvision._files import write_atomically
from flaxvision.errors import UserError, check_choice
from flaxvision.layers import Chain
from flaxvision.models._ending import ending_of, with_ending
from flaxvision.models._from_onnx import GRAPH, constants_checksum, nodes_checksum
from flaxvision.models._state_dict import correspondence, state_dict
from flaxvision.training.losses import loss_of

LAYOUTS = ("NCHW", "NHWC")
OPSETS = range(13, 24)  # what the nodes below mean the same in
OPSET = 17  # the default: read by every onnxruntime since 1.12
LARGEST_FILE = 2**31 - 2**24  # bytes of weights that a file holds: protobuf takes less than 2 GiB in all
SMALL_TENSOR = 1024  # bytes of a tensor that always stays in the file: shapes may depend on its numbers
OUTPUTS = {"": "logits", "log_softmax": "log_probabilities", "softmax": "probabilities", "sigmoid": "probabilities"}
ALIGNMENT = 4096  # bytes at whose multiples weights beside the file begin, so that they can be mapped into memory


class Graph:
    """Nodes and initializers under construction.

    Args:
        entry: Name of the input.
        taken: Names that neither a node nor a constant may have: those of the output and of the weights.
    """

    def __init__(self, entry: str, taken: Iterable[str]):
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, np.ndarray] = {}
        self._taken = {entry, *taken}

    def add(self, op: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Add a node on `inputs` and return its output's name."""
        output = self._unique(output or f"{op.lower()}_{len(self.nodes)}")
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def weights(self, place: Place, names: Iterable[str]) -> list[str]:
        """Add those of a layer's tensors that it has, and return their names."""
        return [
            self.initializer(f"{place.layer_name}.{name}", place.tensors[name])
            for name in names
            if name in place.tensors
        ]

    def initializer(self, name: str, value: np.ndarray) -> str:
        """Add a weight, whose name is its own, and return that."""
        self.initializers[name] = value
        return name

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add an initializer that is not a weight and return its name."""
        name = self._unique(name)
        self.initializers[name] = value
        return name

    def integers(self, name: str, values: Sequence[int]) -> str:
        """Add a list of whole numbers, such as a shape or axes, and return its name."""
        return self.constant(name, np.asarray(values, np.int64))

    def mean(self, value: str, axes: Sequence[int], opset: int) -> str:
        """Add the mean over axes, which stay with size 1, and return its name."""
        if opset < 18:
            return self.add("ReduceMean", [value], axes=list(axes), keepdims=1)
        return self.add("ReduceMean", [value, self.integers(f"axes_{len(self.nodes)}", axes)], keepdims=1)

    def affine(self, value: str, name: str, numbers: Mapping[str, Any], along: tuple[int, ...], dtype: Any) -> str:
        """Add a scale and a shift, one number each or one per channel; nothing for one that changes nothing."""
        for (part, number), op, nothing in zip(numbers.items(), ("Mul", "Add"), (1, 0), strict=True):
            array = np.asarray(number)
            if np.any(array != nothing):
                array = (array.reshape(along) if array.ndim else array).astype(dtype)
                value = self.add(op, [value, self.constant(f"{name}.{part}", array)])
        return value

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
    precision: str | None = None,
    calibration: np.ndarray | None = None,
    metadata: Mapping[str, object] | None = None,
) -> Path:
    """Write the evaluation-mode network to an ONNX file that says what it takes, what it gives and every value's shape.

    Initializers are the tensors of the PyTorch reference's `state_dict`, by name and bit for bit (but for a folded
    BatchNorm). An NCHW file of images has no Transpose.
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
        precision: "float16" computes in half precision, half the size; "int8" computes convolutions and linear layers
            with 8 bits, a quarter of the size, with each BatchNorm folded. Input, output, the scaling of
            pixels and the softmax stay as they are. None for the model's own type.
        calibration: For "int8", some hundreds of training images as stored (or points), such as
            `export.calibration_of(data)`: onnxruntime measures on them the range of every value.
        metadata: More entries for the file's metadata, beside class names, preprocessing and the chain: text, or what
            JSON holds.

    Returns:
        The path.

    Raises:
        UserError: For what is not a model, a layer that cannot be exported (its name, place and the allowed kinds),
            weights of another type than float16, float32 or float64, an unknown layout or opset, normalize on a model
            of points, softmax on a model without class scores, int8 without calibration or calibration without int8,
            weights that float16 cannot hold, metadata that is not valid JSON or has the name of an entry of ours, or a
            path that cannot be written.

    >>> import export, flaxvision as fv
    >>> export.to_onnx(fv.models.create("linear"), "phone.onnx", normalize=True, softmax=True, batch=1).name
    'phone.onnx'
    """
    check_choice("layout", layout, LAYOUTS)
    if not _is_whole(opset) or opset not in OPSETS:
        raise UserError(f"opset is {opset!r}: give a whole number from {OPSETS[0]} to {OPSETS[-1]}")
    if batch is not None and (not _is_whole(batch) or batch < 1):
        raise UserError(f"batch is {batch!r}: give the number of examples of one call, 1 or more, or None for any")
    if precision is not None:
        check_choice("precision", precision, PRECISIONS)
    check_layers(model)
    examples = calibration_for(model, precision, calibration)
    if normalize:
        check_pixels(model)
    if input_shape is not None and input_shape != model.input_shape:
        model = with_input_shape(model, input_shape)
    if fold_batch_norm or precision == "int8":
        model = fold_batch_norms(model)
    network = in_float16(model) if precision == "float16" else model
    proto, weights = _build(network, layout, int(opset), batch, normalize, softmax, model.dtype)
    own = {pair.name for pair in correspondence(network)}
    written = f"{nodes_checksum(proto.graph)} {constants_checksum(weights, own)}"
    helper.set_model_props(proto, {**metadata_of(model, metadata or {}, normalize), GRAPH: written})
    try:
        _check(proto, weights)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{model.kind} makes no valid ONNX graph ({reason}): change the layer that it names") from error
    if examples is not None:
        proto, weights = in_int8(proto, weights, fed(model, examples, layout, normalize), LARGEST_FILE)
    return _write(Path(path), proto, weights)


def fed(model: Chain, examples: np.ndarray, layout: str, normalize: bool) -> np.ndarray:
    """What a file takes in place of images as stored (N, H, W, C), or of points; an array of its own."""
    x = np.rint(examples).astype(np.uint8) if normalize else model.preprocess(jnp.asarray(examples), model.dtype)
    return np.array(x.transpose(0, 3, 1, 2) if x.ndim == 4 and layout == "NCHW" else x, order="C")


def _is_whole(number: object) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool)


def _build(
    model: Chain, layout: str, opset: int, batch: int | None, normalize: bool, softmax: bool, dtype: Any
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The file without its initializers, and these; `dtype` is that of its ends, the network's own its layers'."""
    shape, tensors, output = model.input_shape, state_dict(model), model.output_shape
    inner = helper.np_dtype_to_tensor_dtype(model.dtype)
    element = helper.np_dtype_to_tensor_dtype(dtype)
    name = "probabilities" if softmax else OUTPUTS[ending_of(model)] if len(output) == 1 else "images"
    graph, value = Graph("input", (name, *tensors)), "input"
    if normalize:
        value = graph.add("Cast", [value], "pixels", to=element)
        along = (-1, 1, 1) if layout == "NCHW" else (-1,)  # where there is one number per channel
        value = graph.affine(value, "preprocess", dataclasses.asdict(model.preprocess), along, dtype)
    if len(shape) == 3 and layout == "NHWC":
        value = graph.add("Transpose", [value], perm=[0, 3, 1, 2])
    if inner != element:
        value = graph.add("Cast", [value], "narrowed", to=inner)
    values: dict[str | None, str] = {None: value}
    for step, row, place in places(model if softmax else with_ending(model), tensors, opset):
        value = values[step.node.name] = row.onnx(graph, place, [values[taken] for taken in step.node.takes])
    if inner != element:
        value = graph.add("Cast", [value], "widened", to=element)
    if len(output) == 3 and layout == "NHWC":
        value = graph.add("Transpose", [value], perm=[0, 2, 3, 1])
    if softmax:
        value = _probabilities(graph, value, output, dtype)
        output = (max(output[0], 2),)
    if not graph.nodes or graph.nodes[-1].output[0] != value:
        graph.add("Identity", [value])  # the last layer leaves no node: what it takes has its own name
    graph.nodes[-1].output[0] = name
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
        if array.nbytes <= SMALL_TENSOR:
            lean.graph.initializer.append(numpy_helper.from_array(array, name))
        else:
            element = helper.np_dtype_to_tensor_dtype(array.dtype)
            lean.graph.input.append(helper.make_tensor_value_info(name, element, array.shape))
    onnx.checker.check_model(lean, full_check=True)
    shapes = onnx.shape_inference.infer_shapes(lean, strict_mode=True, data_prop=True)
    proto.graph.value_info.extend(shapes.graph.value_info)


def _write(path: Path, proto: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> Path:
    """Write the file with its weights, or with those beside it where protobuf cannot hold them."""
    if sum(array.nbytes for array in weights.values()) <= LARGEST_FILE:
        proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    else:
        beside = path.with_name(f"{path.name}.data")
        end = 0
        for name, array in weights.items():
            if array.nbytes <= SMALL_TENSOR:
                proto.graph.initializer.append(numpy_helper.from_array(array, name))
                continue
            start = -(-end // ALIGNMENT) * ALIGNMENT
            end = start + array.nbytes
            element = helper.np_dtype_to_tensor_dtype(array.dtype)
            tensor = TensorProto(name=name, data_type=element, dims=array.shape, data_location=TensorProto.EXTERNAL)
            for key, value in (("location", beside.name), ("offset", start), ("length", array.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            proto.graph.initializer.append(tensor)
        write_atomically(beside, _pieces(array for array in weights.values() if array.nbytes > SMALL_TENSOR))
    return write_atomically(path, proto.SerializeToString(deterministic=True))


def _pieces(arrays: Iterable[np.ndarray]) -> Iterator[bytes | memoryview]:
    """The arrays' bytes, each from a multiple of `ALIGNMENT` on."""
    end = 0
    for array in arrays:
        yield bytes(-end % ALIGNMENT)
        yield array.reshape(-1).view(np.uint8).data
        end += -end % ALIGNMENT + array.nbytes


def _probabilities(graph: Graph, value: str, output: tuple[int, ...], dtype: Any) -> str:
    loss = loss_of(output)
    if loss == "squared_error":
        raise UserError(f"softmax=True is for class scores; this network gives images of shape {output}")
    if loss == "cross_entropy":
        return graph.add("Softmax", [value], axis=1)
    one = graph.add("Sigmoid", [value])
    unit = graph.constant("one", np.asarray(1, dtype))
    return graph.add("Concat", [graph.add("Sub", [unit, one]), one], BOTH, axis=1)


def _laid_out(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    return (shape[2], *shape[:2]) if len(shape) == 3 and layout == "NCHW" else shape
