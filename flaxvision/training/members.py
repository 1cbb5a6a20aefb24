"""The members of a cohort in one of two forms: stacked in one tree of arrays, or unrolled, a tree each.

Both are pytrees, so that compiled programs take and give them, and both can do the same:

- `member(k)`: the tree of one member.
- `map(function, *others)`: what a function gives for each member, of its trees here and in others.
- `pick(function)`: what a function picks of each member's tree; it computes nothing, and so costs nothing.
- `each(program)`: what a compiled program gives, called for as many members as it is meant for: all of them where they
  are stacked, and otherwise one, so that cohorts of any number share the program.
- `for_program()`: those that `each` calls a program with first.
- `zeros(make)`: trees made by `make`, told how many members share its arrays (None: each has its own).
- `stacked()`: one tree whose arrays have a leading axis of members.
- `fetched()`: the members where taking a single one is cheap: stacked ones on the host, by one transfer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp

T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")
PyTree = Any  # arrays in containers, nested as they like


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, slots=True)
class Stacked(Generic[T_co]):
    """Members whose arrays share a leading axis; a program computes all of them by `jax.vmap`."""

    tree: T_co
    count: int = dataclasses.field(metadata={"static": True})

    def __len__(self) -> int:
        return self.count

    def member(self, position: int) -> T_co:
        return jax.tree.map(lambda x: x[position], self.tree)

    def map(self, function: Callable[..., U], *others: Members[object]) -> Members[U]:
        return Stacked(jax.vmap(function)(self.tree, *(other.stacked() for other in others)), self.count)

    def pick(self, function: Callable[[T_co], U]) -> Members[U]:
        return Stacked(function(self.tree), self.count)

    def each(self, program: Callable[[Members[T_co]], Members[U]]) -> Members[U]:
        return program(self)

    def for_program(self) -> Members[T_co]:
        return self

    def zeros(self, make: Callable[[int | None], U]) -> Members[U]:
        return Stacked(make(self.count), self.count)

    def stacked(self) -> T_co:
        return self.tree

    def fetched(self) -> Members[T_co]:
        return jax.device_get(self)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, slots=True)
class Unrolled(Generic[T_co]):
    """Members with arrays of their own; a program computes one after the other."""

    trees: tuple[T_co, ...]

    def __len__(self) -> int:
        return len(self.trees)

    def member(self, position: int) -> T_co:
        return self.trees[position]

    def map(self, function: Callable[..., U], *others: Members[object]) -> Members[U]:
        each = enumerate(self.trees)
        return Unrolled(tuple(function(tree, *(other.member(k) for other in others)) for k, tree in each))

    def pick(self, function: Callable[[T_co], U]) -> Members[U]:
        return Unrolled(tuple(map(function, self.trees)))

    def each(self, program: Callable[[Members[T_co]], Members[U]]) -> Members[U]:
        return Unrolled(tuple(program(Unrolled((tree,))).member(0) for tree in self.trees))

    def for_program(self) -> Members[T_co]:
        return Unrolled(self.trees[:1])

    def zeros(self, make: Callable[[int | None], U]) -> Members[U]:
        return Unrolled(tuple(make(None) for _ in self.trees))

    def stacked(self) -> T_co:
        return jax.tree.map(lambda *x: jnp.stack(x), *self.trees)

    def fetched(self) -> Members[T_co]:
        return self


Members = Stacked[T_co] | Unrolled[T_co]
