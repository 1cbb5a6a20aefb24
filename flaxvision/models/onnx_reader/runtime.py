"""What another runtime gives for a graph: onnxruntime, or else onnx's own reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx.external_data_helper import load_external_data_for_model

from flaxvision._onnxruntime import onnxruntime
from flaxvision.errors import UserError
from flaxvision.models.onnx_reader.file import Graph

QUIET = 4  # onnxruntime's level of fatal errors alone


def run(path: Path, graph: Graph, inputs: np.ndarray) -> np.ndarray:
    """The output of a graph for inputs in its own order of axes.

    Raises:
        UserError: If neither runtime gives one.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    load_external_data_for_model(proto, str(path.parent))
    reasons = []
    for outputs in (_onnxruntime, _reference):
        try:
            return outputs(proto, {graph.entry: inputs})
        except Exception as error:  # of many classes of theirs
            reasons.append(" ".join(str(error).split())[:150])
    raise UserError(f"{path} cannot be run, so that nothing tells whether it is read rightly ({'; '.join(reasons)})")


def _onnxruntime(proto: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    runtime = onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = QUIET
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0])


def _reference(proto: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    from onnx.reference import ReferenceEvaluator

    outputs = ReferenceEvaluator(proto).run(None, inputs)
    assert isinstance(outputs, list)
    return np.asarray(outputs[0])
