"""Arrays that JAX makes without compiling, and that share no memory with numpy's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxvision.ops.arrays import filled, from_numpy


@pytest.fixture
def programs():
    """The programs that are compiled meanwhile."""
    compiled = []

    def listen(event: str, *_: object, **__: object) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield compiled
    jax.monitoring.unregister_event_duration_listener(listen)


def test_values_types_and_no_programs(programs):
    ones, half = filled((3, 41), 1.0), filled(43, 0.5)
    numbers = from_numpy(np.arange(47, dtype=np.float16))
    assert not programs
    assert (ones.dtype, ones.shape, half.shape) == (jnp.float32, (3, 41), (43,))
    np.testing.assert_array_equal(half, [0.5] * 43)
    np.testing.assert_array_equal(numbers, np.arange(47))
    assert numbers.dtype == jnp.float16
    jnp.ones((3, 53))
    assert programs  # what is counted would be seen


def test_no_memory_is_shared():
    ours = np.zeros(4096, np.float32)
    theirs = from_numpy(ours)
    again = from_numpy(theirs)
    ours[:] = 1
    assert not np.asarray(theirs).any()
    assert again.unsafe_buffer_pointer() != theirs.unsafe_buffer_pointer()


def test_wide_numbers_become_what_jax_keeps():
    assert from_numpy(np.float64(0.1)).dtype == jnp.float32
    assert from_numpy(3).dtype == jnp.int32
    with jax.enable_x64(True):
        assert from_numpy(np.float64(0.1)).dtype == jnp.float64
