"""The runs of a folder."""

from __future__ import annotations

from pathlib import Path

from flaxvision.errors import UserError
from flaxvision.runs._open import Run
from flaxvision.runs._open import open as open_run
from flaxvision.sweep.parse import SPEC


def list_runs(folder: str | Path = "runs") -> list[Run]:
    """The runs in a folder, the oldest first; folders that hold no run are passed over.

    Args:
        folder: Where sweeps leave their runs, as "runs", or one run.

    Raises:
        UserError: If there is no such folder, or a run in it cannot be read.
    """
    runs, broken = find_runs(folder)
    if broken:
        raise UserError(next(iter(broken.values())))
    return runs


def find_runs(folder: str | Path) -> tuple[list[Run], dict[Path, str]]:
    """The same, and the runs that cannot be read, with what is wrong."""
    folder = Path(folder)
    runs: list[Run] = []
    broken: dict[Path, str] = {}
    try:
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}: give the one in which your runs are")
        found = [folder] if (folder / SPEC).is_file() else sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}; give a folder that you can") from error
    for directory in found:
        try:
            if (directory / SPEC).is_file():
                runs.append(open_run(directory))
        except UserError as error:
            broken[directory] = str(error)
        except OSError as error:  # it may be none
            broken[directory] = f"cannot read {directory}: {error.strerror}"
    return sorted(runs, key=lambda run: (run.ended, run.directory)), broken
