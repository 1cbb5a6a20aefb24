"""Does a table that two nodes of a Ray cluster fill, which share no file, equal one filled here, and what does it cost?

    python experiments/ray_cluster.py

Starts two nodes on this machine, of half of its cores each, with working folders of their own; the process that fills
the run sees a folder that nobody else sees, where the system allows that. Fills `fashion-learning-rate` with five seeds
by `loop`, by `processes` and by `ray`, the last two again with compiled programs at hand, and by `ray` while a node is
killed; compares results.csv, and every trial's weights by their bytes. Seconds of computing are those of all processes
that take part, Ray's own ones too. `--quick`: small tables over drawn glyphs.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import os
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from common import commit, parser_of, write_page

from flaxvision.report import markdown_table
from flaxvision.runtime import cores

NAME = "ray_cluster"
SWEEP = "fashion-learning-rate --seeds 5"
QUICK = "demo --limit 500 --epochs 3"
HALF = re.compile(r"(\d+)/(\d+) trials")
CLUSTER = """
import os, sys
from ray.cluster_utils import Cluster

cluster, nodes = Cluster(), []
for number, folder in enumerate(sys.argv[2:]):
    os.chdir(folder)
    nodes.append(cluster.add_node(num_cpus=int(sys.argv[1]), include_dashboard=False))
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes.pop(), allow_graceful=False)
cluster.shutdown()
"""


@dataclasses.dataclass(frozen=True)
class Filled:
    """A table, and what it took."""

    executor: str
    how: str  # "first", "again", or "a node killed after N of M trials"
    trials: int  # that are sound
    rows: int  # of results.csv that differ from loop's, seconds apart
    weights: int  # files of weights that differ from those of processes
    wall: float  # seconds
    computing: float  # seconds, of all processes


class Nodes:
    """A cluster, and what its processes have computed."""

    def __init__(self, address: str, process: subprocess.Popen[str]):
        self.address, self.process = address, process
        self.seconds: dict[int, float] = {}  # process -> seconds of computing
        threading.Thread(target=self._look, daemon=True).start()

    def taken(self) -> float:
        """Seconds of all."""
        return sum(list(self.seconds.values()))

    def kill_one(self) -> None:
        """End the last node, as a machine that fails."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def _look(self) -> None:
        while self.process.poll() is None:
            for each in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    taken = each.cpu_times()
                    self.seconds[each.pid] = taken.user + taken.system
            time.sleep(0.2)


