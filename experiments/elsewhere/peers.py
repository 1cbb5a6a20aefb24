"""What a runtime makes of an ONNX file, in a process that has the runtime and NumPy, and no flaxvision.

    python peers.py opencv FILE.onnx INPUT.npy OUTPUT.npy

Prints the runtime's version.
"""

from __future__ import annotations

import sys

import numpy as np


def in_onnxruntime(path: str, x: np.ndarray) -> tuple[np.ndarray, str]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0], onnxruntime.__version__


def in_opencv(path: str, x: np.ndarray) -> tuple[np.ndarray, str]:
    import cv2

    return _in_opencv(path, x, cv2.dnn.ENGINE_AUTO), cv2.__version__


def in_opencv_classic(path: str, x: np.ndarray) -> tuple[np.ndarray, str]:
    import cv2

    return _in_opencv(path, x, cv2.dnn.ENGINE_CLASSIC), cv2.__version__


def _in_opencv(path: str, x: np.ndarray, engine: int) -> np.ndarray:
    import cv2

    network = cv2.dnn.readNetFromONNX(path, engine=engine)
    network.setInput(x)
    return network.forward()


def in_openvino(path: str, x: np.ndarray) -> tuple[np.ndarray, str]:
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(x)[0], openvino.__version__.partition("-")[0]


if __name__ == "__main__":
    runtime, path, given, wanted = sys.argv[1:]
    outputs, version = globals()[f"in_{runtime}"](path, np.load(given))
    np.save(wanted, outputs)
    print(version)
