"""What a run would do, before anything of it is written."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

from flaxvision.errors import UserError
from flaxvision.sweep.cluster import check_alone
from flaxvision.sweep.executors import check_executor, check_models
from flaxvision.sweep.files import DataFolders, RunFiles
from flaxvision.sweep.parts import Part, part_of
from flaxvision.sweep.plan import Plan, plan
from flaxvision.sweep.spec import Spec


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
    check_models([trial.config.model.name for trial in checked.trials], executor)
    return checked, files
