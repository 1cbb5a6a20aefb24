"""Is a sweep that was interrupted, and continued, the same as one that never was, byte for byte?

    python experiments/interrupted_sweeps.py --kills 100 --interrupts 100

Ends sweeps over Fashion-MNIST at random moments, by SIGKILL and by the signals that ask (SIGINT, SIGTERM, SIGHUP), with
every executor in turn; continues each with `--resume`, and compares what is there then with a run of that executor that
nobody ended: weights, histories, figures and the winner's files by their bytes, tables and records but for their
seconds. About an hour on 2 CPU cores; `--quick` ends eight small sweeps over drawn glyphs. What was ended stays in
runs/interrupted_sweeps/, each with the commit of the code that ran: a call does what is missing of what it asks for.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import csv
import dataclasses
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from common import RESULTS, commit, parser_of, write_page

from flaxvision.report import markdown_table
from flaxvision.sweep.__main__ import main as sweep

EXECUTORS = ("loop", "threads", "processes", "vmap", "ray")
KEPT = RESULTS.parents[1] / "runs" / "interrupted_sweeps" / "endings.jsonl"
TRIES = 20  # to end a sweep before it is over
INTERVAL = 1.0  # seconds between checkpoints
SWEEP = "fashion-learning-rate --limit 2000 --epochs 40 --seeds 1"
QUICK = "demo --limit 1000 --epochs 50 --set learning_rate=0.1,0.01 hidden=[32] --seeds 1 --no-export"
ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PHASES = {"training": "training", "exporting the winner": "export"}  # what status.json says -> phase
BEFORE, AFTER = "start", "report"  # the other phases: until something trained, and afterwards


Job = tuple[str, int, signal.Signals]  # kind, number within it, and what ends the sweep


@dataclasses.dataclass
class Straight:
    """A run that nobody ended."""

    out: Path
    seconds: float  # that it took, or another as long, lately


@dataclasses.dataclass(frozen=True)
class Ending:
    """How one sweep was ended, and what became of it."""

    executor: str
    signal: str
    moment: float  # seconds after its start
    phase: str
    status: int
    seconds: float  # until it had ended
    lost: float | None  # seconds of training after a trial's newest checkpoint, if one that trains has any
    words: int  # lines about the end on standard error
    left: int  # processes that were still there five seconds later
    differs: list[str]  # what is not as in the run that nobody ended
    commit: str  # of the code that ran

    @property
    def right(self) -> bool:
        """Whether all is as promised."""
        number = signal.Signals[self.signal]
        status, words = (-number, self.words) if number == signal.SIGKILL else (128 + number, 1)
        return (self.status, self.words, self.left, self.differs) == (status, words, 0, [])


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of("interrupted_sweeps", __doc__, "small sweeps over drawn glyphs, four of each kind")
    parser.add_argument("--kills", type=int, default=100, help="sweeps ended by SIGKILL (default 100)")
    parser.add_argument("--interrupts", type=int, default=100, help="sweeps ended by other signals (default 100)")
    parser.add_argument("--jobs", type=int, default=2, help="sweeps at a time (default 2)")
    options = parser.parse_args(arguments)
    if options.raw_dir:
        os.environ["FLAXVISION_RAW_DIR"] = options.raw_dir
    kills, interrupts = (4, 4) if options.quick else (options.kills, options.interrupts)
    jobs = [("kill", number, signal.SIGKILL) for number in range(kills)]
    jobs += [("interrupt", number, ASKING[number % len(ASKING)]) for number in range(interrupts)]
    with heard(ASKING), tempfile.TemporaryDirectory() as folder:
        endings = quickly_ended(jobs, Path(folder)) if options.quick else all_ended(jobs, Path(folder), options.jobs)
    record = {"sweep": QUICK if options.quick else SWEEP, "interval": INTERVAL}
    sections = [summary(endings), by_phase(endings), f"Code: {commits(endings)}.\n"]
    found = [dataclasses.asdict(one) for one in endings]
    typed = () if options.quick else ("--kills", str(kills), "--interrupts", str(interrupts))
    write_page(options, "interrupted_sweeps", "Interrupted sweeps", sections, (), typed, **record, endings=found)


@contextlib.contextmanager
def heard(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Within it children hear these signals, although a job in the background, or under nohup, ignores some."""
    before = {number: signal.getsignal(number) for number in signals}
    for number, handler in before.items():
        if handler is signal.SIG_IGN:
            signal.signal(number, lambda number, _: None)  # the new program of a child has the default again
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def quickly_ended(jobs: Sequence[Job], folder: Path) -> list[Ending]:
    """End and continue one small sweep after the other; what nobody ends runs here, but for the first one."""
    first, *others = used = EXECUTORS[:4]
    runs = {first: straight(QUICK, first, folder)}
    for executor in others:
        status, said = quietly(command(QUICK, executor, folder / executor))
        if status:
            raise RuntimeError(said)
        runs[executor] = Straight(folder / executor, runs[first].seconds)
    endings = [(used[turn % 4], how, f"{kind}{turn}") for kind, turn, how in jobs]
    return [once_ended(QUICK, executor, how, runs[executor], name, quick=True) for executor, how, name in endings]


