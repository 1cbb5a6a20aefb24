"""Files of networks for `fuzzed_files`."""

from __future__ import annotations

import io
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from file_formats import Format
from mutations import Random, damaged, odd_safetensors, odd_value, odd_zip

import flaxvision as fv


def _small() -> Any:
    return fv.models.create("lenet5", input_shape=(28, 28, 1), num_classes=3)


def _files_of(write: Callable[[Path], object], suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{suffix}"
        write(path)
        return path.read_bytes()


def _weights() -> Format:
    models = [fv.models.create("mlp", input_shape=(8, 8, 1), num_classes=3, hidden=[4]), _small()]
    samples = tuple(_files_of(lambda path, m=model: fv.save_model(m, path), ".safetensors") for model in models)
    return Format("weights", ".safetensors", samples, fv.load_model, odd_safetensors)


def _own_onnx() -> Format:
    import onnx

    import export

    models = [fv.models.create("mlp", input_shape=(8, 8, 1), num_classes=3, hidden=[4]), _small()]
    samples = tuple(_files_of(lambda path, m=model: export.to_onnx(m, path), ".onnx") for model in models)

    def deep(random: Random, sample: bytes) -> bytes:
        proto = onnx.load_from_string(sample)
        for entry in proto.metadata_props:
            if entry.key == "flaxvision.model":
                entry.value = json.dumps(odd_value(random, json.loads(entry.value)))
        return proto.SerializeToString()

    return Format("own_onnx", ".onnx", samples, fv.models.from_onnx, deep, share=0.7)


def _foreign_onnx() -> Format:
    import onnx

    import export

    models = [fv.models.create("mlp", input_shape=(8, 8, 1), num_classes=3, hidden=[4]), _small()]
    samples = []
    for model in models:
        proto = onnx.load_from_string(_files_of(lambda path, m=model: export.to_onnx(m, path), ".onnx"))
        del proto.metadata_props[:]
        samples.append(proto.SerializeToString())

    def deep(random: Random, sample: bytes) -> bytes:
        from google.protobuf import json_format

        proto = onnx.load_from_string(sample)
        shapes = {each.name: list(each.dims) for each in proto.graph.initializer}
        value = odd_value(random, [json_format.MessageToDict(node) for node in proto.graph.node] + [shapes])
        try:
            nodes = [json_format.ParseDict(node, onnx.NodeProto()) for node in value[:-1]]
            del proto.graph.node[:]
            proto.graph.node.extend(nodes)
            for each in proto.graph.initializer:
                each.dims[:] = value[-1].get(each.name, each.dims)
        except Exception:  # no graph can say that
            return damaged(random, sample)
        return proto.SerializeToString()

    return Format("foreign_onnx", ".onnx", tuple(samples), fv.models.from_onnx, deep, share=0.2)


def _torch() -> Format:
    import torch

    import export

    model = _small()
    twin = export.to_torch(model)
    samples = []
    for legacy in (False, True):
        with io.BytesIO() as file:
            torch.save({"model": twin.state_dict(), "epoch": 3}, file, _use_new_zipfile_serialization=not legacy)
            samples.append(file.getvalue())

    def deep(random: Random, sample: bytes) -> bytes:
        if not sample.startswith(b"PK"):
            return damaged(random, sample)
        return odd_zip(random, sample, lambda random, name, content: damaged(random, content))

    return Format("torch", ".pt", tuple(samples), lambda path: export.from_torch(path, model), deep)


def _torch_tensors() -> Format:
    import export

    model = _small()
    sample = _files_of(lambda path: export.save_torch(model, path), ".safetensors")
    return Format(
        "torch_tensors", ".safetensors", (sample,), lambda path: export.from_torch(path, model), odd_safetensors
    )


def _keras() -> Format:
    import export

    model = fv.models.create("mlp", input_shape=(8, 8, 1), num_classes=3, hidden=[4])
    sample = _files_of(lambda path: export.to_keras(model, path), ".keras")

    def member(random: Random, name: str, content: bytes) -> bytes:
        if name.endswith(".json"):
            return json.dumps(odd_value(random, json.loads(content))).encode()
        return damaged(random, content)

    def read(path: Path) -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return fv.models.from_keras(path)

    return Format("keras", ".keras", (sample,), read, lambda r, s: odd_zip(r, s, member), share=0.1)


MAKERS = (_weights, _own_onnx, _foreign_onnx, _torch, _torch_tensors, _keras)
