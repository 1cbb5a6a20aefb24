"""How the trials of a sweep are shared out: cohorts of one program each, in one process or several."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from flaxvision._files import write_atomically
from flaxvision.runtime import cores, on_host
from flaxvision.sweep.cluster import cluster_platform, resources
from flaxvision.sweep.executors import EXECUTORS, of_script
from flaxvision.sweep.files import RunFiles
from flaxvision.sweep.inputs import create_model, dataset_of, recipe_of
from flaxvision.sweep.keeping import own_functions
from flaxvision.sweep.parts import Part, files_of_parts, of_part
from flaxvision.sweep.room import examples_on, free_on
from flaxvision.sweep.trials import Trial, by_program

OPERATIONS, BYTES = 5e11, 6.5e10  # a second: what the reports' networks reach on two cores, within a factor of two
LONG = 60.0  # seconds of training above which the start of worker processes pays
WORKER = 5e8  # bytes of a worker process beside its data and network
VMAPPED = 512  # most members of a vmapped cohort
FILE = "arrangement.json"  # of a run directory


@dataclasses.dataclass(frozen=True, slots=True)
class Arrangement:
    """What runs where."""

    executor: str  # of `flaxvision.sweep.executors.EXECUTORS`, but "auto"
    mode: str  # of `flaxvision.training.train_cohort`
    cohorts: tuple[tuple[Trial, ...], ...]
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)  # program -> of a trial, as `Cost` has them


@dataclasses.dataclass(frozen=True, slots=True)
class Arranged:
    """An arrangement on record."""

    asked: str  # the executor, or "auto"
    platform: str
    executor: str
    mode: str
    cohorts: list[list[str]]  # ids of trials, also of those that are over


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """What a trial takes, roughly."""

    seconds: float  # of training on a CPU, in one process
    memory: float  # bytes of its parameters, optimizer and train step
    data: float  # bytes of its data set that are in memory


def arrange(trials: Sequence[Trial], files: RunFiles, executor: str, platform: str) -> Arrangement:
    """Share out trials.

    "auto" takes cohorts by `vmap` on an accelerator, which a single small trial cannot fill, each in a thread: one
    compiles, for seconds, while another trains. On a CPU several trials take a core each, if they fit into the memory:
    by "threads", where one compiles while another trains and all share what is compiled; a table of minutes by
    "processes", whose start then pays, as each keeps its freed memory (`flaxvision.runtime.prepare`; threads only
    their smaller blocks). Else it is "loop". The platform is "cpu", "gpu" or "tpu", as JAX calls it; of "ray" that of
    the cluster, whose GPUs get equal shares of a program, which each trains as "auto" would.
    """
    samples = {trial.program: trial for trial in trials}

    @functools.cache
    def cost(program: str) -> Cost:
        try:
            return cost_of(samples[program], files)
        except Exception:  # it will fail when it is trained, and say why there
            return Cost(0.0, 1.0, 0.0)

    mode = "vmap" if executor == "vmap" else "auto"
    vmapped = executor == "vmap" or (executor == "auto" and platform != "cpu")
    if executor == "auto":
        executor = "threads" if vmapped else _on_cores(trials, cost)
        if executor == "processes" and any(map(of_script, own_functions(trials))):
            executor = "threads"  # workers do not import the script
    devices = local_devices() if vmapped and executor != "ray" else 1  # each of Ray's tasks has one of its own
    most = VMAPPED * devices if vmapped else 1
    if executor == "ray" and platform != "cpu":
        most = min(VMAPPED, -(-len(trials) // max(1, resources()[0])))
    groups = by_program(trials, most)
    if executor in ("threads", "processes", "ray"):  # the longest first, so that none is left for the end
        groups.sort(key=lambda group: -cost(group[0].program).seconds)
    if vmapped:
        each = free_on(platform) / (devices if platform == "cpu" else 1)
        groups = _in_memory(groups, cost, 0.5 * each, len(cores()) if executor == "threads" else 1, devices)
    seconds = {program: cost(program).seconds for program in samples}
    return Arrangement(executor, mode, tuple(map(tuple, groups)), seconds)


def platform_of(executor: str) -> str:
    """The platform for which an executor's trials are shared out."""
    import jax

    return cluster_platform() if executor == "ray" else jax.default_backend()


