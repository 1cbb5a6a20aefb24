"""Trained weights come home: plain PyTorch and onnxruntime, without flaxvision.

    python home.py networks.py ResidualNet RUN/winner/torch.safetensors RUN/winner/network.onnx images.npz

Loads the weights strictly and compares the module's outputs on images with our own and the ONNX file's.
"""

import importlib.util
import json
import sys

import numpy as np
import onnxruntime
import torch
from safetensors.torch import load_file


def main(file, name, weights, graph, images):
    spec = importlib.util.spec_from_file_location("networks", file)
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    module = getattr(networks, name)()
    module.load_state_dict(load_file(weights), strict=True)
    with np.load(images) as held:
        pixels, ours, labels = held["pixels"], held["outputs"], held["labels"]  # (N, H, W, C) as the network takes it
    x = torch.tensor(pixels).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        outputs = module.eval()(x).numpy()
    session = onnxruntime.InferenceSession(graph)
    (onnx,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    print(
        json.dumps(
            {
                "images": len(x),
                "ours": float(np.abs(outputs - ours).max()),
                "onnx": float(np.abs(outputs - onnx).max()),
                "largest": float(np.abs(outputs).max()),
                "top1": float((outputs.argmax(1) == labels).mean()),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