def all_ended(jobs: Sequence[Job], folder: Path, at_a_time: int) -> list[Ending]:
    """The endings of all jobs: those that are kept, and the others, so many at a time."""
    kept: dict[str, Ending] = {}
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    with KEPT.open("a+", encoding="utf-8") as file, concurrent.futures.ThreadPoolExecutor(at_a_time) as pool:
        file.seek(0)
        for line in file:
            name, ending = json.loads(line)
            kept[name] = Ending(**ending)
        left = [job for job in jobs if name_of(job) not in kept]
        wanted = {EXECUTORS[turn % len(EXECUTORS)] for _, turn, _ in left}
        whole = {executor: pool.submit(straight, SWEEP, executor, folder) for executor in wanted}

        def end(job: Job) -> None:
            _, turn, how = job
            executor = EXECUTORS[turn % len(EXECUTORS)]
            ending = once_ended(SWEEP, executor, how, whole[executor].result(), name_of(job))
            kept[name_of(job)] = ending
            file.write(json.dumps([name_of(job), dataclasses.asdict(ending)]) + "\n")
            file.flush()
            print(len(kept), ending, flush=True)

        for done in concurrent.futures.as_completed([pool.submit(end, job) for job in left]):
            done.result()
    return [kept[name_of(job)] for job in jobs]


def name_of(job: Job) -> str:
    return f"{job[0]} {job[1]}"


def straight(words: str, executor: str, folder: Path) -> Straight:
    """A sweep that nobody ends."""
    began, out = time.monotonic(), folder / executor
    subprocess.run(command(words, executor, out), check=True, capture_output=True)
    return Straight(out, time.monotonic() - began)


def once_ended(
    words: str, executor: str, how: signal.Signals, run: Straight, name: str, *, quick: bool = False
) -> Ending:
    """A sweep's ending at a moment that its name alone draws; one that was over before is tried again."""
    draw = random.Random(name)
    for again in range(TRIES):
        out = run.out.parent / f"{name.replace(' ', '-')}-{again}"
        ending = ended(words, executor, out, how, draw.uniform(0.2, 0.95) * run.seconds, run.out, quick=quick)
        if isinstance(ending, Ending):
            shutil.rmtree(out)
            return ending
        run.seconds = ending  # as long as this one took
    raise RuntimeError(f"{TRIES} sweeps by {executor} were over before {how.name} ended one")


def command(words: str, executor: str, out: Path) -> list[str]:
    """A sweep's command line."""
    options = ["--executor", executor, "--checkpoint-every", str(INTERVAL), "--out", str(out)]
    return [sys.executable, "-m", "flaxvision.sweep", *words.split(), *options]


def ended(
    words: str, executor: str, out: Path, how: signal.Signals, moment: float, whole: Path, *, quick: bool
) -> Ending | float:
    """Start a sweep, end it after so many seconds, continue it; the seconds that it took if it was over before."""
    line, pipe, start = command(words, executor, out), subprocess.PIPE, time.monotonic()
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=pipe, text=True, start_new_session=True) as job:
        try:
            job.wait(moment)
            return time.monotonic() - start
        except subprocess.TimeoutExpired:
            workers = children(job.pid)
        phase = phase_of(out)
        began, now = time.monotonic(), time.time()
        if how == signal.SIGINT:
            os.killpg(job.pid, how)  # as a terminal does, whose Ctrl-C all processes get
        else:
            job.send_signal(how)
        _, said = job.communicate()
        seconds = time.monotonic() - began
    if job.returncode == 0:  # it was just ending
        return time.monotonic() - start
    kept = [max(0.0, now - when) for when in newest(out)]
    lost = max(kept) if phase == "training" and kept else None
    words_of_it = sum(text.startswith(("interrupted", "ended by SIG")) for text in said.splitlines())
    words_of_it += said.count("Traceback")
    deadline = time.monotonic() + 5
    while (left := sum(map(alive, workers))) and time.monotonic() < deadline:
        time.sleep(0.1)
    status, last = continued(line, quick=quick)
    found = differences(whole, out) if status == 0 else [last]
    return Ending(executor, how.name, moment, phase, job.returncode, seconds, lost, words_of_it, left, found, commit())


