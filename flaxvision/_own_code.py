"""Functions of the user's own by name, "package.module:function" or "file.py:function", as their files are now."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import sys
import threading
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flaxvision._describe import codes_of, describe_code, is_library
from flaxvision.errors import UserError

Function = Any  # whatever the user's file holds under a name, called with what it is for
_sources: dict[str, tuple[types.ModuleType, str]] = {}  # name -> the module as imported, its source's checksum
_copies: Copies | None = None  # what is taken in place of modules
_reading_script = False  # whether the copy of a script is being imported
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
    copy = _copies.files.get(name) if _copies is not None else None
    if copy is not None and _copies is not None and (name.endswith(".py") or name == "__main__"):
        module = _import_file(name, _copies.folder / copy)
    elif name.endswith(".py"):
        module = _import_file(name, Path(name).resolve())
    else:
        module = importlib.import_module(name)
    if _sources.get(name, (None, ""))[0] is not module:
        for each in _own_modules(name).values():
            _is_stale(each)
    return module


def _import_file(name: str, path: Path) -> types.ModuleType:
    """The module that a file holds; in `sys.modules` it is called by the name as given, but none takes `__main__`'s."""
    global _reading_script
    script = name == "__main__"
    name = str(path) if script else name
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
        _reading_script = _reading_script or script
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        finally:
            _reading_script = False
        return module


def check_not_reading() -> None:
    """Raise `UserError` in a script that is only read for a function in it, where it would begin its sweep again."""
    if _reading_script:
        raise UserError(
            "the script that made this run begins a sweep when its functions are read: put that below "
            "if __name__ == '__main__', or the functions into a file of their own"
        )


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


def files_of(function: str) -> dict[str, Path]:
    """The source files of the module of a function, "module:function", and of those of one's own that it imports.

    Each by the name of its module. What belongs to an installed package is none of one's own, nor what has no source.
    """
    name = function.rpartition(":")[0]
    modules = _own_modules(name)
    if name == "__main__" and (script := getattr(sys.modules["__main__"], "__file__", None)):
        modules[name] = sys.modules[name]
        for imported in _imports(Path(script), ""):
            modules |= _own_modules(imported)
    files = {each: str(module.__file__) for each, module in modules.items()}
    return {each: Path(file) for each, file in files.items() if file.endswith(".py") and not is_library(each, file)}


@dataclasses.dataclass(frozen=True, slots=True)
class Copies:
    """Copies of modules of one's own in a folder."""

    folder: Path
    files: Mapping[str, str]  # name of a module, as it is imported -> its file in the folder


def copies_taken() -> Copies | None:
    """The copies that are imported in place of modules in this process."""
    return _copies


def take_copies(copies: Copies | None) -> None:
    """Import these copies from now on, or the modules themselves again."""
    global _copies
    if copies == _copies:
        return
    for each in filter(None, (_copies, copies)):
        for name in each.files:
            if name != "__main__":
                sys.modules.pop(name, None)
            _sources.pop(name, None)
    if _copies is not None:
        sys.path.remove(str(_copies.folder))
    if copies is not None:
        sys.path.insert(0, str(copies.folder))  # where modules are found that are given by their names
    _copies = copies
    importlib.invalidate_caches()


@contextlib.contextmanager
def taking(copies: Copies | None) -> Iterator[None]:
    """Within it these copies are imported in place of the modules."""
    before = _copies
    take_copies(copies)
    try:
        yield
    finally:
        take_copies(before)
