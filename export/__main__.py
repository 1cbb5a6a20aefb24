"""`python -m export onnx|torch|keras|compare|trajectory`: exports and comparisons from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxvision.errors import UserError
from flaxvision.sweep.cli import Parser, positive

if TYPE_CHECKING:
    from flaxvision.data import Dataset
    from flaxvision.layers import Chain

PROGRAM = "python -m export"
SUFFIXES = {"onnx": ".onnx", "torch": ".pt.safetensors", "keras": ".keras"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 for success, 2 for a mistake in what was given."""
    try:
        options = _parser().parse(list(sys.argv[1:] if arguments is None else arguments))
        if options.verb in SUFFIXES:
            return _export(options)
        return _compare(options) if options.verb == "compare" else _trajectory(options)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _export(options: argparse.Namespace) -> int:
    import export

    source, model, notes = _load(options.source)
    path = options.output or source.with_name(source.name.removesuffix(".safetensors") + SUFFIXES[options.verb])
    if options.verb == "onnx":
        export.to_onnx(
            model,
            path,
            layout=options.layout,
            fold_batch_norm=options.fold_batch_norm,
            normalize=options.normalize,
            softmax=options.softmax,
            metadata=notes,
        )
    elif options.verb == "torch":
        export.save_torch(model, path)
    else:
        export.to_keras(model, path)
    print(path)
    return 0


def _compare(options: argparse.Namespace) -> int:
    import export

    _, model, notes = _load(options.source)
    table = export.compare(model, _dataset(options, notes))
    print(table.markdown(), end="")
    if options.output is not None:
        table.write(_folder(options.output))
    return 0


def _trajectory(options: argparse.Namespace) -> int:
    import export
    from flaxvision.data import load
    from flaxvision.training.recipe import from_dict

    settings = dict(_setting(text) for text in options.set)
    dataset = load(options.dataset, raw_dir=options.raw_dir, data_dir=options.data_dir)
    table = export.trajectory(options.source, dataset, from_dict(settings), steps=options.steps)
    print(table.markdown(), end="")
    return 0


def _load(source: str) -> tuple[Path, Chain, dict[str, Any]]:
    """The weights file of a run directory or path, its model, and what was noted with it."""
    from flaxvision.models.files import assign, build_model, read

    path = Path(source)
    if path.is_dir():
        path = path / "winner.safetensors"
    tensors, about = read(path)
    model = build_model(about["model"])
    assign(model, tensors, str(path))
    return path, model, about["notes"]


def _dataset(options: argparse.Namespace, notes: dict[str, Any]) -> Dataset:
    from flaxvision.data import load

    trial = notes.get("trial", {})
    name = options.dataset or trial.get("dataset")
    if name is None:
        raise UserError(f"{options.source} does not say its data set: give --dataset NAME")
    own = {} if options.dataset else {key: trial[key] for key in ("limit", "size", "channels") if key in trial}
    return load(name, raw_dir=options.raw_dir, data_dir=options.data_dir, **own)


def _setting(text: str) -> tuple[str, Any]:
    from flaxvision.sweep.trials import parse_setting

    key, values = parse_setting(text)
    return key, values[0]


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise UserError(f"{path} is no folder: give one for parity.md and parity.json")
    return path


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description="Export a trained model, or compare it across frameworks.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)
    for verb, words in (
        ("onnx", "write an ONNX file"),
        ("torch", "write a PyTorch state_dict as safetensors"),
        ("keras", "write a Keras 3 file"),
        ("compare", "run Flax, ONNX, PyTorch and Keras on the test images"),
    ):
        add = verbs.add_parser(verb, help=words, description=words).add_argument
        add("source", metavar="RUN_OR_WEIGHTS", help="a run directory (its winner) or a weights file")
        place = "folder for parity.md and parity.json" if verb == "compare" else "where to write"
        add("-o", "--output", metavar="PATH", type=Path, help=place)
        if verb == "onnx":
            add("--layout", choices=("NCHW", "NHWC"), default="NCHW", help="order of the axes (default: NCHW)")
            add("--fold-batch-norm", action="store_true", help="fold BatchNorm into the layer before it")
            add("--normalize", action="store_true", help="take uint8 images")
            add("--softmax", action="store_true", help="give probabilities")
        if verb == "compare":
            _data(add)
    add = verbs.add_parser("trajectory", help="train in Flax and PyTorch side by side").add_argument
    add("source", metavar="NETWORK", help="a network with a reference, such as mlp")
    _data(add, default="glyphs")
    add("--steps", metavar="N", type=positive(int), default=200, help="updates (default: 200)")
    add("--set", metavar="KEY=V", nargs="+", action="extend", default=[], help="settings of the recipe")
    return parser


def _data(add: Any, default: str | None = None) -> None:
    add("--dataset", metavar="D", default=default, help="data set (default: the one of the training)")
    add("--raw-dir", metavar="DIR", help="folder of original data files (FLAXVISION_RAW_DIR)")
    add("--data-dir", metavar="DIR", help="folder of prepared data sets (FLAXVISION_DATA_DIR)")


if __name__ == "__main__":
    sys.exit(main())