def continued(line: Sequence[str], *, quick: bool) -> tuple[int, str]:
    """Continue a sweep: its status and last line; quick: in this process, which has all that it compiles."""
    if quick:
        return quietly([*line, "--resume"])
    pipe, both = subprocess.PIPE, subprocess.STDOUT
    done = subprocess.run([*line, "--resume"], stdout=pipe, stderr=both, text=True, check=False)
    return done.returncode, last_line(done.stdout)


def quietly(line: Sequence[str]) -> tuple[int, str]:
    """Run a sweep's command line in this process: its status and last line."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        status = sweep([*line[3:]])
    return status, last_line(said.getvalue())


def last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def phase_of(out: Path) -> str:
    """What a sweep is at."""
    try:
        status = json.loads((out / "status.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return BEFORE
    return PHASES.get(status["doing"], AFTER if status["ended"] else BEFORE)


def newest(out: Path) -> list[float]:
    """When each of the trials that train was last kept: those that ended leave no checkpoints."""
    trials = [path.glob("*/checksum") for path in out.glob("checkpoints/*")]
    times = [[path.stat().st_mtime for path in kept if path.stat().st_size] for kept in trials]
    return [max(found) for found in times if found]


def children(parent: int) -> list[int]:
    """The processes that a process started."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listed.stdout.split()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def differences(one: Path, other: Path) -> list[str]:
    """What two run directories do not share, but for seconds and what tells of them."""
    same = ("trials/*", "winner/*.safetensors", "winner/*.onnx", "winner/example.npz", "*.svg", "*.png")
    here, there = ({str(p.relative_to(root)): p for g in same for p in root.glob(g)} for root in (one, other))
    found = [name for name in here if name not in there or here[name].read_bytes() != there[name].read_bytes()]
    found += [f"{name} is too many" for name in there if name not in here]
    found += [p.name for p in other.rglob("*") if p.name == "checkpoints" or re.fullmatch(r"\..+\.[0-9a-f]{8}", p.name)]
    found += ["results.csv"] if table(one) != table(other) else []
    return found + (["trials.jsonl"] if records(one) != records(other) else [])


def table(out: Path) -> list[dict[str, str]]:
    with open(out / "results.csv", encoding="utf-8", newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def records(out: Path) -> list[dict[str, object]]:
    """By id, without what tells of time, and what it rests on."""
    lines = [json.loads(line) for line in (out / "trials.jsonl").read_text(encoding="utf-8").splitlines()]
    left_out = ("seconds", "epoch_seconds", "cores", "checksums")
    rest = [{key: line[key] for key in line if key not in left_out} for line in lines]
    return sorted(rest, key=lambda line: str(line["id"]))


def summary(endings: Sequence[Ending]) -> str:
    """A row for each signal."""
    header = ("signal", "sweeps", "as promised", "equal", "ended within 5 s", "longest", "most training lost")
    groups: dict[str, list[Ending]] = collections.defaultdict(list)
    for one in endings:
        groups[one.signal].append(one)
    rows = [
        (
            name,
            str(len(group)),
            str(sum(one.right for one in group)),
            str(sum(not one.differs for one in group)),
            str(sum(one.seconds <= 5 for one in group)),
            f"{max(one.seconds for one in group):.1f} s",
            f"{max((one.lost for one in group if one.lost is not None), default=0.0):.1f} s",
        )
        for name, group in groups.items()
    ]
    about = (
        "As promised: status 128 + signal and one line (but of SIGKILL), no process left, and equal to the run that "
        "nobody ended. Training lost is what lies between the newest checkpoint of a trial (asked for every "
        f"{INTERVAL:g} s, kept between two calls of a compiled program) and the end, the greatest of all trials that "
        "were training."
    )
    return f"{markdown_table(header, rows)}\n\n{about}\n"


def by_phase(endings: Sequence[Ending]) -> str:
    """How many sweeps were ended where, by executor."""
    phases = [BEFORE, *PHASES.values(), AFTER]
    counts = collections.Counter((one.executor, one.phase) for one in endings)
    rows = [(name, *(str(counts[name, phase]) for phase in phases)) for name in EXECUTORS]
    return f"{markdown_table(('executor', *phases), rows)}\n"


def commits(endings: Sequence[Ending]) -> str:
    """How many sweeps ran which code."""
    counts = collections.Counter(one.commit for one in endings)
    return ", ".join(f"commit {name} ({number} sweeps)" for name, number in counts.items())


if __name__ == "__main__":
    main()
