"""A sweep's table without flaxvision's engine: one trial after the other, as a script for a report would fill it.

    python experiments/benchmarks/peer_table.py fashion-learning-rate torch --epochs 2 --out found.json

Peers: "torch" (tensors in memory), "compile" (the same, compiled), "loader" (image by image through a DataLoader, as
the reports' own scripts do), "keras" (Keras 3 on JAX, `model.fit`) and "flax" (Flax NNX, `nnx.jit`, as in its MNIST
example). The sweep's own spec is read, so that all fill the same table.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from flaxvision.data import Dataset, load
from flaxvision.sweep.parse import load_spec
from flaxvision.sweep.trials import expand, override

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for what the experiments share

PEERS = {"torch": "torch_trials", "compile": "torch_trials", "loader": "torch_trials", "keras": "keras_trials"}
PEERS |= {"flax": "flax_trials"}


@functools.lru_cache(maxsize=2)
def dataset(name: str, raw_dir: str | None, limit: int | None, validation: float | None) -> Dataset:
    """A data set, read once for all trials."""
    return load(name, raw_dir=raw_dir, limit=limit, validation=validation)


def main() -> None:
    """Fill the table; write the mean test accuracy and the seconds as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", help="a sweep of classifiers")
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--estimate", type=int, metavar="STEPS", help="of every cell; the seconds of the rest follow")
    parser.add_argument("--raw-dir")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    began = time.perf_counter()
    peer = importlib.import_module(PEERS[options.peer])
    if options.estimate and not hasattr(peer, "estimate"):
        parser.error(f"--estimate is not for {options.peer!r}: give torch, compile or loader")
    spec = override(load_spec(options.spec), epochs=options.epochs, seeds=options.seeds, limit=options.limit)

    def data_of(settings: dict[str, Any]) -> Dataset:
        return dataset(settings["dataset"], options.raw_dir, settings.get("limit"), settings.get("validation"))

    trials = expand(spec)
    if options.estimate:
        before = spec.pretrain.settings if spec.pretrain else None
        stages = [(before, {"hidden": before["hidden"]})] if before else []
        alone = [(trial.settings, trial.config.model.arguments) for trial in trials if trial.seed == trials[0].seed]
        for settings, _ in (*stages, alone[0]):
            peer.prepare(settings, data_of(settings), options)
        seconds = {"start": time.perf_counter() - began, "compilation": 0.0, "training": 0.0}
        for (settings, sizes), times in [(s, 1) for s in stages] + [(s, len(spec.seeds)) for s in alone]:
            once, rest = peer.estimate(settings, sizes, data_of(settings), options.estimate, options)
            seconds["compilation"] += once
            seconds["training"] += times * rest
        options.out.write_text(json.dumps({"seconds": seconds}))
        return
    seconds = {"pretrain": 0.0}
    start: dict[str, Any] = {}
    if spec.pretrain is not None:
        settings = spec.pretrain.settings
        peer.prepare(settings, data_of(settings), options)
        seconds["pretrain"] -= time.perf_counter()
        sizes = {"hidden": settings["hidden"], "init": settings["init"]}
        _, weights = peer.train(settings, sizes, 0, data_of(settings), {}, options)
        seconds["pretrain"] += time.perf_counter()
        start = {name: value for name, value in weights.items() if name.startswith(spec.pretrain.only)}
    peer.prepare(trials[0].settings, data_of(trials[0].settings), options)
    ready = time.perf_counter()
    seconds["start"] = ready - began - seconds["pretrain"]
    accuracies = [
        peer.train(trial.settings, trial.config.model.arguments, trial.seed, data_of(trial.settings), start, options)[0]
        for trial in trials
    ]
    seconds["trials"] = time.perf_counter() - ready
    options.out.write_text(json.dumps({"accuracy": float(np.mean(accuracies)), "seconds": seconds}))


if __name__ == "__main__":
    main()
