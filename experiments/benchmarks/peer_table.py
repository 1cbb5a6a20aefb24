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
from flaxvision.sweep.overrides import override
from flaxvision.sweep.parse import load_spec
from flaxvision.sweep.trials import expand

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for what the experiments share

PEERS = dict.fromkeys(("torch", "compile", "loader"), "torch_trials") | {"keras": "keras_trials", "flax": "flax_trials"}
load_once = functools.lru_cache(maxsize=2)(load)  # a data set, for all trials


def main() -> None:
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
        given = {key: settings.get(key) for key in ("limit", "validation")}
        return load_once(settings["dataset"], raw_dir=options.raw_dir, **given)

    def prepare(settings: dict[str, Any]) -> None:
        peer.prepare(settings, data_of(settings), options.peer)

    trials = expand(spec)
    earlier = [spec.pretrain.settings] if spec.pretrain else []
    before = [(settings, {key: settings[key] for key in ("hidden", "init")}) for settings in earlier]
    if options.estimate:
        alone = [(trial.settings, trial.config.model.arguments) for trial in trials if trial.seed == trials[0].seed]
        for settings, _ in (*before, alone[0]):
            prepare(settings)
        seconds = {"start": time.perf_counter() - began, "compilation": 0.0, "training": 0.0}
        for (settings, sizes), times in [(s, 1) for s in before] + [(s, len(spec.seeds)) for s in alone]:
            once, rest = peer.estimate(settings, sizes, data_of(settings), options.estimate, options.peer)
            seconds["compilation"] += once
            seconds["training"] += times * rest
        options.out.write_text(json.dumps({"seconds": seconds}))
        return
    seconds = {"pretrain": 0.0}
    start: dict[str, Any] = {}
    for settings, sizes in before:
        prepare(settings)
        seconds["pretrain"] -= time.perf_counter()
        _, weights = peer.train(settings, sizes, 0, data_of(settings), {}, options.peer)
        seconds["pretrain"] += time.perf_counter()
        start = {name: value for name, value in weights.items() if name.startswith(spec.pretrain.only)}
    prepare(trials[0].settings)
    ready = time.perf_counter()
    seconds["start"] = ready - began - seconds["pretrain"]
    accuracies = []
    for trial in trials:
        settings, sizes = trial.settings, trial.config.model.arguments
        accuracies.append(peer.train(settings, sizes, trial.seed, data_of(settings), start, options.peer)[0])
    seconds["trials"] = time.perf_counter() - ready
    options.out.write_text(json.dumps({"accuracy": float(np.mean(accuracies)), "seconds": seconds}))


if __name__ == "__main__":
    main()
