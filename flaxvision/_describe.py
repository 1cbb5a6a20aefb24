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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard, Union

import numpy as np

if TYPE_CHECKING:
    import jax

Plain = Union[None, bool, int, float, str, "Sequence[Plain]", "Mapping[str, Plain]"]  # what JSON holds

MOST_PARTS = 20_000  # parts of one object
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")
_INSTALLED = ("site-packages", "dist-packages")
_COMPUTE = ("jax", "jaxlib", "flax", "optax", "chex", "numpy")  # wherever they lie
_OF_THIS_PROCESS = ("_io", "_thread", "weakref")


class Indescribable(Exception):
    """What has no description that another process could compare; says what it is."""


def digest(value: object) -> str:
    """Sixteen hexadecimal digits of plain data."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def describe(value: object, own: str = "") -> Plain:
    """An object as plain data.

    Args:
        value: Numbers, arrays, containers, functions, classes or objects made of them.
        own: A module whose top-level package counts as one's own, wherever it lies.

    Raises:
        Indescribable: For an object, such as an open file or a generator, that only this process has.
    """
    return _Describer(own, strict=True).of(value)


def describe_code(function: object, own: str) -> dict[str, str]:
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
        self.own, self.strict, self.count = own, strict, 0
        self.parts: dict[str, str] = {}  # functions and classes of one's own, by name
        self.within: dict[int, int] = {}  # id of what is being described -> its depth

    def of(self, value: object) -> Plain:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, (str, int)):
            return str(value) if isinstance(value, str) else int(value)
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

    def _compound(self, value: object) -> Plain:
        match value:
            case bytes() | bytearray():
                return f"bytes {hashlib.sha256(value).hexdigest()[:16]}"
            case complex():
                return repr(value)
            case np.ndarray() | np.generic():
                return _array(value)
            case _ if _is_jax(value):
                return _array(value)
            case tuple() if hasattr(value, "_fields"):
                return {"type": _name(type(value)), **dict(zip(value._fields, map(self.of, value), strict=True))}
            case list() | tuple():
                return [self.of(item) for item in value]
            case dict():
                return {k if isinstance(k, str) else json.dumps(self.of(k)): self.of(v) for k, v in value.items()}
            case set() | frozenset():
                return sorted(map(self.of, value), key=lambda item: json.dumps(item, sort_keys=True))
            case functools.partial():
                arguments = {"args": self.of(value.args), "keywords": self.of(value.keywords)}
                return {"partial": self.of(value.func), **arguments}
            case types.MethodType():
                return {"method": self.of(value.__func__), "of": self.of(value.__self__)}
            case types.FunctionType():
                return self._function(value)
            case types.ModuleType():
                return f"module {value.__name__}"
            case type():
                return self._class(value)
        if hasattr(value, "__wrapped__"):  # jit, custom_jvp, lru_cache
            return self.of(value.__wrapped__)
        return self._object(value)

    def _function(self, function: types.FunctionType) -> Plain:
        code = function.__code__
        library = is_library(function.__module__ or "", code.co_filename, self.own)
        name = f"{function.__module__}.{function.__qualname__}" if library else function.__qualname__
        described: dict[str, Plain] = {"function": name}
        for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                described[variable] = self.of(cell.cell_contents)
            except ValueError:  # not set yet
                described[variable] = "(nothing)"
        if library:
            return described if len(described) > 1 else name
        if function.__defaults__ or function.__kwdefaults__:
            described["defaults"] = self.of([function.__defaults__, function.__kwdefaults__])
        described["globals"] = self._globals(code, function.__globals__)
        described["code"] = digest(_code(code))
        self.parts[function.__qualname__] = digest(described)
        return described

    def _globals(self, code: types.CodeType, module: Mapping[str, object]) -> dict[str, Plain]:
        """What the code names of its module and, through modules of one's own, of others."""
        names = sorted({name for each in codes_of(code) for name in each.co_names})
        found: dict[str, Plain] = {}

        def look(prefix: str, namespace: Mapping[str, object], deep: tuple[str, ...]) -> None:
            for name in (name for name in names if name in namespace):
                value = namespace[name]
                if isinstance(value, types.ModuleType):
                    file = getattr(value, "__file__", None)
                    if value.__name__ not in deep and not is_library(value.__name__, file, self.own):
                        look(f"{prefix}{name}.", vars(value), (*deep, value.__name__))
                elif not (prefix and name.startswith("__")):
                    found[prefix + name] = self.of(value)

        look("", module, ())
        return found

    def _class(self, cls: type) -> Plain:
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        if is_library(cls.__module__, file, self.own):
            return _name(cls)
        described: dict[str, Plain] = {"class": cls.__qualname__, "bases": [self.of(base) for base in cls.__bases__]}
        for name, member in vars(cls).items():
            function = getattr(member, "__func__", getattr(member, "fget", member))
            if isinstance(function, types.FunctionType) or not name.startswith("_"):
                described[name] = self.of(function)
        self.parts[cls.__qualname__] = digest(described)
        return described

    def _object(self, value: object) -> Plain:
        if isinstance(value, (types.BuiltinFunctionType, types.MethodDescriptorType, np.ufunc)):
            return f"{getattr(value, '__module__', None) or ''}.{getattr(value, '__qualname__', value.__name__)}"
        described = self._class(type(value))
        library = isinstance(described, str)
        if library and not self.strict:  # a global such as a logger, which leads everywhere
            return described
        attributes = {name: self.of(item) for name, item in dict(_attributes(value)).items()}
        if attributes:
            return {"type": described, **attributes}
        text = repr(value)
        if library and (_ADDRESS.search(text) or type(value).__module__ in _OF_THIS_PROCESS):
            raise Indescribable(f"a {type(value).__name__}")
        return [described, text] if library else described


def _attributes(value: object) -> Iterator[tuple[str, object]]:
    yield from getattr(value, "__dict__", {}).items()
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)


def _code(code: types.CodeType) -> Plain:
    """Compiled code without names of files and numbers of lines."""

    def constant(value: object) -> Plain:
        if isinstance(value, types.CodeType):
            return _code(value)
        return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)

    counts = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags]
    names = [code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars]
    constants, table = [constant(value) for value in code.co_consts], code.co_exceptiontable
    return [sys.version_info[:2], code.co_code.hex(), table.hex(), constants, counts, *names]


def codes_of(code: types.CodeType) -> Iterator[types.CodeType]:
    """A code object and those of the functions and classes in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes_of(constant)


def _is_jax(value: object) -> TypeGuard[jax.Array]:
    return "jax" in sys.modules and isinstance(value, sys.modules["jax"].Array)


def _array(value: object) -> Plain:
    if _is_jax(value):
        import jax

        if isinstance(value, jax.core.Tracer):
            raise Indescribable("a value that JAX traces")
        if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise Indescribable("an array of objects")
    if array.ndim == 0:
        item = array.item()
        plain = isinstance(item, (bool, int)) or (isinstance(item, float) and math.isfinite(item))
        return item if plain else repr(item)
    content = hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"").hexdigest()
    return f"{array.dtype}{list(array.shape)} {content[:16]}"


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
