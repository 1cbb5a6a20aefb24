"""What a run would do, before anything of it is written."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

from flaxvision.errors import UserError
from flaxvision.sweep.cluster import check_alone
from flaxvision.sweep.executors import check_executor, check_functions
from flaxvision.sweep.files import DataFolders, RunFiles
from flaxvision.sweep.keeping import own_functions
from flaxvision.sweep.parts import Part, part_of
from flaxvision.sweep.plan import Plan, plan
from flaxvision.sweep.spec import BATCH, Spec


def check(
    spec: Spec,
    out_dir: str | Path | None,
    data: DataFolders,
    executor: str,
    *,
    resume: bool,
    part: str | None = None,
) -> tuple[Plan, RunFiles]:
    """What a run would do, and where; checked as by `run`, but for what is in the run directory."""
    check_executor(executor)
    check_alone()
    if resume and out_dir is None:
        raise UserError("--resume continues an existing run: name it with --out DIR")
    new = Path("runs") / f"{spec.name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    files = RunFiles(new if out_dir is None else Path(out_dir), data)
    checked = plan(spec, files)
    if part is not None:
        files = dataclasses.replace(files, part=Part.parse(part))
        checked = part_of(checked, files, given=out_dir is not None)
    check_functions(own_functions(checked.trials), executor)
    check_devices(checked.spec, executor)
    return checked, files


def check_devices(spec: Spec, executor: str) -> None:
    """Raise `UserError` for an executor that cannot use this machine's devices, or not as a spec says."""
    import jax

    if executor == "ray" and spec.devices == BATCH:
        raise UserError(f"devices is {BATCH!r} but executor 'ray' trains each trial on one device: leave it out")
    if executor == "processes" and (platform := jax.default_backend()) != "cpu":
        raise UserError(
            f"executor 'processes' is for CPUs, as each worker would take the memory of the whole {platform}: give "
            "'threads' or 'vmap', or 'auto', which chooses"
        )
