"""How a tensor's axes lie in a value of ours: views and permutations without moving anything.

An axis is a run of atoms, pieces of a value that no view has split so far. A map of ours, (H, W, C), has the axes C, H
and W in PyTorch; `flatten(1)` makes one axis of the three, `permute` another order, `view` splits an atom in two.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)  # an atom equals itself only
class Atom:
    """A piece of a value, of more than one number."""

    size: int


Axis = tuple[Atom, ...]  # the first atom slowest; () for an axis of size 1
Axes = tuple[Axis, ...]  # without the batch's


def fresh(sizes: Iterable[int]) -> Axes:
    """New axes, an atom each."""
    return tuple((Atom(size),) if size != 1 else () for size in sizes)


def shape_of(axes: Axes) -> Shape:
    """The sizes of axes."""
    return tuple(math.prod(atom.size for atom in axis) for axis in axes)


def atoms_of(axes: Iterable[Axis]) -> Axis:
    """All atoms in order."""
    return tuple(atom for axis in axes for atom in axis)


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Where the numbers of a value of ours are in a tensor of another framework."""

    base: Axes  # our value's, in PyTorch's order: (C, H, W) of a map, or (D,)
    axes: Axes  # the tensor's

    @classmethod
    def plain(cls, ours: Shape) -> Layout:
        """That of a tensor that is our value, of shape (H, W, C) or (D,)."""
        base = fresh((ours[-1], *ours[:-1]))
        return cls(base, base)

    @property
    def shape(self) -> Shape:
        """The tensor's, without the batch."""
        return shape_of(self.axes)

    @property
    def is_plain(self) -> bool:
        """Whether the tensor is our value."""
        return self.axes == self.base

    @property
    def signature(self) -> tuple[object, ...]:
        """Equal for tensors that lie alike in their values."""
        place = {atom: number for number, atom in enumerate(atoms_of(self.axes))}
        sizes = tuple(tuple(atom.size for atom in axis) for axis in self.axes)
        return sizes, tuple(tuple(place[atom] for atom in axis) for axis in self.base)

    @property
    def permutation(self) -> tuple[int, ...] | None:
        """Which axis of our value each of the tensor's is; None where they are not the same axes."""
        left = dict(enumerate(self.base))
        found: list[int | None] = []
        for axis in self.axes:
            same = next((number for number, each in left.items() if axis and each == axis), None)
            found.append(same)
            if same is not None:
                del left[same]
        if len(self.axes) != len(self.base) or any(left.values()):
            return None
        spare = iter(left)
        return tuple(next(spare) if number is None else number for number in found)

    def viewed(self, shape: Shape) -> Layout | None:
        """The tensor viewed in another shape; None where an axis would begin within an atom that does not divide."""
        waiting = list(atoms_of(self.axes))
        pieces: dict[Atom, Axis] = {}
        axes: list[Axis] = []
        for size in shape:
            axis: list[Atom] = []
            while size > 1:
                if not waiting:
                    return None
                atom = waiting.pop(0)
                if size % atom.size == 0:
                    axis.append(atom)
                    size //= atom.size
                elif atom.size % size == 0:
                    first, rest = Atom(size), Atom(atom.size // size)
                    pieces[atom] = (first, rest)
                    axis.append(first)
                    waiting.insert(0, rest)
                    size = 1
                else:
                    return None
            axes.append(tuple(axis))
        if waiting:
            return None
        return Layout(tuple(_cut(axis, pieces) for axis in self.base), tuple(_cut(axis, pieces) for axis in axes))

    def refined(self, other: Layout) -> tuple[Layout, Axes] | None:
        """Of a tensor of another's shape the layout, and the base in which it would lie as the other does."""
        atoms = atoms_of(other.axes)
        pieces = self.viewed(tuple(atom.size for atom in atoms))
        if pieces is None:
            return None
        whole = pieces.viewed(self.shape)
        assert whole is not None  # its atoms are no larger than the other's, which make this shape
        place = dict(zip(atoms, pieces.axes, strict=True))
        return whole, tuple(atoms_of(place[atom] for atom in axis) for axis in other.base)

    def permuted(self, order: Sequence[int]) -> Layout:
        """The tensor with its axes, but the batch's, in another order."""
        return dataclasses.replace(self, axes=tuple(self.axes[axis] for axis in order))


def _cut(axis: Axis, pieces: dict[Atom, Axis]) -> Axis:
    whole: list[Atom] = []
    for atom in axis:
        whole += _cut(pieces[atom], pieces) if atom in pieces else (atom,)
    return tuple(whole)
