"""Functions of the user's own by name, "package.module:function" or "file.py:function", as their files are now."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

from flaxvision._describe import codes_of, describe_code, is_library
from flaxvision.errors import UserError

Function = Any  # whatever the user's file holds under a name, called with what it is for
_sources: dict[str, tuple[types.ModuleType, str]] = {}  # name -> the module as imported, its source's checksum
_STARTED = time.time()
_importing = threading.RLock()


def import_function(what: str, name: str) -> Function:
    """What a name stands for, of which `what` says the setting.

    Raises:
        UserError: If there is no such module, file or function, or importing it fails.
    """
    module, _, function = name.rpartition(":")
    try:
        return getattr(import_module(module), function)
    except (Exception, SystemExit) as error:  # whatever a module of the user's raises
        plain = isinstance(error, (ImportError, AttributeError, OSError))
        reason = error if plain else f"{type(error).__name__}: {error}"
        raise UserError(
            f"{what} {name!r} cannot be imported ({reason}): give package.module:function or file.py:function"
        ) from error


def code_of(what: str, name: str) -> dict[str, str]:
    """A checksum of each part of one's own that a function runs, see `flaxvision._describe.describe_code`."""
    return describe_code(import_function(what, name), name.rpartition(":")[0])


def import_module(name: str) -> types.ModuleType:
    """A module, or a file of Python, of whose files it is noted what they are."""
    module = _import_file(name) if name.endswith(".py") else importlib.import_module(name)
    if _sources.get(name, (None, ""))[0] is not module:
        for each in _own_modules(name).values():
            _is_stale(each)
    return module


def _import_file(name: str) -> types.ModuleType:
    """The module that a file holds; in `sys.modules` it is called by the path as given."""
    path = Path(name).resolve()
    with _importing:
        module = sys.modules.get(name)
        if module is not None and module.__file__ == str(path):
            return module
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None  # there is a loader for ".py"
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))  # for the modules beside it, as if it were a script
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module


def refresh(name: str) -> None:
    """Forget a function's module, and those of one's own that it imports, where a file of theirs has changed since.

    What is imported next is then the files' content. A script that runs (`__main__`) stays what it is.
    """
    modules = _own_modules(name.rpartition(":")[0])
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
        if module and file and each not in found and each != "__main__" and not is_library(each, file, name):
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
