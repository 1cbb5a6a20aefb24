"""`flaxvision export onnx|torch|keras|winner|compare|trajectory`: exports and comparisons."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxvision.cli.parser import Call, Parser, add_data_options, positive
from flaxvision.cli.text import print_notes
from flaxvision.errors import UserError

if TYPE_CHECKING:
    from export import ParityTable, Trajectory
    from flaxvision.data import Dataset
    from flaxvision.layers import Chain

DESCRIPTION = "Export a trained model, or compare it across frameworks."
EXAMPLES = """\
{program} onnx RUN --normalize --softmax --precision int8
{program} compare RUN --precision float16 int8
{program} trajectory mlp --steps 50"""
OPSET = 17  # as `to_onnx`, whose module takes long to import
ONNX_OPTIONS = ("layout", "fold_batch_norm", "normalize", "softmax", "opset", "batch", "precision")
SUFFIXES = {"onnx": ".onnx", "torch": ".pt.safetensors", "keras": ".keras"}
PRECISIONS = ("float16", "int8")  # as `to_onnx`


def add_options(parser: Parser) -> None:
    """What may be typed."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)
    for verb, words in (
        ("onnx", "write an ONNX file"),
        ("torch", "write a PyTorch state_dict as safetensors"),
        ("keras", "write a Keras 3 file"),
        ("winner", "fill a run's folder winner: all of these, a model card, an example"),
        ("compare", "run Flax, ONNX, PyTorch and Keras on the test images"),
    ):
        command = verbs.add_parser(verb, help=words, description=words)
        add = command.add_argument
        add("source", metavar="RUN_OR_WEIGHTS", help="a run directory (its winner) or a weights file")
        if verb == "compare":
            _out(add, "folder for parity.md and parity.json (default: the run's folder winner)")
        elif verb != "winner":
            more = ", with the options in its name" if verb != "torch" else ""
            _out(add, f"file to write (default: beside the weights{more})")
        if verb in ("onnx", "keras"):
            add("--normalize", action="store_true", help="take pixels as they are stored, 0 to 255")
        if verb == "onnx":
            add("--layout", choices=("NCHW", "NHWC"), default="NCHW", help="order of the axes (default: NCHW)")
            add("--fold-batch-norm", action="store_true", help="fold BatchNorm into the layer before it")
            add("--softmax", action="store_true", help="give probabilities")
            words = f"operator set, 13 to 23 (default: {OPSET})"
            add("--opset", metavar="N", type=positive(int), default=OPSET, help=words)
            add("--batch", metavar="N", type=positive(int), help="examples of one call (default: any number)")
            add("--precision", choices=PRECISIONS, help="int8 is calibrated on training images")
        if verb == "compare":
            add("--precision", choices=PRECISIONS, nargs="+", default=(), help="ONNX files of it as well")
        if verb in ("onnx", "winner", "compare"):
            _data(command)
    command = verbs.add_parser("trajectory", help="train in Flax and PyTorch side by side")
    add = command.add_argument
    add("source", metavar="NETWORK", help="a network with a reference, such as mlp, or torch:file.py:Class")
    _data(command, default="glyphs")
    _out(add, "folder for trajectory.md and trajectory.json")
    add("--steps", metavar="N", type=positive(int), default=200, help="updates (default: 200)")
    words = "trainings of PyTorch in other summation orders (default: 5)"
    add("--orders", metavar="N", type=int, choices=range(100), default=5, help=words)
    add("--set", metavar="KEY=V", nargs="+", action="extend", default=[], help="settings of the recipe")


def run(options: argparse.Namespace, call: Call) -> int:
    """Export a network, or compare it."""
    if options.verb in SUFFIXES:
        print(_export(options))
        return 0
    if options.verb == "winner":
        return _winner(options)
    source = Path(options.source)
    beside = _load(options.source)[0].parent if options.verb == "compare" and source.is_dir() else None
    folder = _writable(options.out or beside)
    table = _compare(options) if options.verb == "compare" else _trajectory(options)
    print(table.markdown(), end="")
    if folder is not None:
        table.write(folder)
    return 0


def _export(options: argparse.Namespace) -> Path:
    import export
    from export._onnx_about import is_ours
    from export._winner import about

    source, model, notes = _load(options.source)
    path = options.out or source.with_name(_name(source, options))
    if options.verb == "onnx":
        settings = {name: getattr(options, name) for name in ONNX_OPTIONS}
        if options.precision == "int8":
            settings["calibration"] = export.calibration_of(_dataset(options, notes))
        metadata = {f"note: {key}" if is_ours(key) else key: value for key, value in about(notes).items()}
        export.to_onnx(model, path, **settings, metadata=metadata)
    elif options.verb == "torch":
        export.save_torch(model, path)
    else:
        export.to_keras(model, path, normalize=options.normalize)
    return path


