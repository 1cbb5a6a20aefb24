"""ONNX files into models: our own, exactly as they were, and those of other programs."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flaxvision._describe import digest
from flaxvision.errors import UserError, check_choice
from flaxvision.layers import Carried, Network
from flaxvision.models._state_dict import correspondence, state_dict
from flaxvision.models.files import assign, build_model, numbers_in, variables

if TYPE_CHECKING:
    import onnx

    from flaxvision.models.onnx_reader.file import Graph

DESCRIPTION = "flaxvision.model"  # the entry of a file's metadata from which our own models are built again
GRAPH = "flaxvision.graph"  # that of the checksums of their nodes and constants
BYTES = 2  # ONNX's number of uint8
_LOG = logging.getLogger("flaxvision")


def from_onnx(path: str | Path, *, input_shape: tuple[int, ...] | None = None, layout: str | None = None) -> Network:
    """The model of an ONNX file, its weights trainable again.

    A file that `to_onnx` wrote gives the model that it was, whatever the options; a folded BatchNorm stays folded, and
    Dropout comes back with rate 0, since an evaluation-mode graph does not hold it. If its nodes or constants were
    changed since, that is said, and it is read as any other file.

    A file that another program wrote is read operator by operator: PyTorch's, Keras's, or such as tf2onnx makes, with
    their Transposes. What scales the input becomes `model.preprocess`; a softmax at the end, or a sigmoid of one
    output, is left out, since `predict` applies it; both are said on standard error. Then the model's outputs are
    compared with those of onnxruntime on random examples, as in `from_keras`. A weight keeps its type, but half
    precision becomes float32.

    Args:
        path: The file, of operator set 9 to 24, with one input and one output.
        input_shape: Of one example, (H, W, C) or (D,), where the file leaves sizes open.
        layout: "NCHW" or "NHWC", of images in the file; None to tell from its nodes.

    Returns:
        The model. A layer is named after its weight or module, where the file has such names. A foreign file knows no
        class names: set `classes` where they matter.

    Raises:
        UserError: If the file is missing, damaged or no ONNX file; for an operator outside the vocabulary, with its
            node and what would do instead; and where the model would differ from the file.

    >>> import export, flaxvision as fv
    >>> path = export.to_onnx(fv.models.create("linear", num_classes=3), "three.onnx")
    >>> fv.models.from_onnx(path).output_shape
    (3,)
    """
    from flaxvision.models.onnx_reader.file import load

    path = Path(path)
    proto = load(path)
    about = {entry.key: entry.value for entry in proto.metadata_props}
    if DESCRIPTION in about:
        own = _own(path, proto, about)
        if own is not None:
            return own
        _LOG.warning(
            "%s was changed since flaxvision wrote it: read by its graph alone, as another program's", path.name
        )
    return _foreign(path, proto, input_shape, layout)


def nodes_checksum(graph: onnx.GraphProto) -> str:
    """Of a graph's nodes, and of what it takes and gives."""
    nodes = [node.SerializeToString(deterministic=True).hex() for node in graph.node]
    return digest([nodes, [value.name for value in (*graph.input, *graph.output)]])


def constants_checksum(initializers: Mapping[str, np.ndarray], weights: Collection[str]) -> str:
    """Of what a graph takes beside its input and the weights, such as the ends of a Clip."""
    constants = {name: array for name, array in initializers.items() if name not in weights}
    return digest({name: [str(a.dtype), a.shape, sha256(a.tobytes()).hexdigest()] for name, a in constants.items()})


