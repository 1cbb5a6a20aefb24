"""Reads what people save of a PyTorch network: state_dicts, training checkpoints, shards, modules. Runs no code."""

from __future__ import annotations

import argparse
import importlib
import json
import pathlib
import pickle
import shlex
import types
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flaxvision._files import is_zip
from flaxvision.data.raw import check_members
from flaxvision.errors import UserError

# Turns a file with pickled objects into one of plain dictionaries, numbers, text and tensors, which always loads.
_PLAIN = (
    "p = lambda x: p(x.state_dict()) if hasattr(x, 'state_dict') else {k: p(v) for k, v in x.items()} "
    "if isinstance(x, dict) else [p(v) for v in x] if isinstance(x, (list, tuple)) "
    "else torch.as_tensor(x) if type(x).__module__ == 'numpy' and getattr(x, 'dtype', None) != object "
    "else x if isinstance(x, (torch.Tensor, int, float, str)) else None; "
    "torch.save(p(torch.load(sys.argv[1], map_location='cpu', weights_only=False)), sys.argv[2])"
)
_SCRIPTED = "torch.save(torch.jit.load(sys.argv[1], map_location='cpu').state_dict(), sys.argv[2])"
_EXPORTED = "torch.save(torch.export.load(sys.argv[1]).state_dict, sys.argv[2])"
_DEEPEST = 6  # levels of a checkpoint that are looked into: one may hold itself
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".json")
_FOREIGN = {  # how files of other kinds begin, and what to do
    b"version https://git-lfs": "it is the pointer that Git LFS leaves in its place: type git lfs pull",
    b"<": "it is a web page: download the file itself",
    b"\x89HDF": "it is an HDF5 file, as Keras writes them: give it to export.from_keras",
}


def import_torch() -> Any:
    """PyTorch, or the `UserError` that says how to install it."""
    try:
        import torch
    except ImportError as error:
        raise UserError("this needs PyTorch: pip install 'flaxvision[torch]'") from error
    return torch


def read(weights: Any) -> tuple[str, Any]:
    """What `weights` is called in messages, and what it holds: nested mappings and lists with tensors in them.

    The content decides what a file is, not its suffix.

    Raises:
        UserError: For a file that is missing, damaged, of another kind, or would run code.
    """
    if isinstance(weights, Mapping):
        return "the state_dict", weights
    if callable(getattr(weights, "state_dict", None)):
        return f"the {type(weights).__name__}", weights
    if not isinstance(weights, (str, pathlib.PurePath)):
        raise UserError(f"weights are a {type(weights).__name__}: give a file, a state_dict or a PyTorch module")
    path = Path(weights)
    if not path.is_file():
        what = f"is a folder with {_listed(path)}" if path.is_dir() else "does not exist"
        raise UserError(f"no weights file: {path} {what}; give a .safetensors, .pt, .pth or .bin file")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if path.suffix == ".json":
        return str(path), _read_shards(path)
    if head[8:9] == b"{":  # after the header's length, a JSON header
        return str(path), _read_safetensors(path)
    if head[:1] == b"P" and is_zip(path):
        _check_archive(path)
    elif head[:1] != b"\x80":  # a pickle, as PyTorch wrote before 1.6
        what = "safetensors" if path.suffix == ".safetensors" else "PyTorch"
        unknown = f"it begins with {head[:16]!r}: give one that torch.save or safetensors wrote, or download it again"
        why = next((words for start, words in _FOREIGN.items() if head.lstrip().startswith(start)), unknown)
        raise UserError(f"{path} is not a {what} file: {why if head else 'it is empty: download or save it again'}")
    return str(path), _read_torch(path)


def _listed(folder: Path) -> str:
    found = sorted(p.name for p in folder.iterdir() if p.suffix in _SUFFIXES)
    return ", ".join(found[:5]) + (", …" if len(found) > 5 else "") or "no weights file in it"


def _read_shards(path: Path) -> dict[str, Any]:
    """All shards of an index, such as model.safetensors.index.json, which lie beside it."""
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(files.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not an index of shards: it has no weight_map; give a .safetensors, .pt or .bin file"
        ) from error
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise UserError(
            f"{path} names {len(names)} files, of which {', '.join(missing[:3])} "
            f"{'is' if len(missing) == 1 else 'are'} not beside it: put all of them there"
        )
    return {tensor: value for name in names for tensor, value in read(path.parent / name)[1].items()}


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, AttributeError) as error:  # the last: a type that numpy lacks, such as float8
        raise UserError(f"{path} is not a safetensors file ({error}): save the state_dict again") from error


