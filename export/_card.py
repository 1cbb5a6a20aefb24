"""The model card of a run's winner: README.md in the form that Hugging Face reads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from export._compare import ParityTable
from export._onnx_about import describe_input, describe_output
from flaxvision._text import data_name, visible
from flaxvision.data import Dataset
from flaxvision.data.licenses import license_of
from flaxvision.layers import Chain
from flaxvision.models import count_parameters
from flaxvision.report import formats
from flaxvision.report.confusion import confused_pairs, examples_of, of_winner
from flaxvision.report.tables import markdown_table, markdown_text, results_markdown
from flaxvision.sweep.results import SweepResult
from flaxvision.training.confusion import confusion_matrix
from flaxvision.training.losses import loss_of
from flaxvision.training.metrics import SHOWN_METRICS

MATRIX = 20  # up to so many classes the whole confusion matrix is shown
CELLS = 30  # up to so many cells the whole table is
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # of Pillow, by channels
FITS = {
    "crop": "scaled until they cover it, and cut to its middle",
    "pad": "scaled until they fit into it, with black around them",
    "stretch": "scaled to it, whatever their proportions",
}
WHAT = {
    "model.onnx": "for use: {takes} in, {gives} out",
    "network.onnx": "the network alone, scaled numbers in: one node a layer, tensors named as in PyTorch",
    "torch.safetensors": "PyTorch's `state_dict`",
    "model.keras": "for Keras 3, channels last: {pixels}the network's own outputs",
    "flaxvision.safetensors": "for flaxvision: `fv.load_model`, to go on training",
    "example.npz": "inputs of the test set with the outputs that JAX computes",
    "check.py": "checks a file or another runtime against the example",
    "parity.md": "the same network in other runtimes, on every test image",
    "parity.json": "the same for programs",
}


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Card:
    """What a card tells."""

    result: SweepResult
    dataset: Dataset
    model: Chain
    trial: Mapping[str, Any]  # the winner's settings
    parity: ParityTable | None
    files: tuple[str, ...]  # the names of those beside it

    def markdown(self) -> str:
        """The whole card."""
        return _template().render(card=self, about=self._about(), front=self._front())

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, or their numbers; () without classes."""
        if loss_of(self.model.output_shape) == "squared_error":
            return ()
        return self.model.classes or tuple(map(str, range(max(self.model.output_shape[0], 2))))

    @property
    def images(self) -> bool:
        """Whether it takes images, not points."""
        return len(self.model.input_shape) == 3

    @property
    def scores(self) -> dict[str, float]:
        """The winner's metrics on examples that it was not trained on."""
        final = self.result.winner.final if self.result.winner else {}
        names = [metric for metric in SHOWN_METRICS if not metric.startswith("train_")]
        return {metric: value for metric in names if (value := final.get(metric)) is not None}

    def _front(self) -> dict[str, str]:
        """The values of the front matter; JSON is YAML."""
        task = "image-classification" if self.images else "tabular-classification"
        metrics = [
            {"type": "accuracy" if metric == "test_top1" else metric, "name": formats.metric_name(metric, unit=False)}
            | {"value": value}
            for metric, value in self.scores.items()
        ]
        name = data_name(self.dataset.name)
        dataset = {"type": name, "name": name}
        task = task if self.classes else "image-to-image"
        results = [{"task": {"type": task}, "dataset": dataset, "metrics": metrics}]
        values = {
            "library_name": "onnx",
            "pipeline_tag": task,
            "tags": ["flaxvision", "jax", self.model.kind],
            "datasets": [name],
            "model-index": [{"name": self.result.name, "results": results}],
        }
        return {key: visible(json.dumps(value, ensure_ascii=False)) for key, value in values.items()}

    def _about(self) -> dict[str, Any]:
        model, result, dataset = self.model, self.result, self.dataset
        sizes = {"shape": model.input_shape, "mode": MODES.get(model.input_shape[-1], "") if self.images else ""}
        dims = ("N", *_first(model.input_shape))
        takes, gives = (
            describe_input(model, dims, "NCHW", self.images),
            describe_output(model, ("N", *_first(_outputs(model))), "NCHW", bool(self.classes)),
        )
        words = {
            "takes": "pixels" if self.images else "numbers",
            "gives": "probabilities" if self.classes else "images",
            "pixels": "pixels in, " if self.images else "",
        }
        return sizes | {
            "kind": markdown_text(model.kind),
            "data": markdown_text(data_name(dataset.name)),
            "title": markdown_text(result.title),
            "where": markdown_text(self._where()),
            "seeds": next((cell.n for cell in result.cells if result.winner in cell.outcomes), 1),
            "parameters": f"{count_parameters(model):,}",
            "does": self._does(),
            "takes": markdown_text(takes),
            "gives": markdown_text(gives),
            "formula": model.preprocess.formula,
            "resized": self._resized(),
            "flipped": bool(self.trial.get("test_time_flip")),
            "files": [(name, WHAT[name].format(**words)) for name in WHAT if name in self.files],
            "classes": markdown_text(self._classes()),
            "script_classes": _in_script(self.classes),
            "counts": ", ".join(f"{count:,} {split}" for split, count in dataset.source.counts),
            "notes": [markdown_text(note) for note in (dataset.source.note, *dataset.source.notes) if note],
            "license": license_of(dataset),
            "scores": [
                f"{formats.metric_name(m, unit=False)} {formats.with_unit(m, v)}" for m, v in self.scores.items()
            ],
            "table": self._table(),
            "confusion": "\n\n".join(self._confusion()),
            "parity": self.parity.markdown() if self.parity else "",
            "versions": ", ".join(
                f"{name} {version}" for name, version in result.provenance.get("versions", {}).items()
            ),
            "device": markdown_text(str(result.provenance.get("device", ""))),
            "date": result.provenance.get("date", ""),
            "command": self._command().replace("`", "'"),
        }

    def _where(self) -> str:
        """The winner's cell in words."""
        cell = self.result.winner.cell if self.result.winner else ()
        return ", ".join(f"{key} {data_name(value) if key == 'dataset' else value}" for key, value in cell)

    def _command(self) -> str:
        """What filled the table, without the paths of one's own data."""
        typed = str(self.result.provenance.get("command", ""))
        for name in {self.dataset.name, *(cell.where.get("dataset", "") for cell in self.result.cells)} - {""}:
            typed = typed.replace(name, data_name(name))
        return typed

    def _does(self) -> str:
        shape, classes = self.model.input_shape, len(self.classes)
        what = f"images of {shape[0]} x {shape[1]} pixels" if self.images else f"points of {shape[0]} numbers"
        channels = f" and {shape[2]} channel{'s' * (shape[2] != 1)}" if self.images else ""
        return f"classifies {what}{channels} into {classes} classes" if classes else f"maps {what}{channels} to images"

    def _classes(self) -> str:
        """Their numbers and names."""
        if self.classes == tuple(map(str, range(len(self.classes)))):
            return f"0 to {len(self.classes) - 1}"
        return ", ".join(f"{i}: {name}" for i, name in enumerate(self.classes))

    def _resized(self) -> str:
        height, width, _ = self.model.input_shape if self.images else (0, 0, 0)
        if not self.images:
            return ""
        if not self.dataset.name.startswith("images:"):
            return f"The training images have {height} x {width} pixels as they are."
        fit = self.trial.get("fit") or "crop"
        return f'Images of other sizes than {height} x {width} were {FITS[fit]} (`fit = "{fit}"`): do the same.'

    def _table(self) -> str:
        """The sweep's table, its headings below the card's own."""
        if len(self.result.cells) > CELLS:
            return f"The table has {len(self.result.cells)} cells: see results.csv of the run."
        _, _, text = results_markdown(_as_handed_on(self.result)).partition("\n")
        return text.partition("\n## The data")[0].strip()

    def _confusion(self) -> Iterator[str]:
        found = of_winner(self.result)
        if found is None:
            return
        pairs, _, names = found
        names = [markdown_text(name) for name in names]
        if len(names) <= MATRIX:
            matrix = confusion_matrix(pairs, len(names))
            rows = [[f"**{name}**", *map(int, row)] for name, row in zip(names, matrix, strict=True)]
            yield "Rows are the true classes, columns the predicted ones."
            yield markdown_table(["", *names], rows, labels=1)
        elif worst := confused_pairs(pairs):
            rows = [[names[i], names[j], n, examples_of(pairs, i)] for i, j, n in worst]
            yield "The most frequent errors:"
            yield markdown_table(["class", "taken for", "how often", "of"], rows, labels=2)
        else:
            yield "No errors."


def _as_handed_on(result: SweepResult) -> SweepResult:
    """A table that names data as the card does; unless folders in different places then are called the same."""
    cells = [
        dataclasses.replace(cell, where={k: data_name(v) if k == "dataset" else v for k, v in cell.where.items()})
        for cell in result.cells
    ]
    told = {(cell.stage, *cell.where.items()) for cell in cells}
    return dataclasses.replace(result, cells=tuple(cells)) if len(told) == len(cells) else result


def _first(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[-1], *shape[:-1])


def _outputs(model: Chain) -> tuple[int, ...]:
    """The shape of an output; two probabilities of one score."""
    output = model.output_shape
    return (max(output[0], 2),) if len(output) == 1 else output


def _in_script(names: tuple[str, ...]) -> str:
    """A list in JavaScript, within HTML within Markdown."""
    text = visible(json.dumps(names, ensure_ascii=False))
    return text.replace("<", r"\u003c").replace("`", r"\u0060")


def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    options: dict[str, Any] = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(
        loader=PackageLoader("export", ""), autoescape=False, keep_trailing_newline=True, **options
    )
    return environment.get_template("card.md.jinja")
