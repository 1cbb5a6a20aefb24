"""Training step by step in Flax and in the hand-written PyTorch references, on real data.

    python experiments/export_trajectories.py --raw-dir DATA

One initialisation, one batch order, the same optimiser; 200 steps (40 for report A's CNN) in float32 and float64. Some
10 minutes on 2 CPU cores; `--quick` takes two networks, drawn digits and 5 steps.
"""

from __future__ import annotations

from common import parser_of, write_page

import export
import flaxvision as fv

HEADING = """Flax and PyTorch, step by step

Relative differences of the loss of a step; the losses themselves are in [results.json](results.json). \
PyTorch against itself: the examples of each batch and the inputs of each layer permuted, mkldnn off, \
another number of threads."""
ADAM = {"optimizer": "adam", "learning_rate": 1e-3, "batch_size": 32}
RUNS = (
    ("mlp", "fashion_mnist", {"learning_rate": 0.1, "batch_size": 64, "shuffle": False}, 200),
    ("wide_cnn", "mnist", {"learning_rate": 0.1, "batch_size": 128}, 40),
    ("emnist_cnn", "emnist_balanced", ADAM, 200),
    ("mnist_net", "mnist", ADAM, 200),  # dropout off: the frameworks draw differently
)


def main(arguments: list[str] | None = None) -> None:
    quick = "two networks, drawn digits, 5 steps"
    options = parser_of("export_trajectories", __doc__, quick).parse_args(arguments)
    sections, tables = [], []
    for name, dataset, recipe, steps in RUNS[::2] if options.quick else RUNS:
        data = fv.data.load("glyphs47" if name == "emnist_cnn" else "glyphs", limit=500) if options.quick else None
        data = data or fv.data.load(dataset, raw_dir=options.raw_dir)
        table = export.trajectory(name, data, fv.Recipe(**recipe), steps=5 if options.quick else steps)
        done = len(table.losses["torch", "float64"])
        tables.append({"dataset": data.name, "recipe": recipe, **table.record()})
        sections.append(f"## {name} on {data.name}, {done} steps\n\n{table.markdown()}")
        print(sections[-1])

    write_page(options, "export_trajectories", HEADING, sections, ["torch"], trajectories=tables)


if __name__ == "__main__":
    main()