def _check_archive(path: Path) -> None:
    """Raise for a zip archive that is none of `torch.save`'s."""
    try:
        with zipfile.ZipFile(path) as archive:
            check_members(archive, path.stat().st_size, str(path))
            names = archive.namelist()
    except UserError:
        raise
    except Exception as error:  # what zipfile makes of damage
        raise UserError(f"{path} is not a PyTorch file ({error}): save the state_dict again with torch.save") from error
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner:
        why = f"is a TorchScript archive; for its numbers type: {_command(_SCRIPTED, path)}"
    elif "archive_format" in inner or "archive_format" in names:
        why = f"is a torch.export program; for its numbers type: {_command(_EXPORTED, path)}"
    elif "model.weights.h5" in names:
        why = "is not a PyTorch file: it is a Keras file; give it to export.from_keras"
    elif "data.pkl" in inner:
        return
    else:
        listed = (", ".join(names[:3]) or "nothing") + (", …" if len(names) > 3 else "")
        why = f"is not a PyTorch file: it is an archive of {listed}; give one that torch.save wrote"
    raise UserError(f"{path} {why}")


def _command(code: str, path: Path) -> str:
    """What to type for the tensors of a file that cannot be read as it is."""
    converted = path.with_name(f"{path.stem}.state_dict.pt")
    return f'python -c "import sys, torch; {code}" {shlex.quote(str(path))} {shlex.quote(str(converted))}'


def _read_torch(path: Path) -> Any:
    torch = import_torch()
    try:
        with torch.serialization.safe_globals(_harmless()), path.open("rb") as file:  # of a path the suffix would count
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever its bytes mean to the unpickler
        # PyTorch's own words where a class was met; a damaged file is an UnpicklingError as well.
        words = str(error)
        if isinstance(error, pickle.UnpicklingError) and "weights_only" in words and "global" in words.lower():
            raise UserError(
                f"{path} holds a pickled module or other objects, which are not loaded because they can run code; "
                f"where you trust it, type: {_command(_PLAIN, path)}"
            ) from error
        told = words.partition("WeightsUnpickler error:")[2] or words or "it ends too soon"
        reason = told.strip().partition("\n")[0][:200]
        raise UserError(
            f"{path} is not a PyTorch file ({reason}): save the state_dict again with torch.save"
        ) from error
    if not isinstance(content, (Mapping, tuple, list)) or not any(states(content)):
        raise UserError(f"{path} holds a {type(content).__name__} without named tensors: save a state_dict")
    return content


def _harmless() -> list[Any]:
    """What checkpoints hold beside tensors and does nothing when it is unpickled: options, paths, numpy's numbers."""
    kinds = [np.dtype, np.ndarray, *{type(np.dtype(code)) for code in "?bhilqBHILQefdg"}]
    plain = [argparse.Namespace, types.SimpleNamespace, pathlib.PosixPath, pathlib.PurePosixPath]
    multiarray = importlib.import_module("numpy._core.multiarray")  # numpy pickles its scalars and arrays by these
    functions = [multiarray.scalar, multiarray._reconstruct]
    older = [(function, f"numpy.core.multiarray.{function.__name__}") for function in functions]  # numpy 1
    return [*kinds, *plain, *functions, *older]


def states(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every mapping with named tensors in a checkpoint: the keys that lead to it, and itself.

    >>> import numpy as np
    >>> [keys for keys, _ in states({"net": {"fc.bias": np.zeros(3)}, "epoch": 3})]
    [('net',)]
    """
    if callable(getattr(content, "state_dict", None)):
        content = content.state_dict()
    if isinstance(content, Mapping) and all(isinstance(key, str) for key in content):
        if any(map(is_tensor, content.values())):
            yield path, dict(content)
        inner: Any = content.items()
    elif isinstance(content, (tuple, list)):
        inner = ((str(index), value) for index, value in enumerate(content))
    else:
        return
    if len(path) < _DEEPEST:
        for key, value in inner:
            yield from states(value, (*path, key))


def is_tensor(value: Any) -> bool:
    """Whether it is an array of any library."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def as_numpy(value: Any) -> Any:
    """A tensor as numpy, sparse ones dense and bfloat16 as float32; what has no plain numbers as it is."""
    if not hasattr(value, "detach"):
        return np.asarray(value) if is_tensor(value) else value
    value = value.detach()
    if value.is_quantized or value.is_meta:
        return value
    if is_sparse(value):
        value = value.to_dense()
    value = value.cpu()
    return (value.float() if value.dtype.is_floating_point and value.dtype.itemsize <= 2 else value).numpy()


def is_sparse(value: Any) -> bool:
    """Whether a tensor is stored by its non-zero values."""
    return hasattr(value, "layout") and str(value.layout) != "torch.strided"
