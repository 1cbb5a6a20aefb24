"""Objects of Python as plain data by what they hold and do, the same in every process.

A function of a library (any under site-packages, and flaxvision itself) is its name and the values that it closes
over. One's own is its compiled code, with the globals that the code names, as deep as they lead through one's own
modules: comments, formatting and what else lies in the file do not count.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

MOST_PARTS = 20_000  # parts of one object
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")
_INSTALLED = ("site-packages", "dist-packages")
_COMPUTE = ("jax", "jaxlib", "flax", "optax", "chex", "numpy")  # wherever they lie
_OF_THIS_PROCESS = ("_io", "_thread", "weakref")


class Indescribable(Exception):
    """What has no description that another process could compare; says what it is."""


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits of plain data."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def describe(value: Any, own: str = "") -> Any:
    """An object as plain data.

    Args:
        value: Numbers, arrays, containers, functions, classes or objects made of them.
        own: A module whose top-level package counts as one's own, wherever it lies.

    Raises:
        Indescribable: For an object, such as an open file or a generator, that only this process has.
    """
    return _Describer(own, strict=True).of(value)


def describe_code(function: Any, own: str) -> dict[str, str]:
    """The code that a function of one's own runs: name of each function, class and global of one's own -> a digest."""
    describer = _Describer(own, strict=False)
    name = getattr(function, "__qualname__", type(function).__name__)
    return dict(sorted({name: digest(describer.of(function)), **describer.parts}.items()))


def is_library(module: str, file: str | None, own: str = "") -> bool:
    """Whether a module belongs to Python or to an installed package, rather than to the user."""
    top = module.partition(".")[0]
    if own and top == own.partition(".")[0]:
        return False
    if file is None:
        return top != "__main__"
    installed = any(part in _INSTALLED for part in Path(file).parts)
    return installed or top in _COMPUTE or file.startswith(("<frozen", *_library_folders()))


@functools.cache
def _library_folders() -> tuple[str, ...]:
    ours = Path(__file__).parent
    paths = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), str(ours), str(ours.parent / "export")]
    return tuple(dict.fromkeys(form + os.sep for path in paths for form in (path, os.path.realpath(path))))


class _Describer:
    def __init__(self, own: str, *, strict: bool):
        self.own, self.strict = own, strict
        self.parts: dict[str, str] = {}  # functions and classes of one's own, by name
        self.within: dict[int, int] = {}  # id of what is being described -> its depth
        self.count = 0

    def of(self, value: Any) -> Any:
        if value is None or isinstance(value, (bool, str)):
            return str(value) if isinstance(value, str) else value
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else repr(float(value))
        if id(value) in self.within:
            return f"(itself, {len(self.within) - self.within[id(value)]} above)"
        self.within[id(value)] = len(self.within)
        self.count += 1
        try:
            if self.count > MOST_PARTS:
                raise Indescribable(f"a {_name(type(value))} of too many parts")
            return self._compound(value)
        except Indescribable:
            if self.strict:
                raise
            return _name(type(value))
        finally:
            del self.within[id(value)]

    def _compound(self, value: Any) -> Any:
        if isinstance(value, (bytes, bytearray)):
            return f"bytes {hashlib.sha256(value).hexdigest()[:16]}"
        if isinstance(value, complex):
            return repr(value)
        if isinstance(value, (np.ndarray, np.generic)) or _is_jax(value):
            return _array(value)
        if isinstance(value, (list, tuple)):
            fields = getattr(value, "_fields", None)
            if fields is not None:
                return {"type": _name(type(value)), **dict(zip(fields, map(self.of, value), strict=True))}
            return [self.of(item) for item in value]
        if isinstance(value, dict):
            return {key if isinstance(key, str) else json.dumps(self.of(key)): self.of(v) for key, v in value.items()}
        if isinstance(value, (set, frozenset)):
            return sorted((self.of(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
        if isinstance(value, functools.partial):
            return {"partial": self.of(value.func), "args": self.of(value.args), "keywords": self.of(value.keywords)}
        if isinstance(value, types.MethodType):
            return {"method": self.of(value.__func__), "of": self.of(value.__self__)}
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.ModuleType):
            return f"module {value.__name__}"
        if isinstance(value, type):
            return self._class(value)
        if hasattr(value, "__wrapped__"):  # jit, custom_jvp, lru_cache
            return self.of(value.__wrapped__)
        return self._object(value)

    def _function(self, function: types.FunctionType) -> Any:
        code = function.__code__
        library = is_library(function.__module__ or "", code.co_filename, self.own)
        described: dict[str, Any] = {"function": function.__qualname__}
        if library:
            described["function"] = f"{function.__module__}.{function.__qualname__}"
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                described[name] = self.of(cell.cell_contents)
            except ValueError:  # not set yet
                described[name] = "(nothing)"
        if library:
            return described if len(described) > 1 else described["function"]
        if function.__defaults__ or function.__kwdefaults__:
            described["defaults"] = self.of([function.__defaults__, function.__kwdefaults__])
        described["globals"] = self._globals(code, function.__globals__)
        described["code"] = digest(_code(code))
        self.parts[function.__qualname__] = digest(described)
        return described

    def _globals(self, code: types.CodeType, module: dict[str, Any]) -> dict[str, Any]:
        """What the code names of its module and, through modules of one's own, of others."""
        names = sorted({name for each in codes_of(code) for name in each.co_names})
        found: dict[str, Any] = {}

        def look(prefix: str, namespace: dict[str, Any], deep: tuple[str, ...]) -> None:
            for name in names:
                if name not in namespace:
                    continue
                value = namespace[name]
                if isinstance(value, types.ModuleType):
                    file = getattr(value, "__file__", None)
                    if value.__name__ not in deep and not is_library(value.__name__, file, self.own):
                        look(f"{prefix}{name}.", vars(value), (*deep, value.__name__))
                elif not (prefix and name.startswith("__")):
                    found[prefix + name] = self.of(value)

        look("", module, ())
        return found

    def _class(self, cls: type) -> Any:
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        if is_library(cls.__module__, file, self.own):
            return _name(cls)
        described: dict[str, Any] = {"class": cls.__qualname__, "bases": [self.of(base) for base in cls.__bases__]}
        for name, member in vars(cls).items():
            function = getattr(member, "__func__", getattr(member, "fget", member))
            if isinstance(function, types.FunctionType) or not name.startswith("_"):
                described[name] = self.of(function)
        self.parts[cls.__qualname__] = digest(described)
        return described

    def _object(self, value: Any) -> Any:
        if isinstance(value, (types.BuiltinFunctionType, types.MethodDescriptorType, np.ufunc)):
            return f"{getattr(value, '__module__', None) or ''}.{getattr(value, '__qualname__', value.__name__)}"
        described = self._class(type(value))
        if not self.strict and isinstance(described, str):  # a global such as a logger, which leads everywhere
            return described
        attributes = dict(_attributes(value))
        if attributes:
            return {"type": described, **{name: self.of(item) for name, item in attributes.items()}}
        text = repr(value)
        if isinstance(described, str) and (_ADDRESS.search(text) or type(value).__module__ in _OF_THIS_PROCESS):
            raise Indescribable(f"a {type(value).__name__}")
        return [described, text] if isinstance(described, str) else described


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    yield from getattr(value, "__dict__", {}).items()
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)