def go_on(
    before: Arranged | None,
    trials: Sequence[Trial],
    wanted: Collection[str],
    files: RunFiles,
    executor: str,
    platform: str,
) -> Arrangement:
    """`arrange` those trials whose ids are wanted; what was shared out before stays as it was, and the executor too.

    Numbers of some executors and cohorts differ in their last bits, and a cohort's checkpoint is of all its trials.
    Another executor than was asked for then begins anew ("auto" is no other), and so does another platform: that is the
    arrangement of all trials, whatever is left of them.
    """
    if before is not None and executor == "auto":
        executor = before.asked
    if before is None or before.platform != platform or executor != before.asked:
        new_run = arrange(trials, files, executor, platform)
        parts = (tuple(trial for trial in cohort if trial.id in wanted) for cohort in new_run.cohorts)
        return dataclasses.replace(new_run, cohorts=tuple(filter(None, parts)))
    left = {trial.id: trial for trial in trials if trial.id in wanted}
    groups = [[left.pop(name) for name in cohort if name in left] for cohort in before.cohorts]
    kept = tuple(tuple(group) for group in groups if group)
    new = arrange(list(left.values()), files, before.asked, platform).cohorts if left else ()
    ordered = sorted(kept + new, key=lambda cohort: cohort[0].stage != "pretrain")
    seconds = arrange([cohort[0] for cohort in ordered], files, "loop", platform).seconds
    return Arrangement(before.executor, before.mode, tuple(ordered), seconds)


def recorded(now: Arrangement, before: Arranged | None, asked: str, platform: str) -> Arranged:
    """An arrangement for the record, with the cohorts of `before` that are over."""
    cohorts = [[trial.id for trial in cohort] for cohort in now.cohorts]
    if before is not None:
        there = {name for cohort in cohorts for name in cohort}
        cohorts = [cohort for cohort in before.cohorts if not there.intersection(cohort)] + cohorts
        asked = before.asked if asked == "auto" else asked
    return Arranged(asked, platform, now.executor, now.mode, cohorts)


def read_arrangement(directory: Path, part: Part | None = None) -> dict[str, Arranged] | None:
    """How the trials of each stage of a run are shared out; empty if nothing is on record, None if it is damaged."""
    try:
        found = json.loads((directory / of_part(FILE, part)).read_text(encoding="utf-8"))
        stages = {stage: Arranged(**each) for stage, each in found.items()}
        return stages if all(map(_is_whole, stages.values())) else None
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return None


def asked_before(directory: Path, part: Part | None = None) -> str | None:
    """The executor that a run, or a part of it, was last asked for; None if nothing is on record."""
    parts = [part] if part is not None else [None, *files_of_parts(directory, FILE).values()]
    found = [read_arrangement(directory, each) or {} for each in parts]
    return next((stage.asked for stages in found for stage in reversed(stages.values())), None)


def goes_on_with(executor: str, directory: str | Path | None, part: Part | None = None) -> str:
    """The executor of a run that may go on: "auto" is the one that it, or this part, was last asked for, if any."""
    before = asked_before(Path(directory), part) if executor == "auto" and directory is not None else None
    return before or executor


def renewed(stages: Mapping[str, Arranged], stage: str, arranged: Arranged) -> dict[str, Arranged]:
    """Those on record with the newest of a stage, which `asked_before` goes by, as the last."""
    return {name: each for name, each in stages.items() if name != stage} | {stage: arranged}


