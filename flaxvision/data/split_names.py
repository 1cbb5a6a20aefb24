"""The names that people give their splits."""

from __future__ import annotations

import re

WORDS = {
    "train": ("training", "train"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("testing", "test"),
}
_SPLITS = {word: split for split, words in WORDS.items() for word in words}
_WORD = re.compile(rf"(?<![^\W\d_])({'|'.join(_SPLITS)})(?=set|data|image|[\W\d_]|$)")  # "testset", but no "tested"
_FILLING = re.compile(r"[\W_]|data(?:set)?|set|images?|split")  # says nothing of what is in a folder


def split_of(name: str) -> str | None:
    """The split that a folder's whole name means."""
    found = _WORD.search(name.casefold())
    return _SPLITS[found[1]] if found and not _rest(name, found) else None


def _rest(name: str, found: re.Match[str]) -> str:
    name = name.casefold()
    return _FILLING.sub("", name[: found.start()] + name[found.end() :])


def split_names(names: list[str]) -> dict[str, str]:
    """Name -> split, of folders called so alone ("Training Set") or alike but for it ("seg_train", "seg_test")."""
    words = {name: found for name in names if (found := _WORD.search(name.casefold()))}
    splits_of: dict[str, set[str]] = {}
    for name, found in words.items():
        splits_of.setdefault(_rest(name, found), set()).add(_SPLITS[found[1]])
    plain = {name: _SPLITS[f[1]] for name, f in words.items() if not _rest(name, f)}
    alike = {name: _SPLITS[f[1]] for name, f in words.items() if len(splits_of[_rest(name, f)]) > 1}
    return plain or alike
