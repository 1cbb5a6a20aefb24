"""The user's own code in a run: copied when it begins, and taken by who goes on with it where it is gone elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from flaxvision import _own_code
from flaxvision._files import write_atomically
from flaxvision._own_code import Copies
from flaxvision.errors import UserError

INDEX = "index.json"  # module, as it is imported -> its file in the folder


def keep_code(functions: Iterable[str], folder: Path) -> list[str]:
    """Copy the files that functions, "module:function", are made of, with the modules of one's own that they import.

    Returns:
        What is to be said: a line for each function of which there is no file.
    """
    found: dict[str, Path] = {}
    notes = []
    for function in functions:
        files = _own_code.files_of(function)
        if not files and function.startswith("__main__:"):
            notes.append(
                f"the code of {function} is not kept in the run: it lies in no file, such as that of a notebook"
            )
        found |= files
    if not found:
        return notes
    index: dict[str, str] = {}
    for name, source in found.items():
        copy = _place(name, source, set(index.values()))
        path = folder / copy
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or not path.samefile(source):
            write_atomically(path, source.read_bytes())
        index[name] = copy
    write_atomically(folder / INDEX, json.dumps(index, indent=1) + "\n")
    return notes


def _place(name: str, source: Path, taken: set[str]) -> str:
    """Where in the folder a module lies: as its name says, or a file that was given by its path under its own name."""
    if name.endswith(".py") or name == "__main__":
        stem, number = source.stem, 1
        while (place := f"{stem}.py") in taken:
            number += 1
            stem = f"{source.stem}_{number}"
        return place
    parts = name.replace(".", "/")
    return f"{parts}/__init__.py" if source.name == "__init__.py" else f"{parts}.py"


def copies_in(folder: Path) -> Copies | None:
    """The copies of a run's code folder; None where there are none.

    Raises:
        UserError: If the folder is damaged.
    """
    try:
        files = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {folder / INDEX} ({error}): give a run whose code is whole") from error
    return Copies(folder.resolve(), {str(name): str(file) for name, file in files.items()})


def copies_wanted(
    functions: Iterable[str], folder: Path, recorded: Mapping[str, object] | None = None
) -> tuple[Copies | None, list[str]]:
    """The copies of a run where a function's own code is gone, or not that on record; and a line for each such one.

    Args:
        functions: "module:function" each.
        folder: The run's code folder.
        recorded: Function -> the code on record, as `flaxvision._own_code.code_of` gives it; None: it may have changed.
    """
    copies = copies_in(folder)
    if copies is None:
        return None, []
    notes = []
    for function in functions:
        if function.rpartition(":")[0] in copies.files and (why := _unlike(function, recorded or {})):
            notes.append(f"the code of {function} {why}: the run's own copy is taken")
    return (copies if notes else None), notes


def _unlike(function: str, recorded: Mapping[str, object]) -> str:
    """How a function differs from the one on record, in words; "" where it does not."""
    try:
        now = _own_code.code_of("code", function)
    except UserError:
        return "is not here"
    return "has changed" if recorded.get(function, now) != now else ""
