"""Values that are computed once for all threads."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class _Slot(Generic[T]):
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.values: list[T] = []  # none until it is computed, then one


class SharedCache(Generic[T]):
    """A function with a cache, whose threads wait for a value that another computes; other values do not wait."""

    def __init__(self, function: Callable[..., T], maxsize: int):
        functools.update_wrapper(self, function)
        self._function = function
        self._lock = threading.Lock()  # of the slots, never held while computing
        self._slot = functools.lru_cache(maxsize)(lambda *_: _Slot[T]())

    def __call__(self, *arguments: Hashable) -> T:
        """The function's value for these arguments."""
        with self._lock:
            slot = self._slot(*arguments)
        with slot.lock:
            if not slot.values:
                slot.values.append(self._function(*arguments))
            return slot.values[0]

    def cache_clear(self) -> None:
        """Forget all values."""
        self._slot.cache_clear()


def shared_cache(maxsize: int) -> Callable[[Callable[..., T]], SharedCache[T]]:
    """`functools.lru_cache` for threads, see `SharedCache`."""
    return lambda function: SharedCache(function, maxsize)
