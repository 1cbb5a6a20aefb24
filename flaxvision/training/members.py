"""The members of a cohort in one of two forms: stacked in one tree of arrays, or separate, a tree each.

Both are pytrees, so that compiled programs take and give them, and both can do the same:

- `member(k)`: the tree of one member.
- `map(function, *others)`: what a function gives for each member, of its trees here and in others.
- `pick(function, *others)`: what a function picks of each member's trees; it computes nothing, and so costs nothing.
- `each(program, *others)`: what a compiled program gives, called for as many members as it is meant for: all of them
  where they are stacked, and otherwise one, so that cohorts of any number share the program.
- `for_program()`: those that `each` calls a program with first.
- `take(positions)`: the members at these positions, in this order; on the host where they are stacked.
- `edit(position, change)`: all members, one of them changed.
- `zeros(make)`: trees made by `make`, told how many members share its arrays (None: each has its own).
- `stacked()`: one tree whose arrays have a leading axis of members, not within a program; `like(tree)` is its inverse.
- `fetched()`: the members where taking a single one is cheap: stacked ones on the host, by one transfer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")
U = TypeVar("U")
PyTree = Any  # arrays in containers, nested as they like


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, slots=True)
class Stacked(Generic[T_co]):
    """Members whose arrays share a leading axis; a program computes all of them by `jax.vmap`."""

    tree: T_co
    axes: ClassVar[int] = 1  # of members, before those of an array of one

    def __len__(self) -> int:
        return len(jax.tree.leaves(self.tree)[0])

    def member(self, position: int) -> T_co:
        return jax.tree.map(lambda x: x[position], self.tree)

    def map(self, function: Callable[..., U], *others: Members[object]) -> Members[U]:
        return Stacked(jax.vmap(function)(self.tree, *(other.stacked() for other in others)))

    def pick(self, function: Callable[..., U], *others: Members[object]) -> Members[U]:
        return Stacked(function(self.tree, *(other.stacked() for other in others)))

    def each(self, program: Callable[..., Members[U]], *others: Members[object]) -> Members[U]:
        return program(self, *others)

    def for_program(self) -> Members[T_co]:
        return self

    def take(self, positions: Sequence[int]) -> Members[T_co]:
        rows = np.asarray(positions)
        return Stacked(jax.tree.map(lambda x: x[rows], jax.device_get(self.tree)))

    def edit(self, position: int, change: Callable[[T_co], T_co]) -> Members[T_co]:
        before = self.member(position)

        def put(whole: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
            return whole if new is old else jnp.asarray(whole).at[position].set(new)

        return Stacked(jax.tree.map(put, self.tree, before, change(before)))

    def zeros(self, make: Callable[[int | None], U]) -> Members[U]:
        return Stacked(make(len(self)))

    def stacked(self) -> T_co:
        return self.tree

    def like(self, tree: T) -> Members[T]:
        return Stacked(tree)

    def fetched(self) -> Members[T_co]:
        return jax.device_get(self)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, slots=True)
class Separate(Generic[T_co]):
    """Members with arrays of their own; a program computes one of them."""

    trees: tuple[T_co, ...]
    axes: ClassVar[int] = 0

    def __len__(self) -> int:
        return len(self.trees)

    def member(self, position: int) -> T_co:
        return self.trees[position]

    def map(self, function: Callable[..., U], *others: Members[object]) -> Members[U]:
        each = enumerate(self.trees)
        return Separate(tuple(function(tree, *(other.member(k) for other in others)) for k, tree in each))

    def pick(self, function: Callable[..., U], *others: Members[object]) -> Members[U]:
        return self.map(function, *others)

    def each(self, program: Callable[..., Members[U]], *others: Members[object]) -> Members[U]:
        return self.map(lambda *trees: program(*(Separate((tree,)) for tree in trees)).member(0), *others)

    def for_program(self) -> Members[T_co]:
        return Separate(self.trees[:1])

    def take(self, positions: Sequence[int]) -> Members[T_co]:
        first = {position: k for k, position in reversed(list(enumerate(positions)))}  # others are copies: donated once
        return Separate(
            tuple(
                self.trees[position] if first[position] == k else jax.tree.map(jnp.copy, self.trees[position])
                for k, position in enumerate(positions)
            )
        )

    def edit(self, position: int, change: Callable[[T_co], T_co]) -> Members[T_co]:
        return Separate(tuple(change(tree) if k == position else tree for k, tree in enumerate(self.trees)))

    def zeros(self, make: Callable[[int | None], U]) -> Members[U]:
        return Separate(tuple(make(None) for _ in self.trees))

    def stacked(self) -> T_co:
        return jax.tree.map(lambda *x: np.stack(x), *jax.device_get(self.trees))

    def like(self, tree: T) -> Members[T]:
        return Separate(tuple(jax.tree.map(lambda x, k=k: x[k], tree) for k in range(len(self))))

    def fetched(self) -> Members[T_co]:
        return self


Members = Stacked[T_co] | Separate[T_co]
