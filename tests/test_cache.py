from __future__ import annotations

import concurrent.futures
import threading

import pytest

from flaxvision._cache import shared_cache


def test_a_value_is_computed_once_and_another_does_not_wait_for_it():
    together, calls = threading.Barrier(2, timeout=10), []

    @shared_cache(4)
    def square(number: int) -> int:
        calls.append(number)
        together.wait()
        return number**2

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(square, [2, 3, 2, 3])) == [4, 9, 4, 9]
    assert sorted(calls) == [2, 3]


def test_a_failure_is_not_kept_and_a_cleared_value_is_computed_again():
    calls = []

    @shared_cache(4)
    def fails_once(number: int) -> int:
        calls.append(number)
        if len(calls) == 1:
            raise OSError("once")
        return number

    with pytest.raises(OSError, match="once"):
        fails_once(1)
    assert fails_once(1) == fails_once(1) == 1
    fails_once.cache_clear()
    assert fails_once(1) == 1
    assert calls == [1, 1, 1]
