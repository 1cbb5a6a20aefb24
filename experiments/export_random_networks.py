"""Random networks in Flax, onnxruntime, PyTorch and Keras: do the exported networks give the same outputs?

    python experiments/export_random_networks.py --networks 5000 --workers 2

A network is made from its seed alone: maps of odd and even sides, every layer of `flaxvision.layers` with random
settings, BatchNorm statistics from training passes, inputs up to 1e4, batches of 1, 3 and 64. Two outputs disagree
where they differ by more than 1e-5 of max(1, the largest output) and by more than sixteen times what float32 does to
that network whoever computes it: PyTorch's own distance from float64 at every batch and on inputs whose last bits
differ, or how far the float64 outputs move when inputs, parameters and the output of every layer are rounded once. (A
saturating layer behind inputs of 1e4, or a BatchNorm of a nearly constant feature, magnifies the last bit.)

PyTorch computes without oneDNN, whose convolutions of one channel with strides (1, 2) or (1, 3) return memory that
nobody wrote (torch 2.13.0, found by seeds 2188 and 3795; without oneDNN the same modules are right to 1e-7).

A run that is broken off goes on where it was when it is started again, unless the code has changed.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import functools
import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from common import RESULTS, all_versions, command_of, commit
from random_networks import BATCHES, PEERS, ROUNDING, TOLERANCE, describe, disagreements, errors, random_case

from flaxvision.sweep import device

NAME = "export_random_networks"
BOUNDS = (1e-5, 1e-4, 1e-3, 1e-2)
PART = 25  # networks that a worker takes at a time


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one network."""

    seed: int
    description: str | None
    kinds: list[str]  # of layers, each once
    found: dict[str, tuple[float, float]]  # see `errors`
    raised: str  # a network that cannot be exported or run is a disagreement as well; "" if none was


def _compare(seeds: range, keras_every: int) -> list[Outcome]:
    """Compare the networks of some seeds, in a worker process."""
    torch.set_num_threads(1)
    outcomes = []
    for seed in seeds:
        description, layers, found, raised = None, [], {}, ""
        try:
            case = random_case(seed)
            description, layers = (
                describe(case.network),
                sorted({type(layer).__name__ for layer in case.network.layers}),
            )
            found = errors(case, (*PEERS, "keras") if seed % keras_every == 0 else PEERS)
        except Exception as error:
            raised = f"{type(error).__name__}: {error}"[:500]
        outcomes.append(Outcome(seed, description, layers, found, raised))
    jax.clear_caches()  # every network compiles programs of its own
    return outcomes


