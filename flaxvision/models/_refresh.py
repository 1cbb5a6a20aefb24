"""Modules of the user's own that were imported before their files changed."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import sys
import time
import types
from pathlib import Path

from flaxvision._describe import codes_of, is_library

_sources: dict[str, tuple[types.ModuleType, str]] = {}  # name -> the module as imported, its source's checksum
_STARTED = time.time()


def import_module(name: str) -> types.ModuleType:
    """A module, of whose files it is noted what they are."""
    module = importlib.import_module(name)
    if _sources.get(name, (None, ""))[0] is not module:
        for each in _own_modules(name).values():
            _is_stale(each)
    return module


def refresh_module(name: str) -> None:
    """Forget a module, and those of one's own that it imports, where a file of theirs has changed since its import.

    What is imported next is then the files' content. A script that runs (`__main__`) stays what it is.
    """
    modules = _own_modules(name)
    if any([_is_stale(module) for module in modules.values()]):
        for each, module in modules.items():
            del sys.modules[each]
            if module.__spec__ is not None and module.__spec__.cached:  # Python trusts it within a second of a change
                with contextlib.suppress(OSError):
                    Path(module.__spec__.cached).unlink()
        importlib.invalidate_caches()


def _own_modules(name: str) -> dict[str, types.ModuleType]:
    """The module `name` and those of one's own that it imports, as deep as imports lead, of those that are imported."""
    found: dict[str, types.ModuleType] = {}
    waiting = [name]
    while waiting:
        each = waiting.pop()
        module = sys.modules.get(each)
        file = getattr(module, "__file__", None)
        if each in found or module is None or each == "__main__" or not file or is_library(each, file, name):
            continue
        found[each] = module
        waiting += [each.rpartition(".")[0], *_imports(Path(file), getattr(module, "__package__", None) or "")]
    return found


def _imports(file: Path, package: str) -> list[str]:
    """The names of the modules that a source file may import."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(part for part in (parent, node.module) if part)
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [".".join(name.split(".")[: end + 1]) for name in names for end in range(name.count(".") + 1)]


def _is_stale(module: types.ModuleType) -> bool:
    """Whether a module's file is no longer what the module was made of, as far as is known."""
    path = Path(str(module.__file__))
    try:
        source, changed = path.read_bytes(), path.stat().st_mtime
    except OSError:
        return False  # gone, or inside an archive: what is imported is all there is
    checksum = hashlib.sha256(source).hexdigest()
    known, kept = _sources.get(module.__name__, (None, ""))
    if known is module:
        return kept != checksum
    _sources[module.__name__] = module, checksum
    return known is None and changed > _STARTED and _is_older(module, source)


def _is_older(module: types.ModuleType, source: bytes) -> bool:
    """Whether a module that others imported holds a function that its file does not."""
    file = str(module.__file__)
    try:
        compiled = set(codes_of(compile(source, file, "exec", dont_inherit=True)))
    except (SyntaxError, ValueError):
        return False
    functions = [value for value in vars(module).values() if isinstance(value, types.FunctionType)]
    return any(each.__code__.co_filename == file and each.__code__ not in compiled for each in functions)
