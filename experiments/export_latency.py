"""Is our ONNX file as fast as the one that `torch.onnx.export` writes of the same network?

    pip install torch==2.13.0 onnxscript
    python experiments/export_latency.py

Exports one VGG-19 with our exporter and with both of PyTorch's (`dynamo=True` and `dynamo=False`), checks that the
files give the same outputs, and times them in onnxruntime, call by call in turn: 20 interleaved runs after 3 to warm
up, each the mean of several calls. About one minute on 2 CPU cores; `--quick` takes a small network.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from pathlib import Path

import jax
import numpy as np
import onnxruntime
import torch
from common import parser_of, write_page

import export
import flaxvision as fv
from flaxvision.layers import BatchNorm, Chain, Context
from flaxvision.report import markdown_table

RUNS, WARM_UP = 20, 3
CALLS = {1: 16, 64: 1}  # calls in a run, by batch size
PASSES = 5  # in training mode, for BatchNorm's statistics
ALIVE = 1e-3  # the outputs' standard deviation over the batch


def main(arguments: list[str] | None = None) -> None:
    options = parser_of("export_latency", __doc__, "tiny_cnn in place of vgg19").parse_args(arguments)
    name = "tiny_cnn" if options.quick else "vgg19"

    with tempfile.TemporaryDirectory() as folder:
        sessions = {
            exporter: onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            for exporter, path in files(name, Path(folder)).items()
        }
    sections = [f"## {name}, batch {batch}\n\n{table(sessions, batch)}" for batch in CALLS]
    print("\n".join(sections))
    heading = "Latency of ONNX files in onnxruntime"
    write_page(options, "export_latency", heading, sections, ("torch", "onnxruntime"))


def files(name: str, folder: Path) -> dict[str, Path]:
    """The ONNX file of every exporter, each with a batch of any size."""
    model = with_statistics(fv.models.create(name))
    twin = export.to_torch(model).eval()
    height, width, channels = model.input_shape
    example = torch.zeros(2, channels, height, width)
    paths = {"flaxvision": export.to_onnx(model, folder / "flaxvision.onnx")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both of PyTorch's exporters warn of their own deprecations
        legacy = paths["torch.onnx.export(dynamo=False)"] = folder / "legacy.onnx"
        batch = {"x": {0: "batch"}}
        torch.onnx.export(twin, (example,), legacy, dynamo=False, input_names=["x"], dynamic_axes=batch)
        try:
            dynamo = folder / "dynamo.onnx"
            torch.onnx.export(twin, (example,), dynamo, dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},))
            paths["torch.onnx.export(dynamo=True)"] = dynamo
        except ImportError:
            print("dynamo=True is left out: pip install onnxscript")
    return paths


def with_statistics(model: Chain) -> Chain:
    """The model with BatchNorm statistics from training-mode passes, of which a few do with a smaller momentum."""
    norms = [layer for layer in model.layers if isinstance(layer, BatchNorm)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.3
    random = np.random.default_rng(1)
    for number in range(PASSES if norms else 0):
        x = random.standard_normal((32, *model.input_shape)).astype(np.float32)
        model(x, Context(train=True, key=jax.random.key(number)))
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    return model


def table(sessions: dict[str, onnxruntime.InferenceSession], batch: int) -> str:
    """Median latency of each session, and its ratio to ours."""
    shape = [batch, *sessions["flaxvision"].get_inputs()[0].shape[1:]]
    inputs = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    outputs = {name: run(session, inputs) for name, session in sessions.items()}
    if batch > 1:
        assert all(values.std(axis=0).mean() > ALIVE for values in outputs.values())
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(WARM_UP + RUNS):
        for name, session in sessions.items():
            start = time.perf_counter()
            for _ in range(CALLS[batch]):
                run(session, inputs)
            seconds[name].append((time.perf_counter() - start) / CALLS[batch])
    rows = []
    ours = float(np.median(seconds["flaxvision"][WARM_UP:]))
    for name, values in seconds.items():
        low, median, high = np.percentile(values[WARM_UP:], [25, 50, 75])
        difference = np.abs(outputs[name] - outputs["flaxvision"]).max()
        assert difference <= 1e-4 * max(1.0, np.abs(outputs["flaxvision"]).max()), name
        spread = f"{1e3 * low:.2f}–{1e3 * high:.2f}"
        rows.append((name, f"{1e3 * median:.2f}", spread, f"{ours / median:.3f}", f"{difference:.1e}"))
    header = ("exporter", "median, ms", "25–75 %, ms", "ours / this", "max abs. difference")
    return markdown_table(header, rows, labels=1) + "\n"


def run(session: onnxruntime.InferenceSession, inputs: np.ndarray) -> np.ndarray:
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]


if __name__ == "__main__":
    main()
