"""Values that are computed once for all threads."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any


def shared_cache(maxsize: int) -> Callable[[Callable], Any]:
    """`functools.lru_cache` whose threads wait for a value that another computes, in place of computing it again."""

    def decorate(function: Callable) -> Any:
        cached, lock = functools.lru_cache(maxsize)(function), threading.Lock()

        @functools.wraps(cached)
        def call(*arguments: Any) -> Any:
            with lock:
                return cached(*arguments)

        call.cache_clear = cached.cache_clear  # type: ignore[attr-defined]
        return call

    return decorate
