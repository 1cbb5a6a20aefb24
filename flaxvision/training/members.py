"""The members of a cohort in one of two forms: stacked in one tree of arrays, or unrolled, a tree each.

Both are pytrees, so that compiled programs take and give them; what is done to members is written once for both.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Generic, TypeVar

import jax
import jax.numpy as jnp

T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")


class Members(abc.ABC, Generic[T_co]):
    """A tree of arrays for each member of a cohort."""

    __slots__ = ()

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def member(self, position: int) -> T_co:
        """The tree of one member."""

    @abc.abstractmethod
    def map(self, function: Callable[..., U], *others: Members[object]) -> Members[U]:
        """What `function` gives for each member, of its trees here and in `others`."""

    @abc.abstractmethod
    def pick(self, function: Callable[[T_co], U]) -> Members[U]:
        """What `function` picks of each member's tree; it computes nothing, and so costs nothing."""

    @abc.abstractmethod
    def each(self, program: Callable[[Members[T_co]], Members[U]]) -> Members[U]:
        """What a compiled program gives, called for as many members as it is meant for.

        That is all of them where they are stacked, and otherwise one, so that cohorts of any number share the program.
        """

    @abc.abstractmethod
    def for_program(self) -> Members[T_co]:
        """Those that `each` calls a program with first."""

    @abc.abstractmethod
    def zeros(self, make: Callable[[int | None], U]) -> Members[U]:
        """Trees made by `make`, told how many members share its arrays (None: each has its own)."""

    @abc.abstractmethod
    def stacked(self) -> T_co:
        """One tree whose arrays have a leading axis of members."""

    @abc.abstractmethod
    def fetched(self) -> Members[T_co]:
        """The members where taking a single one is cheap: stacked ones on the host, by one transfer."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, slots=True)
class Stacked(Members[T_co]):
    """Members whose arrays share a leading axis; a program computes all of them by `jax.vmap`."""

    tree: T_co
    count: int = dataclasses.field(metadata={"static": True})

    def __len__(self) -> int:
        return self.count

    def member(self, position: int) -> T_co:
        return jax.tree.map(lambda x: x[position], self.tree)

    def map(self, function: Callable[..., U], *others: Members[object]) -> Stacked[U]:
        return Stacked(jax.vmap(function)(self.tree, *(other.stacked() for other in others)), self.count)

    def pick(self, function: Callable[[T_co], U]) -> Stacked[U]:
        return Stacked(function(self.tree), self.count)

    def each(self, program: Callable[[Members[T_co]], Members[U]]) -> Members[U]:
        return program(self)

    def for_program(self) -> Stacked[T_co]:
        return self

    def zeros(self, make: Callable[[int | None], U]) -> Stacked[U]:
        return Stacked(make(self.count), self.count)

    def stacked(self) -> T_co:
        return self.tree

    def fetched(self) -> Stacked[T_co]:
        return jax.device_get(self)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, slots=True)
class Unrolled(Members[T_co]):
    """Members with arrays of their own; a program computes one after the other."""

    trees: tuple[T_co, ...]

    def __len__(self) -> int:
        return len(self.trees)

    def member(self, position: int) -> T_co:
        return self.trees[position]

    def map(self, function: Callable[..., U], *others: Members[object]) -> Unrolled[U]:
        return Unrolled(
            tuple(function(tree, *(other.member(k) for other in others)) for k, tree in enumerate(self.trees))
        )

    def pick(self, function: Callable[[T_co], U]) -> Unrolled[U]:
        return Unrolled(tuple(map(function, self.trees)))

    def each(self, program: Callable[[Members[T_co]], Members[U]]) -> Unrolled[U]:
        return Unrolled(tuple(program(Unrolled((tree,))).member(0) for tree in self.trees))

    def for_program(self) -> Unrolled[T_co]:
        return Unrolled(self.trees[:1])

    def zeros(self, make: Callable[[int | None], U]) -> Unrolled[U]:
        return Unrolled(tuple(make(None) for _ in self.trees))

    def stacked(self) -> T_co:
        return jax.tree.map(lambda *x: jnp.stack(x), *self.trees)

    def fetched(self) -> Unrolled[T_co]:
        return self
