"""What a graph computes of constants and shapes, before any example is given: by numpy, within a limit of memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from flaxvision.errors import UserError
from flaxvision.models.onnx_reader.nodes import Node

MOST = 2**28  # numbers of a constant that is computed: 1 GiB
Array = np.ndarray
Fold = Callable[[Node, Sequence[Array]], Array]


def bounded(node: Node, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape, if a constant may have it."""
    sizes = tuple(int(size) for size in shape)
    if min(sizes, default=0) < 0 or math.prod(sizes) > MOST:
        raise UserError(f"{node.where} makes a constant of shape {sizes}: up to {MOST:.3g} numbers are read")
    return sizes


def fold(node: Node, inputs: Sequence[Array]) -> Array | None:
    """What a node makes of constants; None for an operator outside the table."""
    known = FOLDS.get(node.op)
    return None if known is None else np.asarray(known(node, inputs))  # numpy makes scalars of arrays without axes


def constant(node: Node) -> Array:
    """The value of a Constant node."""
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    for name, value in node.attributes.items():
        if name == "value" and isinstance(value, onnx.TensorProto):
            return numpy_helper.to_array(value)
        if name in kinds:
            return np.asarray(value, kinds[name])
    raise UserError(f"{node.where} is a Constant of {', '.join(node.attributes) or 'nothing'}: give one of numbers")


def axes_of(node: Node, inputs: Sequence[Array], position: int, rank: int) -> tuple[int, ...] | None:
    """The axes of an attribute, or of an input as later operator sets have it, counted from the front; None: none."""
    if len(inputs) <= position and "axes" not in node.attributes:
        return None
    given = inputs[position].ravel().tolist() if len(inputs) > position else list(node.wholes("axes"))
    axes = sorted({int(axis) + (rank if axis < 0 else 0) for axis in given})
    if len(axes) != len(given) or (axes and not 0 <= axes[0] <= axes[-1] < rank):
        raise UserError(f"{node.where}, a {node.op}, names axes {given} of {rank}: export the model again")
    return tuple(axes)


def _both(function: Callable[[Array, Array], Array]) -> Fold:
    def compute(node: Node, inputs: Sequence[Array]) -> Array:
        a, b = inputs
        bounded(node, np.broadcast_shapes(a.shape, b.shape))
        return np.asarray(function(a, b))

    return compute


def _each(function: Callable[[Array], Array]) -> Fold:
    return lambda node, inputs: np.asarray(function(inputs[0]))


def _divided(a: Array, b: Array) -> Array:
    """Quotients; of whole numbers cut towards zero."""
    if not np.issubdtype(a.dtype, np.integer):
        return np.divide(a, b)
    return (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype)


def _gather(node: Node, inputs: Sequence[Array]) -> Array:
    data, indices = inputs
    axis = node.whole("axis", 0)
    bounded(node, (*data.shape[:axis], *indices.shape, *data.shape[axis:][1:]))
    return np.take(data, indices.astype(np.int64), axis)


def _unsqueeze(node: Node, inputs: Sequence[Array]) -> Array:
    rank = inputs[0].ndim + len(inputs[1].ravel() if len(inputs) > 1 else node.wholes("axes"))
    return np.expand_dims(inputs[0], axes_of(node, inputs, 1, rank) or ())


def _squeeze(node: Node, inputs: Sequence[Array]) -> Array:
    return np.squeeze(inputs[0], axes_of(node, inputs, 1, inputs[0].ndim))


def _slice(node: Node, inputs: Sequence[Array]) -> Array:
    data, *given = inputs
    if given:
        starts, ends, *rest = (each.ravel().tolist() for each in given)
    else:
        starts, ends, rest = list(node.wholes("starts")), list(node.wholes("ends")), []
        rest = [list(node.wholes("axes"))] if "axes" in node.attributes else []
    axes = rest[0] if rest else range(len(starts))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    parts = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        parts[axis] = slice(start, None if step < 0 and end < -(2**31) else end, step)
    return data[tuple(parts)]


