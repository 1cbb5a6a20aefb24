"""One model in Flax, ONNX, PyTorch and Keras on the same images: do they agree, and how fast are they?"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from export._onnx import fed, to_onnx
from export._precision import calibration_of
from flaxvision._files import write_atomically
from flaxvision._onnxruntime import onnxruntime
from flaxvision._text import data_name, visible
from flaxvision.data import Dataset
from flaxvision.data.examples import check_labels
from flaxvision.errors import UserError
from flaxvision.layers import Chain
from flaxvision.models import save_model
from flaxvision.models._ending import ending_of, with_ending
from flaxvision.training.checks import as_model_takes
from flaxvision.training.losses import class_scores, loss_of
from flaxvision.training.scoring import Evaluator, batches

if TYPE_CHECKING:
    from flaxvision.report.tables import Section

NEAR_TIE = 1e-4  # two best scores closer than this: either may win in float32
REPEATS = 20
HEADER = ("runtime", "max abs. difference", "relative", "same arg max", "accuracy", "file", "batch 1", "batch 64")


@dataclasses.dataclass(frozen=True, slots=True)
class Parity:
    """One runtime beside Flax."""

    runtime: str
    max_absolute: float  # largest difference of an output from Flax's
    max_relative: float  # that, divided by the largest output of Flax
    agreeing: int | None  # images with Flax's arg max; None without classes
    accuracy: float | None  # share of images classified right; None without classes
    file_bytes: int
    latency_1_ms: float  # median of 20 calls with one image
    latency_64_ms: float  # and with 64


@dataclasses.dataclass(frozen=True, slots=True)
class ParityTable:
    """A model's runtimes on one test set."""

    model: str
    dataset: str
    images: int  # how many were compared
    near_ties: int  # images whose two best scores in Flax differ by less than 1e-4
    rows: tuple[Parity, ...]

    def markdown(self) -> str:
        """The table in Markdown."""
        from flaxvision.report.tables import markdown_table, markdown_text

        cells = [[runtime, *numbers] for runtime, *numbers in self.cells()]
        return f"{markdown_table(HEADER, cells, labels=1)}\n\n{markdown_text(self.caption())}\n"

    def section(self) -> Section:
        """The table as a section of a report."""
        from flaxvision.report.tables import Section

        return Section("The same network elsewhere", HEADER, tuple(self.cells()), (self.caption(),))

    def html(self) -> str:
        """The table as an HTML fragment."""
        return self.section().html()

    def cells(self) -> list[tuple[str, ...]]:
        """The rows as text."""
        return [
            (
                row.runtime,
                f"{row.max_absolute:.1e}",
                f"{row.max_relative:.1e}",
                "–" if row.agreeing is None else f"{row.agreeing:,} of {self.images:,}",
                "–" if row.accuracy is None else f"{100 * row.accuracy:.2f} %",
                f"{row.file_bytes / 1000:,.0f} kB",
                f"{row.latency_1_ms:.2f} ms",
                f"{row.latency_64_ms:.2f} ms",
            )
            for row in self.rows
        ]

    def caption(self) -> str:
        """What the numbers are."""
        return (
            f"{self.model} on {self.images:,} test images of {self.dataset}; {self.near_ties} of them have two best "
            f"scores within 1e-4. Latency: median of {REPEATS} calls in one process on this machine, PyTorch on one "
            "thread."
        )

    def write(self, folder: str | Path) -> list[Path]:
        """Write parity.md and parity.json."""
        files = {"parity.md": self.markdown(), "parity.json": json.dumps(dataclasses.asdict(self), indent=2) + "\n"}
        return [write_atomically(Path(folder) / name, text) for name, text in files.items()]


def compare(
    model: Chain, dataset: Dataset, *, onnx: str | Path | None = None, precisions: Sequence[str] = ()
) -> ParityTable:
    """Export a model to every runtime that is installed and run all of them on the test split.

    Args:
        model: A trained model.
        dataset: Its `test` split is used, every image.
        onnx: An ONNX file of the model to test, NCHW and without options; None exports one for the purpose.
        precisions: Of "float16" and "int8", those in which ONNX files are tested as well; int8 is calibrated on 512
            training images.

    Raises:
        UserError: If a layer cannot be exported, or the images or their classes are not those of the model.
    """
    images, labels = dataset.test.images, dataset.test.labels
    as_model_takes(model, images)
    loss = loss_of(model.output_shape)
    if loss != "squared_error":
        _check_classes(model, dataset)
    middle = 0.5 if ending_of(model) == "sigmoid" else 0.0  # where one class takes over from the other

    with tempfile.TemporaryDirectory() as folder:
        runtimes = _runtimes(model, Path(folder), None if onnx is None else Path(onnx))
        for precision in precisions:
            calibration = calibration_of(dataset) if precision == "int8" else None
            path = Path(folder) / f"{precision}.onnx"
            runtimes[f"ONNX {precision}"] = _in_onnx(to_onnx(model, path, precision=precision, calibration=calibration))
        outputs = {name: runtime.outputs(model, images) for name, runtime in runtimes.items()}
        expected = outputs["Flax"]
        scores = {name: None if loss == "squared_error" else _scores(loss, y - middle) for name, y in outputs.items()}
        best = scores["Flax"]
        scale = max(float(np.abs(expected).max()), float(np.finfo(np.float32).tiny))
        rows = []
        for name, runtime in runtimes.items():
            difference = float(np.abs(outputs[name] - expected).max())
            own = scores[name]
            rows.append(
                Parity(
                    name,
                    difference,
                    difference / scale,
                    None if own is None or best is None else int((own.argmax(1) == best.argmax(1)).sum()),
                    None if own is None else float((own.argmax(1) == labels).mean()),
                    runtime.file_bytes,
                    runtime.latency_ms(model, images[:1]),
                    runtime.latency_ms(model, np.resize(images, (64, *images.shape[1:]))),
                )
            )
    ties = 0
    if best is not None and best.shape[1] > 1:
        top = np.sort(best, axis=1)
        ties = int((top[:, -1] - top[:, -2] < NEAR_TIE).sum())
    return ParityTable(model.kind, data_name(dataset.name), len(labels), ties, tuple(rows))


