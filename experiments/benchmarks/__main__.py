"""How fast flaxvision is, beside PyTorch, Keras and plain Flax on the same machine in the same run.

    python experiments/benchmarks                  # everything
    python experiments/benchmarks steps --networks mlp vgg19 --repeats 9

Parts: steps (train steps of every network), tables (whole sweeps from start to results), scaling (cost by trials),
sizes (by batch and width), startup (prepare, load, first step), pools (windows of all sizes), accuracy (with fast
convolutions and with XLA's own); gpu (steps, cohorts and tables on a GPU, only if named). ONNX latency has a script of
its own, experiments/export_latency.py. Results land in experiments/results/benchmarks; what was measured of the same
commit stays in runs/, so that a benchmark of hours may be interrupted. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for what the experiments share

PARTS = ("steps", "tables", "scaling", "sizes", "startup", "pools", "accuracy")
GPU = "gpu"  # only if named


def main() -> None:
    from common import KEPT, Options, command_of, parser_of

    from flaxvision.errors import UserError

    parser = parser_of("benchmarks", __doc__, "small blocks: shows that the benchmarks work")
    parser.prog = "python experiments/benchmarks"
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all), {GPU}")
    parser.add_argument("--repeats", type=int, default=7, help="counted blocks of every contestant (default 7)")
    parser.add_argument("--peers", nargs="+", help="of the part tables (default: all)")
    parser.add_argument("--tables", nargs="+", metavar="SWEEP", help="of the part tables (default: all five)")
    parser.add_argument("--executors", nargs="+", help="of the part scaling, beside loop and auto (default: all)")
    parser.add_argument("--networks", nargs="+", help="of the part steps (default: all)")
    parser.add_argument("--minutes", type=float, help="of the part gpu: nothing more is begun after them")
    given = parser.parse_args()
    unknown = [part for part in given.parts if part not in (*PARTS, GPU)]
    if unknown:
        parser.error(f"part {unknown[0]!r} is unknown: give {', '.join(PARTS)} or {GPU}")
    if given.repeats < 1:
        parser.error(f"--repeats is {given.repeats}: give 1 or more")
    command = command_of("experiments/benchmarks", sys.argv[1:])
    for part in given.parts or PARTS:
        KEPT.clear()
        options = Options(f"benchmarks/{part}", given.quick, 1, given.raw_dir, given.out / part, command, given)
        try:
            importlib.import_module(part).run(options)
        except UserError as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()