def asked_for(executor: str) -> Arranged:
    """The record of a stage that shares out its trials by itself: which executor it was asked for."""
    return Arranged(executor, platform_of("auto"), executor, "vmap" if executor == "vmap" else "auto", [])


def _is_whole(read: Arranged) -> bool:
    """Whether all is of the kind that was written."""
    lists = isinstance(read.cohorts, list) and all(isinstance(cohort, list) for cohort in read.cohorts)
    if not lists or {read.executor, read.asked} - {*EXECUTORS} or read.mode not in ("auto", "vmap"):
        return False
    return all(isinstance(text, str) for text in (read.asked, read.platform, *itertools.chain(*read.cohorts)))


def write_arrangement(directory: Path, stages: dict[str, Arranged], part: Part | None = None) -> None:
    """Keep how the trials of each stage are shared out."""
    table = {stage: dataclasses.asdict(each) for stage, each in stages.items()}
    write_atomically(directory / of_part(FILE, part), json.dumps(table, indent=0) + "\n")


def _in_memory(
    groups: Sequence[list[Trial]], cost: Callable[[str], Cost], budget: float, threads: int, devices: int
) -> list[list[Trial]]:
    """Vmapped cohorts in as many parts as the memory needs where so many threads train at a time.

    Each device has a share of a cohort, the whole data set, and `budget` bytes.
    """
    at_once = 1
    while True:
        parts: list[list[Trial]] = []
        for group in groups:
            each = cost(group[0].program)
            rows = (budget / at_once - each.data) / each.memory  # on a device
            fitting = devices * (rows if math.isinf(rows) else math.floor(rows))
            parts += [group] if fitting >= len(group) else by_program(group, max(1, int(fitting)))
        if min(threads, len(parts)) <= at_once:
            return parts
        at_once = min(threads, len(parts))


def _on_cores(trials: Sequence[Trial], cost: Callable[[str], Cost]) -> str:
    """The executor for a CPU."""
    workers = min(len(cores()), len(trials))
    if workers < 2:
        return "loop"
    costs = [cost(trial.program) for trial in trials]
    apart = workers * max(WORKER + 2 * each.data + each.memory for each in costs)
    if sum(each.seconds for each in costs) > LONG and apart < free_on("cpu"):
        return "processes"
    together = max((2 + workers) * each.data + workers * each.memory for each in costs)  # a copy of the data for each
    return "threads" if together < free_on("cpu") else "loop"


def cost_of(trial: Trial, files: RunFiles) -> Cost:
    """The cost of a trial, from XLA's count of a forward pass; a step takes about three of them."""
    import jax
    from flax import nnx

    from flaxvision.ops.policy import Policy

    dataset = dataset_of(trial, files)
    recipe = recipe_of(trial, files)
    model = nnx.eval_shape(lambda: create_model(trial, dataset))
    graphdef, state = nnx.split(model)
    x = jax.ShapeDtypeStruct((recipe.batch_size, *dataset.input_shape), "float32")
    with on_host():  # a GPU's compiler counts nothing before it compiles
        forward = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x)).lower(state, x).cost_analysis() or {}
    operations, traffic = 3 * forward.get("flops", 0.0), 3 * forward.get("bytes accessed", 0.0)
    seconds = recipe.total_steps(len(dataset.train)) * (operations / OPERATIONS + traffic / BYTES)
    policy = Policy.for_training(jax.default_backend(), stacked=True)
    patches = sum(step.form(recipe.batch_size, model.dtype, policy)[1] for step in model.walk())
    copies = 4 + (recipe.ema is not None)  # parameters, gradient, two of an optimizer, average; of four bytes
    memory = 4 * copies * sum(leaf.size for leaf in jax.tree.leaves(state)) + traffic + 2 * patches
    return Cost(seconds, memory, examples_on(jax.default_backend(), dataset))


def local_devices() -> int:
    """How many devices have a share of a vmapped cohort."""
    import jax

    return jax.local_device_count()