def _own(path: Path, proto: onnx.ModelProto, about: Mapping[str, str]) -> Network | None:
    """The model of a file that `to_onnx` wrote; None where its graph is another one now."""
    from flaxvision.models.onnx_reader.file import array_of

    try:
        description = json.loads(about[DESCRIPTION])
    except ValueError as error:
        raise UserError(f"{path} is damaged: {DESCRIPTION} in its metadata is not valid JSON ({error})") from error
    nodes, _, constants = about.get(GRAPH, "").partition(" ")
    if nodes and nodes != nodes_checksum(proto.graph):
        return None
    given = {tensor.name: array_of(path, tensor) for tensor in proto.graph.initializer}
    model = build_model(description, str(path), numbers_in(given))
    tensors = state_dict(model)
    if constants and constants != constants_checksum(given, tensors):
        return None
    carried = {
        name for name, layer in model.named_layers() if isinstance(layer, Carried)
    }  # which a graph has no use for
    wanted = {name: array.shape for name, array in tensors.items() if name not in carried}
    for name, shape in wanted.items():  # one number per channel has axes of 1 in the graph
        if name in given and _wide(given[name].shape) == _wide(shape):
            given[name] = given[name].reshape(shape)
    wrong = [f"{name} is missing" for name in wanted if name not in given]
    wrong += [
        f"{name} has shape {given[name].shape}, not {shape}"
        for name, shape in wanted.items()
        if name in given and given[name].shape != shape
    ]
    if wrong:
        few = "; ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise UserError(f"{path} does not fit its own description: {few}; export the model again")
    ours = variables(model)
    pairs = [pair for pair in correspondence(model) if pair.name not in carried]
    found = {pair.variable: pair.from_torch(given[pair.name], ours[pair.variable].shape) for pair in pairs}
    assign(model, ours | found, str(path), keep_types=True)
    return model


def _wide(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _foreign(path: Path, proto: onnx.ModelProto, input_shape: tuple[int, ...] | None, layout: str | None) -> Network:
    """The network of another program's file."""
    import onnx

    from flaxvision.models.onnx_reader.file import graph_of
    from flaxvision.models.onnx_reader.patterns import joined
    from flaxvision.models.onnx_reader.read import LAYOUTS, layout_of, read
    from flaxvision.models.onnx_reader.runtime import run
    from flaxvision.models.reading.compare import check_same, examples

    if layout is not None:
        check_choice("layout", layout, LAYOUTS)
    graph = graph_of(path, proto)
    sizes = _sizes(path, graph, input_shape, layout)
    lies, told = (layout, True) if layout else layout_of(graph, sizes)
    network, reader, output = read(joined(graph), lies, sizes)
    if not told:
        reader.say(
            f"its images are taken as {'(H, W, C)' if lies == 'NHWC' else '(C, H, W)'}, {sizes}; layout= says so"
        )
    dtype = onnx.helper.tensor_dtype_to_np_dtype(graph.element)

    def theirs(inputs: np.ndarray) -> np.ndarray:
        x = inputs.transpose(0, 3, 1, 2) if len(sizes) == 3 and lies == "NCHW" else inputs
        given = run(path, graph, np.ascontiguousarray(x.reshape(len(x), *sizes)).astype(dtype))
        return given.transpose(0, 2, 3, 1) if output.layout.permutation == (0, 1, 2) else given

    count = graph.shape[0] or 3
    reader.check_memory(count)
    inputs = examples(network, count, whole=graph.element == BYTES)
    check_same(str(path), network, reader, theirs, inputs)
    if reader.said:
        _LOG.warning("%s: %s", path.name, "; ".join(reader.said))
    return network


def _sizes(path: Path, graph: Graph, input_shape: tuple[int, ...] | None, layout: str | None) -> tuple[int, ...]:
    """The sizes of one example in the file's order."""
    given = graph.shape[1:]
    if not 1 <= len(given) <= 3:
        raise UserError(
            f"{path} takes {('N', *given)}: images (N, C, H, W) or (N, H, W, C), or vectors (N, D) are read"
        )
    if input_shape is None:
        if None in given:
            raise UserError(f"{path} leaves open what it takes, {('N', *given)}: give input_shape=(H, W, C), or (D,)")
        return tuple(size for size in given if size is not None)
    ours = tuple(int(size) for size in input_shape)
    first = (ours[-1], *ours[:-1])
    orders = [each for each, name in ((first, "NCHW"), (ours, "NHWC")) if layout in (None, name)]
    orders += [ours[:-1]] if len(ours) == 3 and ours[-1] == 1 else []
    for sizes in orders:
        if len(sizes) == len(given) and all(b in (None, a) for a, b in zip(sizes, given, strict=True)):
            return sizes
    raise UserError(f"{path} takes {('N', *given)}, which is not input_shape={ours}: give that as (H, W, C), or (D,)")
