"""Finds a model's tensors in a checkpoint by their names, whatever key, prefix or wrapper they lie under."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import Counter
from typing import Any

import jax.numpy as jnp
import numpy as np

from export._checkpoints import as_numpy, is_sparse, is_tensor, read, states
from flaxvision.errors import UserError
from flaxvision.models._state_dict import COUNTER

_IGNORED = (COUNTER, "n_averaged")  # counts, the second one that of torch.optim.swa_utils.AveragedModel
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # what PyTorch's own add
_SECOND = re.compile("ema|swa|avg|average|shadow|teacher|optim", re.IGNORECASE)  # a key of what is not trained itself
_SHOWN = 9  # mismatches that a message lists
_OTHER, _MISSING, _LEFT = "of another shape or type", "missing", "not in the model"
_LOG = logging.getLogger("flaxvision")


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked for, and where."""

    shapes: dict[str, tuple[int, ...]]  # a model's tensors by PyTorch's names
    kind: str  # the model's, for messages
    key: str = ""  # of `from_torch`, as the next two
    prefix: str = ""
    into: str = ""
    whole: bool = True  # nothing may be left over
    ignored: frozenset[str] = frozenset()  # but these

    def tail(self, name: str) -> str | None:
        """What the name of one of our tensors ends in, in the checkpoint; None where it cannot be there."""
        return name[len(self.into) :] if name.startswith(self.into) else None


@dataclasses.dataclass(frozen=True, slots=True)
class Names:
    """A checkpoint's entries by their whole names, "key.name", in its order."""

    values: dict[str, Any]
    keys: dict[str, str]  # whole name -> key of the mapping that it lies in

    @classmethod
    def of(cls, content: Any, key: str) -> Names:
        """Those at `key` or below it."""
        found = [
            (".".join((*path, name)), ".".join(path), value)
            for path, mapping in states(content)
            if not key or ".".join((*path, "")).startswith(f"{key}.")
            for name, value in mapping.items()
        ]
        return cls({name: value for name, _, value in found}, {name: at for name, at, _ in found})

    def unwrapped(self) -> Names:
        """The same without the names that wrappers leave inside names; itself where two would become one."""
        short = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in self.values}
        if len(set(short.values())) < len(short):
            return self
        return Names({short[n]: v for n, v in self.values.items()}, {short[n]: k for n, k in self.keys.items()})

    def key_of(self, start: str) -> str:
        """The longest key that `start`, the beginning of whole names, lies at."""
        known = [key for key in set(self.keys.values()) if f"{start}.".startswith(f"{key}.") or start == f"{key}."]
        return max(known, key=len, default="")


@dataclasses.dataclass(frozen=True, slots=True)
class Fit:
    """The tensors that begin in one way, beside the model's."""

    start: str  # what comes before the model's names: key and prefix
    key: str
    prefix: str  # what is taken off the names beyond the key
    taken: dict[str, Any]  # the model's name -> value
    wrong: dict[str, list[str]]  # in words, by what is wrong: `_MISSING`, `_OTHER`, `_LEFT`
    others: tuple[str, ...]  # entries beside them that are not tensors

    @property
    def count(self) -> int:
        """How many tensors are wrong."""
        return sum(map(len, self.wrong.values()))


def find(weights: Any, wanted: Wanted) -> dict[str, np.ndarray]:
    """The wanted tensors of a file, checkpoint, mapping or module, by the model's names.

    Raises:
        UserError: If `weights` cannot be read, or nothing in it fits; three lines say what does not.
    """
    source, content = read(weights)
    names = Names.of(content, wanted.key)
    if wanted.key and not names.values:
        there = ", ".join(repr(".".join(path)) for path, _ in states(content) if path)
        raise UserError(f"{source} has no tensors at key={wanted.key!r}: it has some at {there or 'its top'}")
    closest: list[Fit] = []
    for form in (names, names.unwrapped()):
        fits = [_fit(form, start, wanted) for start in _starts(form, wanted)]
        good = sorted((fit for fit in fits if not fit.count), key=lambda fit: bool(_SECOND.search(fit.key)))
        if good:
            _say(source, good, form, wanted, unwrapped=form is not names)
            return good[0].taken
        closest += fits
    raise UserError(_misfit(source, names, min(closest, key=lambda fit: fit.count), wanted))


def _starts(names: Names, wanted: Wanted) -> list[str]:
    """Beginnings of whole names that some of the wanted names follow, in order; the likeliest one where none does."""
    tails = {wanted.tail(name) for name in wanted.shapes}
    found: Counter[str] = Counter()
    for name in names.values:
        cuts = [0, *(match.end() for match in re.finditer(r"\.", name))]
        found.update(name[:cut] for cut in cuts if name[cut:] in tails)
    known = set(names.keys.values())
    prefix = wanted.prefix
    ends = [s for s in found if not prefix or (s.endswith(prefix) and s[: -len(prefix)].rstrip(".") in known)]
    if ends:
        return ends
    sizes = Counter(names.keys.values())
    key = max(sizes, key=sizes.__getitem__, default="")
    return [(f"{key}." if key else "") + prefix]