def _check_classes(model: Chain, dataset: Dataset) -> None:
    """Raise `UserError` for labels that are none of the model's classes, or are numbers of other ones."""
    check_labels(f"{model.kind} on {dataset.name}", dataset.test.labels, max(model.output_shape[0], 2))
    both = itertools.zip_longest(map(visible, dataset.classes), map(visible, model.classes))
    for number, (theirs, ours) in enumerate(both):
        if model.classes and theirs != ours:
            raise UserError(
                f"class {number} of {dataset.name} is {theirs!r}, and of {model.kind} {ours!r}: give a data set of "
                "the same classes, in the same order"
            )


@dataclasses.dataclass(frozen=True, slots=True)
class _Runtime:
    call: Callable[[np.ndarray], np.ndarray]  # the network, images in and out in the runtime's own layout
    channels_first: bool
    file_bytes: int

    def enter(self, model: Chain, images: np.ndarray) -> np.ndarray:
        """What it takes in place of images as stored (N, H, W, C)."""
        return fed(model, images, "NCHW" if self.channels_first else "NHWC", normalize=False)

    def outputs(self, model: Chain, images: np.ndarray) -> np.ndarray:
        """What it gives for images as stored, with channels last."""
        given = np.concatenate([self.call(self.enter(model, images[rows])) for rows in batches(len(images))])
        return given.transpose(0, 2, 3, 1) if self.channels_first and given.ndim == 4 else given

    def latency_ms(self, model: Chain, images: np.ndarray) -> float:
        """Median time of a call, without scaling and change of layout."""
        x = self.enter(model, images)
        self.call(x)
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            self.call(x)
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds)) * 1e3


def _runtimes(model: Chain, folder: Path, onnx_file: Path | None) -> dict[str, _Runtime]:
    """Every runtime that is installed."""
    size = save_model(model, folder / "model.safetensors").stat().st_size
    runtimes = {"Flax": _Runtime(in_flax(model), False, size)}
    runtimes["ONNX"] = _in_onnx(onnx_file or to_onnx(model, folder / "model.onnx"))

    if importlib.util.find_spec("torch"):
        import torch

        from export._torch import save_torch, to_torch

        twin = to_torch(model)
        size = save_torch(model, folder / "torch.safetensors").stat().st_size

        def run_torch(x: np.ndarray) -> np.ndarray:
            # One thread: PyTorch's and XLA's waiting threads hinder each other badly within one process.
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                with torch.inference_mode():
                    return twin(torch.from_numpy(x)).numpy()
            finally:
                torch.set_num_threads(threads)

        runtimes["PyTorch"] = _Runtime(run_torch, True, size)
    if importlib.util.find_spec("keras"):
        from export._keras import to_keras

        keras_model: Any = to_keras(model, folder / "model.keras")
        size = (folder / "model.keras").stat().st_size

        def run_keras(x: np.ndarray) -> np.ndarray:
            # Keras promotes types and ranks freely, also where a user's JAX is strict.
            with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
                return np.asarray(keras_model.predict_on_batch(x))

        runtimes["Keras"] = _Runtime(run_keras, False, size)
    return runtimes


def in_flax(model: Chain) -> Callable[[np.ndarray], np.ndarray]:
    """The network itself, scaled images (N, H, W, C) in; with the activation that its PyTorch module ends in."""
    evaluator, state = Evaluator.of(with_ending(model))
    apply = jax.jit(lambda state, x: evaluator.network(state)(x, evaluator.context))
    return lambda x: np.asarray(apply(state, x))


def _in_onnx(path: Path) -> _Runtime:
    """A file in onnxruntime."""
    session = onnxruntime().InferenceSession(str(path), providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0].name
    return _Runtime(lambda x: session.run(None, {entry: x})[0], True, path.stat().st_size)


def _scores(loss: str, outputs: np.ndarray) -> np.ndarray:
    return np.asarray(class_scores(loss, jax.numpy.asarray(outputs)))
