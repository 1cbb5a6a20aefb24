"""What all tests of exports ask of their networks."""

from __future__ import annotations

import functools
import importlib.util

import jax
import numpy as np

# For programs that run a few times, on small inputs: they compile in a fifth of the time.
quick_jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_parallel_codegen_split_count": 1,
    },
)


def run_keras(twin, x, jit=quick_jit):
    """What a Keras model gives; Keras relies on promotions that the tests forbid."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return np.asarray(jit(lambda x: twin(x, training=False))(x))


def assert_alive(outputs):
    """Equality says little about a network whose outputs hardly depend on its inputs."""
    assert np.asarray(outputs).std(axis=0).mean() > 1e-3


def without_peers(patch):
    """As where neither PyTorch nor Keras is installed, for what looks: quicker, where those do not matter."""
    find = importlib.util.find_spec
    peers = ("torch", "keras")
    patch.setattr("importlib.util.find_spec", lambda name, *more: None if name in peers else find(name, *more))
