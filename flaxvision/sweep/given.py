"""A sweep as Python gives it, turned into what TOML holds."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from flaxvision.errors import UserError


def as_toml(value: object, where: str) -> Any:
    """A value as TOML would hold it: arrays and tuples as lists, functions and classes by name; None is left out.

    Args:
        value: The value, or a table of them.
        where: What an error calls it.

    Raises:
        UserError: For a function that has no name by which it could be imported.

    >>> as_toml({"hidden": (8, 4), "limit": None}, "sizes")
    {'hidden': [8, 4]}
    """
    if isinstance(value, Mapping):
        given = {str(key): item for key, item in value.items() if item is not None}
        return {key: as_toml(item, f"{where} {key}") for key, item in given.items()}
    if hasattr(value, "tolist"):  # NumPy's, JAX's and PyTorch's numbers and arrays
        return value.tolist()
    if isinstance(value, (list, tuple, range)):
        return [as_toml(item, where) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, (types.FunctionType, type)):
        return _name_of(value, where)
    return value


def _name_of(made: types.FunctionType | type, where: str) -> str:
    """The name by which a spec gives a function, or a class of PyTorch's modules."""
    if "<" in made.__qualname__:  # "<lambda>", or within another: "outer.<locals>.inner"
        raise UserError(
            f"{where} is {made.__qualname__}, which no other process could import: give a function of a module's top "
            "level, or its name as 'package.module:function'"
        )
    torch = sys.modules.get("torch")
    of_torch = torch is not None and isinstance(made, type) and issubclass(made, torch.nn.Module)
    return f"{'torch:' * of_torch}{made.__module__}:{made.__qualname__}"
