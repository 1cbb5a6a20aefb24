"""Which images lie in a folder, of which split and which class, and what else lies there."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from flaxvision._text import some
from flaxvision.data import pixels
from flaxvision.data.split_names import WORDS, split_names, split_of
from flaxvision.errors import UserError

# Paths begin at the folder that was given.
Files = dict[str, list[str]]  # class -> the paths of its images, in their order
_Dirs = tuple[str, ...]  # the names of a folder and of those above it

_SYSTEM = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin", "#recycle"}
_SYSTEM |= {"system volume information", "lost+found", "__pycache__"}


@dataclasses.dataclass(frozen=True, slots=True)
class Listing:
    """The images of a folder by split and class."""

    splits: dict[str, Files]  # "train" always, "validation" and "test" where there are folders for them
    classes: tuple[str, ...]  # folder names of the training split: numbers by value, others by the alphabet
    notes: tuple[str, ...]  # what was left out, a line each


def list_images(folder: Path) -> Listing:
    """Find the images of FOLDER/SPLIT/CLASS/…, FOLDER/CLASS/SPLIT/… or FOLDER/CLASS/…, below one outer folder or more.

    Raises:
        UserError: If there are none, a class has none, or it is doubtful which folders are splits and which classes.
    """
    walk = _Walk(folder)
    if not walk.images:
        raise UserError(f"{shown(folder)} has no images: put those of a class into a folder of its name{walk.hint(())}")
    return _Sorter(folder, walk).listing()


def every_image(folder: Path) -> tuple[list[str], dict[str, int]]:
    """The paths of all images below a folder, from it on and in their order, and how many files were passed over.

    The latter by the reason, as "file without an image".
    """
    walk = _Walk(folder)
    paths = sorted(path for _, found in walk.images for path in found)
    return paths, {reason: len(found) for reason, found in walk.others.items()}


def shown(path: Path | str) -> str:
    r"""A name as it can be printed and stored anywhere: what is not UTF-8 or not printable as \x, \n, …"""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def count(number: int, noun: str) -> str:
    """ "1 image", "2,000 images"."""
    return f"{number:,} {noun}" + "s" * (number != 1)


class _Walk:
    """All that is visible below a folder; links are followed, but not round in circles."""

    def __init__(self, folder: Path):
        self.folder = str(folder)
        self.images: list[tuple[_Dirs, list[str]]] = []  # the folders that have any
        self.folders: list[_Dirs] = []
        self.others: dict[str, list[tuple[_Dirs, str]]] = {}  # what was passed over, by the reason
        with pixels.pillow():
            self._enter((), ())

    def _enter(self, dirs: _Dirs, around: tuple[tuple[int, int], ...]) -> None:
        folder = os.path.join(self.folder, *dirs)
        try:
            with os.scandir(folder) as found:
                entries = sorted((entry.name, _kind(entry)) for entry in found)
            status = os.stat(folder)
        except OSError as error:
            raise UserError(
                f"cannot read the folder {shown(error.filename or folder)}: {error.strerror}; give one that you can"
            ) from error
        if (status.st_dev, status.st_ino) in around:
            self.others.setdefault("link back to a folder around it", []).append((dirs, os.path.join(*dirs)))
            return
        if dirs:
            self.folders.append(dirs)
        images: list[str] = []
        self.images.append((dirs, images))
        for name, kind in entries:
            if name.startswith(".") or name.casefold() in _SYSTEM:
                continue
            path = os.path.join(*dirs, name)
            if kind == "folder":
                self._enter((*dirs, name), (*around, (status.st_dev, status.st_ino)))
            elif kind == "":
                self.others.setdefault(pixels.NO_IMAGE, []).append((dirs, path))
            elif reason := pixels.passed_over(os.path.join(self.folder, path)):
                self.others.setdefault(reason, []).append((dirs, path))
            else:
                images.append(path)
        if not images:
            self.images.remove((dirs, images))

    def below(self, *dirs: str) -> list[tuple[_Dirs, list[str]]]:
        """The images in a folder and in those below it, by their folders."""
        return [found for found in self.images if found[0][: len(dirs)] == dirs]

    def number(self, *dirs: str) -> int:
        """How many images are in a folder and in those below it."""
        return sum(len(paths) for _, paths in self.below(*dirs))

    def hint(self, dirs: _Dirs) -> str:
        """What else lies below a folder that has no images, as the end of an error."""
        others = [(why, path) for why, found in self.others.items() for at, path in found if at[: len(dirs)] == dirs]
        if not others:
            return ""
        reason, path = others[0]
        path = shown(os.path.join(self.folder, path))
        return f"; passed over there: {count(len(others), 'file')}, such as {path}, {reason}"


def _kind(entry: os.DirEntry[str]) -> str:
    """A "folder", a "file", or nothing for a pipe or a socket, whose reading would never end."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() or entry.is_symlink() else ""
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return "file"  # a link to itself, which is as one that leads nowhere