def _reshape(node: Node, inputs: Sequence[Array]) -> Array:
    data, shape = inputs
    sizes = shape.ravel().tolist()
    kept = [data.shape[i] if size == 0 and not node.whole("allowzero", 0) else size for i, size in enumerate(sizes)]
    return data.reshape(kept)


def _cast(node: Node, inputs: Sequence[Array]) -> Array:
    return inputs[0].astype(onnx.helper.tensor_dtype_to_np_dtype(node.whole("to", 1)))


def _constant_of_shape(node: Node, inputs: Sequence[Array]) -> Array:
    value = node.attributes.get("value")
    number = numpy_helper.to_array(value).ravel() if isinstance(value, onnx.TensorProto) else np.zeros(1, np.float32)
    return np.broadcast_to(number[0], bounded(node, inputs[0].ravel().tolist()))  # takes no memory


def _expand(node: Node, inputs: Sequence[Array]) -> Array:
    data, shape = inputs
    return np.broadcast_to(data, bounded(node, np.broadcast_shapes(data.shape, tuple(shape.ravel().tolist()))))


def _range(node: Node, inputs: Sequence[Array]) -> Array:
    start, end, step = (each.item() for each in inputs)
    bounded(node, [max(0, math.ceil((end - start) / step))])
    return np.arange(start, end, step, dtype=inputs[0].dtype)


def _concat(node: Node, inputs: Sequence[Array]) -> Array:
    return np.concatenate(list(inputs), node.whole("axis", 0))


def _reduced(function: Callable[..., Array]) -> Fold:
    def compute(node: Node, inputs: Sequence[Array]) -> Array:
        axes = axes_of(node, inputs, 1, inputs[0].ndim)
        return np.asarray(function(inputs[0], axis=axes, keepdims=bool(node.whole("keepdims", 1))))

    return compute


def _where(node: Node, inputs: Sequence[Array]) -> Array:
    bounded(node, np.broadcast_shapes(*(each.shape for each in inputs)))
    return np.where(*inputs)


def _flatten(node: Node, inputs: Sequence[Array]) -> Array:
    axis = node.whole("axis", 1) % (inputs[0].ndim + 1)
    return inputs[0].reshape(math.prod(inputs[0].shape[:axis]), -1)


def _transpose(node: Node, inputs: Sequence[Array]) -> Array:
    return inputs[0].transpose(node.wholes("perm", tuple(reversed(range(inputs[0].ndim)))))


FOLDS: dict[str, Fold] = {
    "Identity": _each(lambda a: a),
    "Cast": _cast,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Expand": _expand,
    "Size": _each(lambda a: np.asarray(a.size, np.int64)),
    "Shape": _each(lambda a: np.asarray(a.shape, np.int64)),
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Where": _where,
    "Add": _both(np.add),
    "Sub": _both(np.subtract),
    "Mul": _both(np.multiply),
    "Div": _both(_divided),
    "Pow": _both(lambda a, b: np.power(a, b).astype(a.dtype)),
    "Min": _both(np.minimum),
    "Max": _both(np.maximum),
    "Mod": _both(np.mod),
    "Equal": _both(np.equal),
    "Greater": _both(np.greater),
    "Less": _both(np.less),
    "And": _both(np.logical_and),
    "Or": _both(np.logical_or),
    "Not": _each(np.logical_not),
    "Neg": _each(np.negative),
    "Abs": _each(np.abs),
    "Sqrt": _each(np.sqrt),
    "Exp": _each(np.exp),
    "Log": _each(np.log),
    "Floor": _each(np.floor),
    "Ceil": _each(np.ceil),
    "Reciprocal": _each(np.reciprocal),
    "ReduceProd": _reduced(np.prod),
    "ReduceSum": _reduced(np.sum),
    "ReduceMean": _reduced(np.mean),
    "ReduceMax": _reduced(np.max),
    "ReduceMin": _reduced(np.min),
}