@contextlib.contextmanager
def nodes(folder: Path) -> Iterator[Nodes]:
    """Two nodes; what they are told of this process's environment is only where to keep compiled programs."""
    places = [str(folder / f"node{number}") for number in (1, 2)]
    for place in places:
        Path(place).mkdir()
    share = str(max(1, len(cores()) // 2))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FLAXVISION_", "JAX_"))}
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER, share, *places],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**kept, "RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Nodes(process.stdout.readline().strip(), process)
    finally:
        process.stdin.close()
        process.wait()


def hidden() -> bool:
    """Whether a folder can be had that only one process and its children see."""
    try:
        return subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def fill(sweep: str, executor: str, out: Path, cluster: Nodes | None = None, *, kill: bool = False) -> tuple[str, ...]:
    """Fill a table in a folder of its own; gives when a node was killed, wall and seconds of computing."""
    words = [sys.executable, "-m", "flaxvision", "sweep", *sweep.split(), "--executor", executor, "--no-export"]
    inside = out.with_name(f"{out.name}.inside")
    inside.mkdir()
    lines = [f"cd {inside}", shlex.join([*words, "--out", "run"]), "status=$?", f"cp -r run {out}", "exit $status"]
    shell = ["sh", "-c"]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    if cluster is not None:
        environment["RAY_ADDRESS"] = cluster.address
        if hidden():
            lines, shell = [f"mount -t tmpfs none {inside}", *lines], ["unshare", "-rm", *shell]
    began, killed = time.monotonic(), ""
    job = subprocess.Popen(
        [*shell, "\n".join(lines)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert job.stderr is not None
    said = []
    for line in job.stderr:
        said.append(line)
        found = HALF.match(line)
        if kill and cluster is not None and not killed and found and 3 * int(found[1]) >= int(found[2]):
            cluster.kill_one()
            killed = f"a node killed after {found[1]} of {found[2]} trials"
    _, status, usage = os.wait4(job.pid, 0)
    job.returncode = os.waitstatus_to_exitcode(status)
    if job.returncode:
        sys.exit("".join(said))
    return killed, time.monotonic() - began, usage.ru_utime + usage.ru_stime


def table(out: Path) -> list[tuple[str, ...]]:
    """The rows of results.csv without their seconds."""
    with open(out / "results.csv", encoding="utf-8", newline="") as file:
        return [tuple(value for key, value in row.items() if key != "seconds") for row in csv.DictReader(file)]


def weights(out: Path) -> dict[str, bytes]:
    """Each trial's weights."""
    return {path.name: path.read_bytes() for path in out.glob("trials/*.safetensors")}


def measured(sweep: str, folder: Path) -> list[Filled]:
    """Every table, in turn."""
    found: list[Filled] = []
    with nodes(folder) as cluster:
        for executor, how in (
            *(("loop", "first"), ("processes", "first"), ("ray", "first")),
            *(("processes", "again"), ("ray", "again"), ("ray", "killed")),
        ):
            out = folder / f"{executor}-{how}"
            before = cluster.taken()
            killed, wall, own = fill(sweep, executor, out, cluster if executor == "ray" else None, kill=how == "killed")
            time.sleep(0.5)  # for the last look
            nodes_took = cluster.taken() - before
            loop, mine = table(folder / "loop-first"), table(out)
            theirs = weights(folder / "processes-first") if executor != "loop" else weights(out)
            found.append(
                Filled(
                    executor,
                    killed or how,
                    len(weights(out)),
                    sum(one != other for one, other in zip(loop, mine, strict=True)),
                    sum(content != theirs[name] for name, content in weights(out).items()),
                    wall,
                    own + nodes_took * (executor == "ray"),
                )
            )
            print(found[-1], flush=True)
    return found


def page(found: Sequence[Filled]) -> str:
    """The table of all."""
    heads = ("executor", "", "trials", "rows unlike loop's", "weights unlike processes'", "wall, s", "computing, s")
    rows = [
        (each.executor, each.how, each.trials, each.rows, each.weights, f"{each.wall:.1f}", f"{each.computing:.1f}")
        for each in found
    ]
    again = {each.executor: each.computing for each in found if each.how == "again"}
    ratio = again["ray"] / again["processes"]
    return (
        f"{markdown_table(heads, rows)}\n\nA table filled again costs {ratio:.2f} times the computing of `processes`.\n"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(NAME, __doc__, "small tables over drawn glyphs")
    parser.add_argument("--sweep", help=f"what is filled (default: {SWEEP})")
    options = parser.parse_args(arguments)
    if options.raw_dir:
        os.environ["FLAXVISION_RAW_DIR"] = options.raw_dir
    sweep = options.sweep or (QUICK if options.quick else SWEEP)
    with tempfile.TemporaryDirectory() as folder:
        found = measured(sweep, Path(folder))
    typed = ("--sweep", shlex.quote(options.sweep)) if options.sweep else ()
    sections = [
        f"`flaxvision sweep {sweep}` on two nodes that see {'no' if hidden() else 'every'} file of it.\n",
        page(found),
        f"Code: {commit()}.\n",
    ]
    record = {"sweep": sweep, "hidden": hidden(), "filled": [dataclasses.asdict(each) for each in found]}
    write_page(options, NAME, "Two nodes of a Ray cluster", sections, ("ray",), typed, **record)


if __name__ == "__main__":
    main()
