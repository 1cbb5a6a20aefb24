"""How fast flaxvision is, beside PyTorch, Keras and plain Flax on the same machine in the same run.

    python experiments/benchmarks                        # everything
    python experiments/benchmarks steps                  # every network, beside PyTorch's fastest setting
    python experiments/benchmarks steps resnet20 mlp     # these rows anew; the others stay
    python experiments/benchmarks steps --peers keras flax
    python experiments/benchmarks readme                 # the numbers of README and docs from the results

Parts: steps (train steps of every network), tables (whole sweeps from start to results), scaling (cost by trials),
sizes (by batch and width), startup (prepare, load, first step), pools (windows of all sizes), accuracy (with fast
convolutions and with XLA's own); only if named: forms (every form of a convolution, and where the rule that chooses is
wrong), gpu (steps, cohorts and tables on a GPU) and readme. ONNX latency has a
script of its own, experiments/export_latency.py. Results land in experiments/results/benchmarks; what was measured of
the same commit stays in runs/, so that a benchmark of hours may be interrupted; steps adds each row to its rows.json,
forms each shape to its times.json.
Leave the machine alone meanwhile.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for what the experiments share

PARTS = ("steps", "tables", "scaling", "sizes", "startup", "pools", "accuracy")
NAMED = ("forms", "gpu", "readme")  # only if named


def main() -> None:
    from common import KEPT, Options, command_of, parser_of

    from flaxvision.errors import UserError

    parser = parser_of("benchmarks", __doc__, "small blocks: shows that the benchmarks work")
    parser.prog = "python experiments/benchmarks"
    known = f"of {', '.join(PARTS)} (default: all), {', '.join(NAMED)}; after steps also networks"
    parser.add_argument("words", nargs="*", metavar="PART", help=known)
    parser.add_argument("--repeats", type=int, default=7, help="counted blocks of every contestant (default 7)")
    parser.add_argument("--peers", nargs="+", help="of the parts steps (default: torch) and tables (default: all)")
    parser.add_argument("--tables", nargs="+", metavar="SWEEP", help="of the part tables (default: all five)")
    parser.add_argument("--executors", nargs="+", help="of the part scaling, beside loop and auto (default: all)")
    parser.add_argument("--minutes", type=float, help="of the parts steps, gpu and forms: nothing more is begun then")
    given = parser.parse_args()
    parts = [word for word in given.words if word in (*PARTS, *NAMED)]
    given.networks = [word for word in given.words if word not in parts]
    if given.networks and "steps" not in parts:
        parser.error(f"part {given.networks[0]!r} is unknown: give {', '.join(PARTS)}, {' or '.join(NAMED)}")
    if given.repeats < 1:
        parser.error(f"--repeats is {given.repeats}: give 1 or more")
    command = command_of("experiments/benchmarks", sys.argv[1:])
    for part in parts or PARTS:
        KEPT.clear()
        options = Options(f"benchmarks/{part}", given.quick, 1, given.raw_dir, given.out / part, command, given)
        try:
            importlib.import_module(part).run(options)
        except UserError as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()
