"""Models trained on real data: do Flax, ONNX, PyTorch and Keras agree on every test image?

    python experiments/export_parity.py --raw-dir DATA

Trains report B1's network on MNIST (4 epochs) and report E's on Fashion-MNIST (10 epochs, rate 0.1), and runs each in
four runtimes on all 10,000 test images. About 3 minutes on 2 CPU cores; `--quick` takes drawn digits, one epoch.
"""

from __future__ import annotations

import dataclasses

from common import parser_of, write_page

import export
import flaxvision as fv

RUNS = (
    ("mnist", "mnist_net", fv.Recipe(optimizer="adam", learning_rate=1e-3, batch_size=32, epochs=4)),
    ("fashion_mnist", "mlp", fv.Recipe(learning_rate=0.1, batch_size=64, shuffle=False, epochs=10)),
)


def main(arguments: list[str] | None = None) -> None:
    options = parser_of("export_parity", __doc__, "drawn digits, one epoch").parse_args(arguments)
    sections, tables = [], []
    for dataset, name, recipe in RUNS:
        data = fv.data.load("glyphs", limit=500) if options.quick else fv.data.load(dataset, raw_dir=options.raw_dir)
        if options.quick:
            recipe = fv.Recipe(optimizer=recipe.optimizer, learning_rate=recipe.learning_rate, batch_size=32, epochs=1)
        model = fv.models.create(name, init="torch")
        table = export.compare(fv.fit(model, data, recipe).model, data)
        tables.append(dataclasses.asdict(table))
        sections.append(f"## {name} on {data.name}\n\n{table.markdown()}")
        print(sections[-1])

    packages = ("torch", "onnx", "onnxruntime", "keras")
    write_page(options, "export_parity", "One model in four runtimes", sections, packages, tables=tables)


if __name__ == "__main__":
    main()
