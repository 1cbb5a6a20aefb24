"""Strict JAX, and no machine's caches or data: data sets are prepared in a folder of the test session."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # PyTorch's threads else spin, on cores that other tests want
os.environ["FLAXVISION_DATA_DIR"] = tempfile.mkdtemp(prefix="flaxvision-test-")

import jax
import numpy as np
import pytest
from jax._src import compiler  # which alone gives options to all programs of some modules

from flaxvision.data import Dataset, from_arrays
from flaxvision.training.engine import engine_for
from flaxvision.training.scoring import evaluation_for

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
MAPS = 5_000  # with PyTorch and Keras about 2 GB


def _without_emitters(options: Callable[..., object]) -> Callable[..., object]:
    """Options of programs that, where most optimizations are off, do without XLA's fusion emitters, too.

    These take half of the time of most programs.
    """

    def given(*arguments: object, env_options_overrides: dict[str, object] | None = None, **more: object) -> object:
        if jax.config.read("jax_disable_most_optimizations"):
            env_options_overrides = {"xla_cpu_use_fusion_emitters": False, **(env_options_overrides or {})}
        return options(*arguments, env_options_overrides=env_options_overrides, **more)

    return given


compiler.get_compile_options = _without_emitters(compiler.get_compile_options)


@pytest.fixture(autouse=True, scope="module")
def programs(request: pytest.FixtureRequest):
    """What a module compiles is optimized, unless it is marked as quick."""
    compile_programs(quick=request.node.get_closest_marker("quick") is not None)


def compile_programs(*, quick: bool) -> None:
    """Compiled programs stay for what follows, unless that wants them otherwise, or they take much memory.

    Each takes memory maps, and a process may have 65,530 on Linux.
    """
    maps = Path("/proc/self/maps")
    many = not maps.exists() or maps.read_bytes().count(b"\n") > MAPS
    if many or quick != jax.config.read("jax_disable_most_optimizations"):
        engine_for.cache_clear()
        evaluation_for.cache_clear()
        jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", quick)


@pytest.fixture
def quick_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test compiles in processes of their own is not optimized, either."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


@pytest.fixture(scope="session")
def torch():
    """PyTorch; the test is skipped where it is not installed."""
    return pytest.importorskip("torch")


@pytest.fixture
def raw_dir(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of real data; the test is skipped where FLAXVISION_RAW_DIR names none."""
    folder = os.environ.get("FLAXVISION_RAW_DIR")
    if not folder:
        pytest.skip("FLAXVISION_RAW_DIR is not set")
    return Path(folder)


def slow(*values: object):
    """A set of parameters that is left out by default: a quicker one beside it runs the same code."""
    return pytest.param(*values, marks=pytest.mark.slow)


def until(condition: Callable[[], object], seconds: float = 120) -> bool:
    """Whether something comes true."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(condition())


def made_dataset(shape: tuple[int, ...], classes: int, train: int = 256, test: int = 100, seed: int = 0) -> Dataset:
    """Examples whose class shows: for images a bright square in a place of the class's own, for points an angle."""
    random = np.random.default_rng(seed)

    def split(examples: int) -> tuple[np.ndarray, np.ndarray]:
        labels = random.integers(0, classes, examples).astype(np.int32)
        if len(shape) == 1:
            angle = 2 * np.pi * labels / classes + random.normal(0, 0.1, examples)
            return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32), labels
        images = random.integers(0, 60, (examples, *shape)).astype(np.uint8)
        columns = int(np.ceil(np.sqrt(classes)))
        step = max(shape[0] // columns, 1)
        for image, label in zip(images, labels, strict=True):
            row, column = divmod(int(label), columns)
            image[row * step : (row + 1) * step, column * step : (column + 1) * step] = 220
        return images, labels

    return from_arrays(*split(train), *split(test), classes=[str(c) for c in range(classes)], name="made")


@pytest.fixture
def make_dataset():
    """`made_dataset`, a small data set that a network can learn."""
    return made_dataset