def _outcomes(parts: list[range], workers: int, kept: Path, about: dict[str, Any]) -> tuple[list[Outcome], float]:
    """All outcomes by seed and the seconds that they took; those that a run of the same code kept are taken over."""
    lines = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    if lines and lines[0] != about:
        print(f"{kept} is of {lines[0]}, not of {about}: it begins anew", flush=True)
        lines = []
    if not lines:
        kept.write_text(json.dumps(about) + "\n")
    outcomes = [Outcome(**outcome) for line in lines[1:] for outcome in line["outcomes"]]
    seconds = sum(line["seconds"] for line in lines[1:])
    known, count = {outcome.seed for outcome in outcomes}, sum(map(len, parts))
    compare = functools.partial(_compare, keras_every=about["keras_every"])
    context = multiprocessing.get_context("spawn")  # JAX does not survive a fork
    with concurrent.futures.ProcessPoolExecutor(workers, context) as pool, kept.open("a") as file:
        since = time.time()
        jobs = [pool.submit(compare, part) for part in parts if part[0] not in known]
        for job in concurrent.futures.as_completed(jobs):
            took, since = time.time() - since, time.time()
            outcomes, seconds = outcomes + job.result(), seconds + took
            file.write(json.dumps({"seconds": took, "outcomes": list(map(dataclasses.asdict, job.result()))}) + "\n")
            file.flush()
            bad = sum(bool(outcome.raised or disagreements(outcome.found)) for outcome in outcomes)
            line = f"{len(outcomes)}/{count} networks, {bad} that disagree, {seconds / len(outcomes):.2f} s each"
            print(line, end="\r" if sys.stdout.isatty() else "\n", flush=True)
    return sorted(outcomes, key=lambda outcome: outcome.seed), seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=5000, help="how many (default 5000)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first network (default 0)")
    parser.add_argument("--keras-every", type=int, default=10, help="ask Keras on every so many networks (default 10)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--quick", action="store_true", help="20 networks")
    parser.add_argument("--out", type=Path, default=RESULTS / NAME, help="folder of the results")
    options = parser.parse_args()
    count = 20 if options.quick else options.networks
    seeds = range(options.first_seed, options.first_seed + count)
    parts = [seeds[start : start + PART] for start in range(0, count, PART)]
    made_by = commit()  # the code may change while it runs
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "parts.jsonl"
    about = {"commit": made_by, "seeds": [seeds[0], seeds[-1]], "keras_every": options.keras_every}
    outcomes, seconds = _outcomes(parts, options.workers, kept, about)
    worst: dict[str, tuple[float, int]] = {}
    kinds: collections.Counter[str] = collections.Counter()
    asked: collections.Counter[str] = collections.Counter()
    disagreed: list[dict[str, Any]] = []
    widened = 0
    for outcome in outcomes:
        kinds.update(outcome.kinds)
        network = {"seed": outcome.seed, "network": outcome.description}
        if outcome.raised:
            disagreed.append(network | {"raised": outcome.raised})
        for peer, (error, allowed) in outcome.found.items():
            asked[peer] += 1
            worst[peer] = max(worst.get(peer, (0.0, outcome.seed)), (error, outcome.seed))
            if not error <= allowed:
                disagreed.append(network | {"peer": peer, "error": error, "allowed": allowed})
        widened += any(TOLERANCE < error <= allowed for error, allowed in outcome.found.values())
    allowances = np.array([allowed for outcome in outcomes for _, allowed in list(outcome.found.values())[:1]])
    result = {
        "command": command_of(f"experiments/{NAME}.py", sys.argv[1:]),
        "networks": count,
        "seeds": [options.first_seed, options.first_seed + count - 1],
        "batches": BATCHES,
        "tolerance": TOLERANCE,
        "disagreements": disagreed,
        "compared": dict(asked),
        "worst_relative_error": {peer: {"error": error, "seed": seed} for peer, (error, seed) in worst.items()},
        "networks_that_needed_more": widened,
        "networks_allowed_more_than": {f"{bound:.0e}": int((allowances > bound).sum()) for bound in BOUNDS},
        "networks_with_layer": dict(kinds.most_common()),
        "seconds": round(seconds),
        "versions": all_versions(),
        "device": device(),
        "commit": made_by,
    }
    (options.out / "results.json").write_text(json.dumps(result, indent=2) + "\n")
    (options.out / "README.md").write_text(_readme(result))
    kept.unlink()
    return 1 if disagreed else 0


def _readme(result: dict[str, Any]) -> str:
    rows = "\n".join(
        f"| {peer} | {result['compared'][peer]:,} | {worst['error']:.2e} | {worst['seed']} |"
        for peer, worst in result["worst_relative_error"].items()
    )
    first, last = result["seeds"]
    bounds = ", ".join(f"{bound}: {count}" for bound, count in result["networks_allowed_more_than"].items())
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    bad = "\n".join(f"- {json.dumps(entry)}" for entry in result["disagreements"])
    return f"""# Random networks: Flax against its exports

    {result["command"]}

{result["networks"]:,} random networks (seeds {first} to {last}), each at batch 1, 3 and 64:
**{len(result["disagreements"])} disagreements**.

| against Flax | networks | worst error, relative to max(1, largest output) | seed |
| --- | --- | --- | --- |
{rows}

Allowed: {result["tolerance"]:.0e}, or {ROUNDING:.0f} times what float32 by itself does to the network where that is
more ([the rule](../../export_random_networks.py)); {result["networks_that_needed_more"]} networks needed it. So many
were allowed more than: {bounds}.
{result["seconds"]:,} s on {result["device"]}; {versions}; commit {result["commit"]}.
{bad}"""


if __name__ == "__main__":
    raise SystemExit(main())
