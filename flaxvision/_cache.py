"""Values that are computed once for all threads."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedCache(Generic[T]):
    """A function with a cache, whose threads wait for a value that another computes; other values do not wait."""

    def __init__(self, function: Callable[..., T], maxsize: int):
        functools.update_wrapper(self, function)
        self._function, self._lock = function, threading.Lock()  # of the slots, never held while computing
        self._slot = functools.lru_cache(maxsize)(self._new_slot)

    def _new_slot(self, *_: Hashable) -> tuple[threading.Lock, list[T]]:
        """Where a value will be: none until it is computed, then one."""
        return threading.Lock(), []

    def __call__(self, *arguments: Hashable) -> T:
        """The function's value for these arguments."""
        with self._lock:
            lock, values = self._slot(*arguments)
        with lock:
            if not values:
                values.append(self._function(*arguments))
            return values[0]

    def cache_clear(self) -> None:
        """Forget all values."""
        self._slot.cache_clear()


def shared_cache(maxsize: int) -> Callable[[Callable[..., T]], SharedCache[T]]:
    """`functools.lru_cache` for threads, see `SharedCache`."""
    return lambda function: SharedCache(function, maxsize)
