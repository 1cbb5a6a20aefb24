"""Models trained on real data: do Flax, ONNX, PyTorch and Keras agree on every test image?

    python experiments/export_parity.py --raw-dir DATA

Trains report B1's network on MNIST (4 epochs) and report E's on Fashion-MNIST (10 epochs, rate 0.1), and runs each in
four runtimes on all 10,000 test images. About 3 minutes on 2 CPU cores; `--quick` takes drawn digits, one epoch.

Found: the arg max agrees on every image that is no near-tie; see results/export_parity.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from importlib.metadata import version
from pathlib import Path

import export
import flaxvision as fv
from flaxvision.sweep.provenance import device, versions

RESULTS = Path(__file__).parent / "results" / "export_parity"
RUNS = (
    ("mnist", "mnist_net", {}, fv.Recipe(optimizer="adam", learning_rate=1e-3, batch_size=32, epochs=4)),
    ("fashion_mnist", "mlp", {}, fv.Recipe(learning_rate=0.1, batch_size=64, shuffle=False, epochs=10)),
)


def main(arguments: list[str] | None = None) -> None:
    """Train, compare, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw-dir", help="folder of original data files (FLAXVISION_RAW_DIR)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where to write")
    parser.add_argument("--quick", action="store_true", help="drawn digits, one epoch")
    options = parser.parse_args(arguments)

    sections, tables = [], []
    for dataset, name, sizes, recipe in RUNS:
        data = fv.data.load("glyphs", limit=500) if options.quick else fv.data.load(dataset, raw_dir=options.raw_dir)
        if options.quick:
            recipe = fv.Recipe(optimizer=recipe.optimizer, learning_rate=recipe.learning_rate, batch_size=32, epochs=1)
        model = fv.models.create(name, init="torch", **sizes)
        table = export.compare(fv.fit(model, data, recipe).model, data)
        tables.append(dataclasses.asdict(table))
        sections.append(f"## {name} on {data.name}\n\n{table.markdown()}")
        print(sections[-1])

    options.out.mkdir(parents=True, exist_ok=True)
    command = "python experiments/export_parity.py" + (" --quick" if options.quick else "")
    packages = versions() | {package: version(package) for package in ("torch", "onnx", "onnxruntime", "keras")}
    about = f"Command: `{command}`; seed 0; {device()}; {', '.join(f'{k} {v}' for k, v in packages.items())}."
    record = {"command": command, "seed": 0, "device": device(), "versions": packages, "tables": tables}
    (options.out / "results.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    text = "\n".join(["# One model in four runtimes\n", *sections, about, ""])
    (options.out / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