def _code(code: types.CodeType) -> list[Any]:
    """Compiled code without names of files and numbers of lines."""
    constants = [
        _code(constant)
        if isinstance(constant, types.CodeType)
        else sorted(map(repr, constant))
        if isinstance(constant, frozenset)
        else repr(constant)
        for constant in code.co_consts
    ]
    counts = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags]
    names = [code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars]
    table = getattr(code, "co_exceptiontable", b"")
    return [list(sys.version_info[:2]), code.co_code.hex(), table.hex(), constants, counts, *map(list, names)]


def codes_of(code: types.CodeType) -> Iterator[types.CodeType]:
    """A code object and those of the functions and classes in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes_of(constant)


def _is_jax(value: Any) -> bool:
    jax: Any = sys.modules.get("jax")
    return jax is not None and isinstance(value, jax.Array)


def _array(value: Any) -> Any:
    jax: Any = sys.modules.get("jax")
    if jax is not None and isinstance(value, jax.core.Tracer):
        raise Indescribable("a value that JAX traces")
    if _is_jax(value) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise Indescribable("an array of objects")
    if array.ndim == 0:
        item = array.item()
        return (
            item if isinstance(item, (bool, int)) or (isinstance(item, float) and math.isfinite(item)) else repr(item)
        )
    content = hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"").hexdigest()
    return f"{array.dtype}{list(array.shape)} {content[:16]}"


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