def _fit(names: Names, start: str, wanted: Wanted) -> Fit:
    key = names.key_of(start)
    cut = len(key) + bool(key)
    places = {name: start + tail for name in wanted.shapes if (tail := wanted.tail(name)) is not None}
    there = {name: place for name, place in places.items() if place in names.values}
    taken = {name: as_numpy(names.values[place]) for name, place in there.items()}
    missing = [f"{name} {shape} is missing" for name, shape in wanted.shapes.items() if name not in there]
    other = [words for name, value in taken.items() if (words := _mismatch(name, value, wanted.shapes[name]))]
    homes, placed = {names.keys[place] for place in there.values()} or {key}, set(there.values())
    beside = [name for name, home in names.keys.items() if home in homes and name not in placed]
    tensors = [n for n in beside if is_tensor(names.values[n]) and n.rpartition(".")[2] not in _IGNORED]
    tensors = [name for name in tensors if name.removeprefix(start) not in wanted.ignored]
    prefix = start[cut:]
    if wanted.prefix:
        tensors = [name for name in tensors if name.startswith(start)]
    elif not wanted.whole and prefix:  # one that was found must be shared by all
        tensors = [name for name in tensors if not name.startswith(start)]
    left = [
        f"{wanted.into}{name.removeprefix(start) if wanted.prefix else name[cut:]} "
        f"{tuple(names.values[name].shape)} is not in the model"
        for name in tensors
        if wanted.whole or (prefix and not wanted.prefix)
    ]
    others = tuple(name[cut:] for name in beside if not is_tensor(names.values[name]))
    return Fit(start, key, prefix, taken, {_OTHER: other, _MISSING: missing, _LEFT: left}, others)


def _mismatch(name: str, value: Any, shape: tuple[int, ...]) -> str:
    """What is wrong with the value of a tensor that should have `shape`; "" for nothing."""
    if not isinstance(value, np.ndarray):
        kind = "quantized tensor" if getattr(value, "is_quantized", False) else type(value).__name__
        return f"{name!r}, a {kind}, is not a tensor of plain numbers"
    if not jnp.issubdtype(value.dtype, jnp.floating):  # which knows bfloat16, as numpy does not
        return f"{name} is {value.dtype} {value.shape}, not floating-point {shape}"
    return f"{name} is {value.shape}, not {shape}" if value.shape != shape else ""


def _say(source: str, good: list[Fit], names: Names, wanted: Wanted, *, unwrapped: bool) -> None:
    """Say what was found where on standard error, unless it lay where it was looked for."""
    fit, also = good[0], [repr(other.key) for other in good[1:] if other.key != good[0].key]
    said = []
    if fit.key != wanted.key:
        more = f" ({', '.join(also)} would fit, too: key={also[0]})" if also else ""
        said.append(f"the weights are those at {fit.key!r}{more}" if fit.key else f"the weights are at the top{more}")
    if fit.prefix != wanted.prefix:
        said.append(f"the prefix {fit.prefix!r} is taken off")
    if unwrapped:
        said.append(f"the names of wrappers ({', '.join(sorted(_WRAPPERS))}) are taken out")
    if fit.others:
        more = ", …" if len(fit.others) > 3 else ""
        said.append(f"{', '.join(map(repr, fit.others[:3]))}{more} left out: no tensors")
    sparse = sum(is_sparse(names.values[name]) for name in names.values if name.startswith(fit.start))
    if sparse:
        said.append(f"{sparse} sparse tensors are made dense")
    if said:
        _LOG.warning("%s: %s", source, "; ".join(said))


def _misfit(source: str, names: Names, fit: Fit, wanted: Wanted) -> str:
    """Three lines: how much does not fit, the first of it, what to do."""
    counted = ", ".join(f"{len(found)} {words}" for words, found in fit.wrong.items() if found)
    at = f" at {fit.key!r}" if fit.key else ""
    each = _SHOWN if fit.count <= _SHOWN else _SHOWN // 3
    shown = [words for found in fit.wrong.values() for words in found[:each]]
    more = f"; and {fit.count - len(shown)} more" if fit.count > len(shown) else ""
    return (
        f"{source} does not fit {wanted.kind}{at}: of {len(wanted.shapes)} tensors {counted}\n"
        f"{'; '.join(shown)}{more}\n{_advice(names, fit, wanted)}"
    )


def _advice(names: Names, fit: Fit, wanted: Wanted) -> str:
    missing, other = fit.wrong[_MISSING], fit.wrong[_OTHER]
    if not missing and not other and fit.prefix and not wanted.prefix:
        return f"give prefix={fit.prefix!r} to ignore what is not the model's"
    if len(missing) == len(wanted.shapes):
        cut = len(fit.key) + bool(fit.key)
        theirs = dict.fromkeys(name[cut:].partition(".")[0] for name in names.values if names.keys[name] == fit.key)
        ours = dict.fromkeys(name.partition(".")[0] for name in wanted.shapes)
        return (
            f"names in it begin with {_first(theirs)}, the model's with {_first(ours)}: give the network that was "
            "saved, or prefix= and into= where the names differ in their beginning only"
        )
    if other:
        return "create the model with the sizes that the file has, or load the layers that fit with only=(…)"
    return "load the layers that fit with only=(…), or give the network that was saved"


def _first(names: dict[str, None]) -> str:
    return ", ".join(list(names)[:4]) + (", …" if len(names) > 4 else "") if names else "nothing"
