"""A sweep's last step: the folder of its winner, which leaves the run."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from export._card import Card
from export._compare import ParityTable, compare, in_flax
from export._keras import to_keras
from export._onnx import fed, to_onnx
from export._precision import spread
from export._torch import save_torch
from flaxvision._files import WINNER, write_atomically
from flaxvision._interrupts import stop_if_asked
from flaxvision._text import data_name
from flaxvision.data import Dataset
from flaxvision.errors import UserError
from flaxvision.identity import checksum_of_split
from flaxvision.layers import Chain
from flaxvision.models.files import load_noted
from flaxvision.sweep import SweepResult, config_hash
from flaxvision.training import predict
from flaxvision.training.losses import loss_of

EXAMPLES = 8  # of the test set, in example.npz
T = TypeVar("T")


def _raise(name: str, error: Exception) -> None:
    raise error


def export_winner(
    result: SweepResult, dataset: Dataset, failed: Callable[[str, Exception], object] = _raise
) -> ParityTable | None:
    """Fill the folder `winner` of a run directory, beside the weights that the sweep put there.

    model.onnx takes pixels (uint8) and gives probabilities, network.onnx is the network alone; torch.safetensors is a
    `state_dict`, model.keras is there where Keras is installed; parity.md and parity.json compare the runtimes,
    example.npz and check.py check others, README.md is the model card.

    Args:
        result: The table, as `flaxvision.sweep.run` or `flaxvision.runs.open(DIR).result` gives it.
        dataset: The data set of the winner, for the comparison and the example.
        failed: Is told which file could not be made, and why; the others are made. By default the error is raised.

    Returns:
        The comparison; None if it failed.

    Raises:
        UserError: If there are no weights of the winner, the data set is another one, a layer cannot be exported, or
            the winner does not score what is on record.
    """
    folder = (result.directory / WINNER).parent
    model, notes = load_noted(result.directory / WINNER)
    _check_notes(notes, result, dataset)
    images, classes = len(model.input_shape) == 3, loss_of(model.output_shape) != "squared_error"
    metadata = about(notes)

    def attempt(name: str, step: Callable[[], T]) -> T | None:
        stop_if_asked()
        (folder / name).unlink(missing_ok=True)
        try:
            return step()
        except Exception as error:
            failed(f"winner/{name}", error)
            return None

    attempt("network.onnx", lambda: to_onnx(model, folder / "network.onnx", metadata=metadata))
    attempt(
        "model.onnx",
        lambda: to_onnx(model, folder / "model.onnx", normalize=images, softmax=classes, metadata=metadata),
    )
    attempt("torch.safetensors", lambda: save_torch(model, folder / "torch.safetensors"))
    if importlib.util.find_spec("keras"):
        attempt("model.keras", lambda: to_keras(model, folder / "model.keras", normalize=images))
    attempt("example.npz", lambda: write_example(model, dataset, folder / "example.npz"))
    script = resources.files("export").joinpath("_check.py").read_bytes()
    attempt("check.py", lambda: write_atomically(folder / "check.py", script))
    parity = attempt("parity.md", lambda: _compared(model, notes, dataset, folder))
    files = tuple(path.name for path in folder.iterdir())
    card = Card(result, dataset, model, notes.get("trial", {}), parity, files)
    attempt("README.md", lambda: write_atomically(folder / "README.md", card.markdown()))
    return parity


def _check_notes(notes: Mapping[str, Any], result: SweepResult, dataset: Dataset) -> None:
    """Raise `UserError` unless the weights are those of the result's winner, and the data set that of its training."""
    winner = result.winner.id if result.winner else "none"
    if config_hash(notes.get("trial", {})) != winner:  # as a resume leaves it that was interrupted
        raise UserError(
            f"the weights in {WINNER} are not those of the winner of what is there now ({winner}): flaxvision resume "
            f"{result.directory} ends the table and puts these there"
        )
    test = checksum_of_split(dataset.test)
    if notes.get("data", {}).get("test", test) != test:
        raise UserError(
            f"{dataset.name} is not the data set that the winner was trained on, or no longer what it was: its test "
            "split is another one; give that one, --dataset NAME, with --raw-dir or --data-dir where it lies elsewhere"
        )


def _compared(model: Chain, notes: Mapping[str, Any], dataset: Dataset, folder: Path) -> ParityTable:
    network = folder / "network.onnx"
    table = compare(model, dataset, onnx=network if network.exists() else None)
    check_accuracy(table, notes)
    table.write(folder)
    return table


def write_example(model: Chain, dataset: Dataset, path: Path) -> Path:
    """Write inputs of the test set, and what the network makes of them in JAX, as NumPy's archive.

    `input` and `output` are those of model.onnx, `network_input` and `network_output` those of network.onnx; `labels`
    are the true classes.
    """
    test = dataset.test[spread(len(dataset.test), EXAMPLES)]
    images, scaled = len(model.input_shape) == 3, fed(model, test.images, "NHWC", normalize=False)
    network = in_flax(model)(scaled)
    arrays = {
        "input": fed(model, test.images, "NCHW", normalize=images),
        "output": _first(predict(model, test.images)),
        "network_input": _first(scaled),
        "network_output": _first(network),
        "labels": test.labels,
    }
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return write_atomically(path, file.getvalue())


def _first(array: np.ndarray) -> np.ndarray:
    """Images with channels first."""
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if array.ndim == 4 else array


def check_accuracy(table: ParityTable, notes: Mapping[str, Any]) -> None:
    """Raise `UserError` unless the network gets as many images right as when it was trained.

    Images may differ whose best scores are nearly equal, or on which the runtimes differ. What was trained in another
    precision or scored with mirrored images is scored otherwise here.
    """
    trial, recorded = notes.get("trial", {}), notes.get("final", {}).get("test_top1")
    flax = next(row for row in table.rows if row.runtime == "Flax")
    if recorded is None or flax.accuracy is None or trial.get("test_time_flip"):
        return
    if trial.get("precision") in ("bfloat16", "float64"):
        return
    doubtful = max(table.near_ties, *(table.images - (row.agreeing or 0) for row in table.rows))
    if abs(flax.accuracy - recorded) * table.images > doubtful + 0.5:
        raise UserError(
            f"{WINNER} gets {100 * flax.accuracy:.2f} % of the test images right, and {100 * recorded:.2f} % are on "
            "record: its weights, its record or the data set are not what they were; train it again in another folder"
        )


def about(notes: Mapping[str, Any]) -> dict[str, object]:
    """The notes as metadata of an exported file: of a sweep's trial the data set, configuration hash and metrics."""
    entries = {key: value for key, value in notes.items() if key not in ("trial", "final")}
    if "trial" in notes:
        dataset = notes["trial"].get("dataset")
        entries["data set"] = None if dataset is None else data_name(dataset)
        entries["config hash"] = config_hash(notes["trial"])
        if notes["trial"].get("test_time_flip"):
            entries["metrics"] = "of the mean output for an image and its mirror image; the file is the network alone"
    return entries | notes.get("final", {})