def _name(source: Path, options: argparse.Namespace) -> str:
    """The file's name beside the weights; a graph with options has them in its name.

    So network.onnx, which parity.md vouches for, and model.onnx are replaced by none but their equals.
    """
    from flaxvision._files import WINNER

    winner = source.name == Path(WINNER).name
    if winner and options.verb == "torch":
        return "torch.safetensors"
    names = ("normalize", "softmax", "fold_batch_norm")
    chosen = [option for option in names if getattr(options, option, False)]
    stem = source.name.removesuffix(".safetensors")
    if winner:  # model.onnx takes pixels and gives probabilities, model.keras takes pixels
        ends = [name for name in names[:2] if hasattr(options, name)]
        whole = chosen[: len(ends)] == ends
        stem = "model" if whole else "network"
        chosen = chosen[len(ends) :] if whole else chosen
    if options.verb == "onnx":
        chosen += [options.layout] if options.layout != "NCHW" else []
        chosen += [f"opset{options.opset}"] if options.opset != OPSET else []
        chosen += [f"batch{options.batch}"] if options.batch else []
        chosen += [options.precision] if options.precision else []
    parts = [stem, *(["-".join(chosen).replace("_", "-").lower()] if chosen else [])]
    return ".".join(parts) + SUFFIXES[options.verb]


def _winner(options: argparse.Namespace) -> int:
    import export
    from flaxvision.runs import open as open_run

    run = open_run(Path(options.source))
    path, _, notes = _load(options.source)
    problems = []

    def failed(name: str, error: Exception) -> None:
        problems.append(name)
        print(f"{name}: {error}", file=sys.stderr)

    export.export_winner(run.result, _dataset(options, notes), failed)
    print(path.parent)
    return 3 if problems else 0


def _compare(options: argparse.Namespace) -> ParityTable:
    import export

    _, model, notes = _load(options.source)
    return export.compare(model, _dataset(options, notes), precisions=options.precision)


def _trajectory(options: argparse.Namespace) -> Trajectory:
    import export
    from flaxvision.data import load
    from flaxvision.sweep.overrides import parse_setting
    from flaxvision.training.recipe import from_dict

    settings = {key: values[0] for key, values in map(parse_setting, options.set)}
    dataset = load(options.dataset, raw_dir=options.raw_dir, data_dir=options.data_dir)
    print_notes(dataset.loading_notes)
    return export.trajectory(options.source, dataset, from_dict(settings), steps=options.steps, orders=options.orders)


def _load(source: str) -> tuple[Path, Chain, dict[str, Any]]:
    """The weights file of a run directory or path, its model, and what was noted with it."""
    from flaxvision._files import weights_in
    from flaxvision.models.files import load_noted

    path = weights_in(source)
    return path, *load_noted(path)


def _dataset(options: argparse.Namespace, notes: dict[str, Any]) -> Dataset:
    from flaxvision.sweep.config import DataConfig
    from flaxvision.sweep.files import DataFolders, GivenData
    from flaxvision.sweep.inputs import load_dataset

    settings = notes.get("trial", {})
    if options.dataset:  # of a winner the same examples at another place, taken as they were
        settings = {**(settings if options.verb == "winner" else {}), "dataset": options.dataset}
    if "dataset" not in settings:
        raise UserError(f"{options.source} does not say its data set: give --dataset NAME")
    given = GivenData.stored(Path(options.source))
    dataset = load_dataset(DataConfig.of(settings), DataFolders(options.raw_dir, options.data_dir, given))
    print_notes(dataset.loading_notes)
    return dataset


def _writable(folder: Path | None) -> Path | None:
    """The folder, tried before work that takes minutes."""
    try:
        if folder is not None:
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(
            f"cannot write in {folder}: {error.strerror}; give -o DIR, a folder that you can write"
        ) from error
    return folder


def _out(add: Callable[..., object], words: str) -> None:
    add("-o", "--out", metavar="PATH", type=Path, help=words)


def _data(command: Parser, default: str | None = None) -> None:
    words = "data set (default: the one of the training)"
    command.add_argument("--dataset", metavar="D", default=default, help=words)
    add_data_options(command)
