"""Loads a data set, trains one step and prints when what was done, in seconds since BEGAN (of the Unix epoch).

python experiments/benchmarks/first_step.py BEGAN flaxvision|torch DATASET DATA_DIR [RAW_DIR]
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time

import numpy as np

NETWORK, BATCH = "mnist_net", 32


def main() -> None:
    began, framework, dataset, data_dir, *raw = sys.argv[1:]
    raw_dir = raw[0] if raw else None
    stamps: dict[str, float] = {}

    def stamp(name: str) -> None:
        stamps[name] = time.time() - float(began)

    if framework == "flaxvision":
        import flaxvision as fv

        fv.runtime.prepare()
        stamp("imported")
        data = fv.data.load(dataset, raw_dir=raw_dir, data_dir=data_dir)
        stamp("loaded")
        recipe = fv.Recipe(optimizer="adam", learning_rate=1e-3, batch_size=BATCH, steps=1)
        fv.fit(fv.models.create(NETWORK, init="torch"), dataclasses.replace(data, test=data.test[:BATCH]), recipe)
    else:
        import torch

        from export.references import reference
        from flaxvision.data import load

        stamp("imported")
        train = load(dataset, raw_dir=raw_dir, data_dir=data_dir).train  # the same files
        images = torch.from_numpy(train.images.transpose(0, 3, 1, 2).astype(np.float32) / 255)
        labels = torch.tensor(train.labels, dtype=torch.long)
        stamp("loaded")
        network = reference(NETWORK, input_shape=(28, 28, 1), num_classes=10)
        optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        batch = torch.randperm(len(labels))[:BATCH]
        torch.nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
        optimizer.step()
    stamp("stepped")
    print(json.dumps(stamps))


if __name__ == "__main__":
    main()