class _Sorter:
    """Tells from the names and the depth of folders which are outer ones, splits and classes."""

    def __init__(self, folder: Path, walk: _Walk):
        self.folder, self.walk = folder, walk
        self.notes: list[str] = []
        self.strays: dict[str, list[str]] = {}

    def listing(self) -> Listing:
        root = self._unwrap()
        heads = sorted({dirs[len(root)] for dirs, _ in self.walk.below(*root) if len(dirs) > len(root)})
        depth = len(root)  # of the folders that images must lie in
        if roles := self._roles(root, heads):
            splits = {split: self._classes(self._unwrap_split((*root, head), split)) for head, split in roles.items()}
            for head in heads:
                if head not in roles:
                    self._stray("outside the splits", self.walk.below(*root, head))
        elif inner := self._inner_roles(root, heads):
            splits = self._turned(root, heads, inner)
        else:
            splits, depth = {"train": self._classes(root)}, depth - 1  # which has told of those in the root
        self._stray("in no class folder", [found for found in self.walk.images if len(found[0]) <= depth])
        classes, splits = self._named_alike(splits)
        return Listing(splits, classes, (*self.notes, *self._left_out()))

    def _unwrap(self) -> _Dirs:
        """The outer folders that hold nothing but one more, such as those of an unpacked archive."""
        root: _Dirs = ()
        while True:
            depth = len(root)
            deeper = [dirs for dirs, _ in self.walk.below(*root) if len(dirs) > depth]
            heads = {dirs[depth] for dirs in deeper}
            if len(heads) != 1 or min(map(len, deeper)) == depth + 1 or split_of(*heads):
                break
            beside = {dirs[depth] for dirs in self.walk.folders if len(dirs) > depth and dirs[:depth] == root} - heads
            stray = self.walk.others.get(pixels.NO_IMAGE, ())
            explained = {at[depth] for at, _ in stray if len(at) > depth and at[:depth] == root}
            if beside - explained:  # an empty class, perhaps
                break
            root += tuple(heads)
        if root:
            self.notes.append(f"the images are those of its folder {shown('/'.join(root))}")
        return root

    def _unwrap_split(self, dirs: _Dirs, split: str) -> _Dirs:
        """Down from a split's folder to where its classes are: from seg_train to seg_train/seg_train."""
        at = dirs
        while True:
            deeper = [d for d, _ in self.walk.below(*at)]
            heads = {d[len(at)] for d in deeper if len(d) > len(at)}
            if len(heads) != 1 or min(map(len, deeper)) <= len(at) + 1:
                break
            (head,) = heads
            if split_of(head) != split and head.casefold() not in ("images", "data") and head != at[-1]:
                break
            at += (head,)
        return at

    def _roles(self, root: _Dirs, heads: list[str]) -> dict[str, str]:
        """Which of the folders `heads` is which split; none where they are classes."""
        roles = split_names(heads)
        if not roles:
            return {}
        where = shown(self.folder.joinpath(*root))
        named, others = some(map(shown, roles), 9), some(shown(head) for head in heads if head not in roles)
        empty = [
            dirs[-1] for dirs in self.walk.folders if dirs[:-1] == root and split_of(dirs[-1]) and dirs[-1] not in heads
        ]
        for head in empty:
            hint = self.walk.hint((*root, head))
            raise UserError(f"{where}/{shown(head)} has no images: fill it, or move it out of {where}{hint}")
        flat = [h for h in roles if all(len(dirs) == len(root) + 1 for dirs, _ in self.walk.below(*root, h))]
        if others and len(roles) == 1:
            if flat:
                self.notes.append(f"the folder {named} is taken for a class, as {others} beside it")
                return {}
            raise UserError(
                f"{where} has {named} beside {others}: is {named} a split or a class? Move what is not a split "
                f"elsewhere, or, for a class, its images out of the folders in it"
            )
        for head in flat:
            raise UserError(
                f"{where}/{shown(head)} has {count(self.walk.number(*root, head), 'image')} and no class folders: "
                f"put those of a class into a folder of its name, or move {shown(head)} out of {where}"
            )
        for split, number in Counter(roles.values()).items():
            if number > 1:
                both = [shown(head) for head in roles if roles[head] == split]
                raise UserError(f"{where} has {' and '.join(both)} for the {split} split: keep one")
        if "train" not in roles.values():
            raise UserError(f"{where} has {named} but no folder train: add it, or give {where}/CLASS folders alone")
        return roles

    def _inner_roles(self, root: _Dirs, heads: list[str]) -> dict[str, str]:
        """The split names one level below the classes, where it is they that hold the splits."""
        depth = len(root) + 1
        found = [dirs[depth] if len(dirs) > depth else "" for dirs, _ in self.walk.below(*root) if len(dirs) >= depth]
        roles = split_names(sorted(set(found) - {""}))
        if len(set(roles.values())) < 2:
            return {}
        if set(found) != set(roles) or "train" not in roles.values():
            where = shown(self.folder.joinpath(*root))
            raise UserError(
                f"{where} has {some(map(shown, roles))} within {some(map(shown, heads))}, beside other images: "
                f"give {where}/train/CLASS and {where}/test/CLASS"
            )
        return roles

    def _turned(self, root: _Dirs, heads: list[str], roles: dict[str, str]) -> dict[str, Files]:
        self._check_filled(root, heads)
        splits: dict[str, Files] = {split: {} for split in roles.values()}
        depth = len(root)
        for dirs, paths in sorted(self.walk.below(*root)):
            if len(dirs) > depth:
                splits[roles[dirs[depth + 1]]].setdefault(dirs[depth], []).extend(paths)
        return splits

    def _classes(self, at: _Dirs) -> Files:
        """The images of each folder in one, at any depth; `UserError` for a class without any."""
        depth = len(at)
        files: Files = {}
        stray = []
        for dirs, paths in self.walk.below(*at):
            if len(dirs) > depth:
                files.setdefault(dirs[depth], []).extend(paths)
            else:
                stray.append((dirs, paths))
        if not files:
            where = shown(self.folder.joinpath(*at))
            number = count(self.walk.number(*at), "image")
            raise UserError(
                f"{where} has {number} and no class folders: put those of a class into a folder of its name"
            )
        self._check_filled(at, files)
        self._stray("in no class folder", stray)
        return {label: sorted(paths) for label, paths in files.items()}

    def _check_filled(self, at: _Dirs, filled: Iterable[str]) -> None:
        """Raise for folders beside those of the classes `filled` that have no image."""
        depth = len(at)
        beside = [dirs[-1] for dirs in self.walk.folders if len(dirs) == depth + 1 and dirs[:depth] == at]
        empty = [label for label in beside if label not in filled]
        if empty:
            folders = [shown(self.folder.joinpath(*at, label)) for label in empty]
            one = len(empty) == 1
            raise UserError(
                f"{some(folders)} {'has' if one else 'have'} no images: fill {'it' if one else 'them'}, "
                f"or remove what is not a class{self.walk.hint((*at, empty[0]))}"
            )

    def _named_alike(self, splits: dict[str, Files]) -> tuple[tuple[str, ...], dict[str, Files]]:
        """The classes in their order, and every split under their names, as `folded` takes them for equal."""
        names: dict[str, str] = {}
        for label in splits["train"]:
            other = names.setdefault(folded(label), label)
            if other != label:
                raise UserError(
                    f"{shown(self.folder)} has the classes {shown(other)} and {shown(label)}: "
                    "put their images into one folder, or rename one"
                )
        renamed: dict[str, Files] = {}
        for split, files in splits.items():
            renamed[split] = {}
            for label, paths in files.items():
                if folded(label) not in names:
                    raise UserError(
                        f"{shown(self.folder)}: the {split} split has a class {shown(label)} that the train split does "
                        f"not have: it has {some(map(shown, names.values()), 9)}"
                    )
                name = names[folded(label)]
                if name in renamed[split]:
                    raise UserError(
                        f"{shown(self.folder)}: the {split} split has {shown(label)} twice, in two spellings"
                    )
                if name != label:
                    self.notes.append(f"{split}: the folder {shown(label)} is taken for the class {shown(name)}")
                renamed[split][name] = paths
        ordered = tuple(sorted(names.values(), key=_class_order(names.values())))
        return ordered, {split: renamed[split] for split in WORDS if split in renamed}

    def _stray(self, where: str, found: list[tuple[_Dirs, list[str]]]) -> None:
        self.strays.setdefault(where, []).extend(path for _, paths in found for path in paths)

    def _left_out(self) -> list[str]:
        """A line for each reason to pass files over, with their number and an example."""
        left = [(f"image {where}", "", paths) for where, paths in self.strays.items() if paths]
        for reason, others in self.walk.others.items():
            noun, _, remedy = reason.partition(": ")
            left.append((noun, f" ({remedy})" if remedy else "", [path for _, path in others]))
        return [
            f"left out: {_plural(len(paths), noun)}{remedy}, such as {shown(min(paths))}"
            for noun, remedy, paths in left
        ]


def _plural(number: int, noun: str) -> str:
    first, _, rest = noun.partition(" ")
    return count(number, first) + (f" {rest}" if rest else "")


def folded(name: str) -> str:
    """Equal for names of classes that are one, whatever their case, and however accents are encoded."""
    return unicodedata.normalize("NFC", name).casefold().strip()


def _class_order(names: Iterable[str]) -> Callable[[str], tuple[float, str]]:
    if all(re.fullmatch(r"-?\d+(\.\d+)?", name, re.ASCII) for name in names):
        return lambda name: (float(name), name)
    return lambda name: (0.0, name)
