"""The kernels in C++: values and derivatives against NumPy and XLA in float64, and what happens without a compiler."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from flaxvision.ops.compiled import library
from flaxvision.ops.compiled.convolution import convolve_compiled
from flaxvision.ops.convolution import form_of
from flaxvision.ops.policy import CPU_COMPILED, CPU_TRAINING, Form, Policy
from flaxvision.ops.windows import Window
from tests.conftest import slow
from tests.ops.by_numpy import convolution

needs_compiler = pytest.mark.skipif(library.compiler() is None, reason="there is no C++ compiler")
TOLERANCE = {False: 5e-5, True: 5e-6}  # of the largest value: Winograd's, and depthwise tap by tap


def native(x, w, window):
    groups = x.shape[3] // w.shape[2]
    axes = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, w, window.strides, window.pads, dimension_numbers=axes, feature_group_count=groups
    )


def draw(seed, *shapes):
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape) for shape in shapes]


def assert_close(given, exact, tolerance):
    for value, expected in zip(given, exact, strict=True):
        assert value.dtype == jnp.float32
        assert value.shape == expected.shape
        np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance * max(1.0, float(np.abs(expected).max())))


@needs_compiler
@pytest.mark.parametrize("examples", [5, slow(60)])
def test_kernels_are_the_convolution(examples):
    @settings(max_examples=examples, deadline=None)
    @given(
        depthwise=st.booleans(),
        sides=st.tuples(st.integers(1, 13), st.integers(1, 13)),
        kernel=st.sampled_from([(3, 3), (3, 5), (5, 7), (9, 9), (2, 3)]),
        stride=st.integers(1, 2),
        pads=st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 2),
        channels=st.tuples(st.integers(1, 35), st.integers(1, 70)),
        seed=st.integers(0, 99),
    )
    def agree(depthwise, sides, kernel, stride, pads, channels, seed):
        kernel = kernel if depthwise else (3, 3)
        window = Window(sides, kernel, (stride, stride), pads)
        if min(window.count) < 1:
            return
        inputs, outputs = channels
        shape = (*kernel, 1, inputs) if depthwise else (*kernel, inputs, outputs)
        x, w, g = draw(seed, (3, *sides, inputs), shape, (3, *window.count, shape[3]))
        exact = convolution(x, w, g, window)
        assert library.ready()
        x, w, g = (jnp.asarray(each, jnp.float32) for each in (x, w, g))
        y, pull = jax.vjp(lambda x, w: convolve_compiled(x, w, window), x, w)
        assert_close([y, *pull(g)], exact, TOLERANCE[depthwise])

    agree()


@needs_compiler
@pytest.mark.parametrize(("kernel", "stride"), [slow((3, 3, 4, 6), 2), slow((3, 3, 1, 4), 1)])
def test_gradients_of_gradients_scan_and_vmap(kernel, stride):
    window = Window((9, 8), (3, 3), (stride, stride), ((1, 1), (0, 1)))
    x, w = draw(0, (4, 9, 8, 4), kernel)

    def everything(conv, x, w):
        def size(x, w):
            grads = jax.grad(lambda x, w: jnp.sin(0.1 * conv(x, w, window)).sum(), (0, 1))(x, w)
            return sum((g**2).sum() for g in grads)

        def step(w, _):
            return w - 0.01 * jax.grad(lambda w: (conv(x, w, window) ** 2).mean())(w), None

        members = jax.vmap(lambda w: conv(x, w, window))(jnp.stack([w, 2 * w]))
        return *jax.grad(size, (0, 1))(x, w), lax.scan(step, w, None, length=2)[0], members

    with jax.enable_x64(True):
        exact = [np.asarray(each) for each in everything(native, jnp.asarray(x), jnp.asarray(w))]
    assert library.ready()
    found = jax.jit(lambda x, w: everything(convolve_compiled, x, w))(*(jnp.asarray(a, jnp.float32) for a in (x, w)))
    assert_close(found, exact, 5e-5)


BITS = """
import hashlib, os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
import jax, numpy as np
from flaxvision.ops.compiled import library
from flaxvision.ops.compiled.convolution import convolve_compiled
from flaxvision.ops.windows import Window
assert library.ready()
random, digest = np.random.default_rng(0), hashlib.sha256()
for shape, kernel in (((20, 9, 9, 16), (3, 3, 16, 33)), ((20, 9, 9, 40), (3, 3, 1, 40))):
    x, w = (random.standard_normal(size, np.float32) for size in (shape, kernel))
    window = Window((9, 9), (3, 3), (1, 1), ((1, 1), (1, 1)))
    y, pull = jax.vjp(lambda x, w: convolve_compiled(x, w, window), x, w)
    for each in (y, *pull(y)):
        digest.update(np.asarray(each).tobytes())
print(digest.hexdigest())
"""


@needs_compiler
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or os.cpu_count() == 1, reason="there is one core")
def test_results_do_not_depend_on_the_number_of_threads():
    found = [
        subprocess.run([sys.executable, "-c", BITS, str(count)], capture_output=True, text=True, check=True).stdout
        for count in (1, 2)
    ]
    assert found[0] == found[1] != ""


@needs_compiler
@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "form"),
    [
        ((128, 32, 32, 16), (3, 3, 16, 16), 1, Form.COMPILED),  # resnet20
        ((128, 32, 32, 16), (3, 3, 16, 32), 2, Form.COMPILED),
        ((128, 32, 32, 3), (3, 3, 3, 16), 1, Form.PATCHES),
        ((64, 16, 16, 24), (3, 3, 24, 24), 1, Form.COMPILED),
        ((64, 14, 14, 24), (3, 3, 24, 8), 1, Form.COMPILED),  # a dense block's
        ((64, 32, 32, 3), (3, 3, 3, 24), 1, Form.PATCHES),  # densenet's first layer
        ((64, 32, 32, 48), (3, 3, 48, 12), 1, Form.COMPILED),
        ((64, 32, 32, 3), (3, 3, 3, 64), 1, Form.PATCHES),  # vgg19's first layer
        ((128, 8, 8, 256), (3, 3, 256, 256), 1, Form.WINOGRAD),
        ((128, 16, 16, 128), (3, 3, 128, 256), 2, Form.PATCHES),
        ((32, 12, 12, 8), (3, 3, 8, 16), 1, Form.BATCH_LAST),
        ((64, 16, 16, 96), (3, 3, 1, 96), 1, Form.COMPILED),  # mobilenet_v2
        ((64, 16, 16, 96), (3, 3, 1, 96), 2, Form.GROUPS),
        ((64, 16, 16, 96), (1, 1, 96, 24), 1, Form.PATCHES),
        ((64, 32, 32, 256), (9, 9, 1, 256), 1, Form.COMPILED),  # convmixer
    ],
)
def test_the_rule_with_kernels(shape, kernel, stride, form):
    pad = kernel[0] // 2
    window = Window(shape[1:3], kernel[:2], (stride, stride), ((pad, pad), (pad, pad)))
    assert form_of(shape, kernel, window, jnp.float32, CPU_COMPILED) == form
    assert form_of(shape, kernel, window, jnp.float32, CPU_TRAINING) != Form.COMPILED
    assert form_of(shape, kernel, window, jnp.float64, CPU_COMPILED) != Form.COMPILED
    assert form_of(shape, kernel, window, jnp.float32, CPU_COMPILED.for_evaluation()) != Form.COMPILED


@pytest.fixture
def fresh_library():
    """The library as a new process finds it."""
    for cached in (library.compiler, library.ready):
        cached.cache_clear()
    yield
    for cached in (library.compiler, library.ready):
        cached.cache_clear()


def test_without_a_compiler_the_jax_forms_train(monkeypatch, fresh_library, caplog):
    caplog.set_level(logging.INFO, "flaxvision")
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.delenv(library.SWITCH, raising=False)
    assert library.compiler() is None
    assert not library.ready()
    assert Policy.for_training("cpu") == CPU_TRAINING
    if sys.platform.startswith(("linux", "darwin")):
        assert "no C++ compiler (no-such-compiler)" in caplog.text


def test_kernels_can_be_switched_off(monkeypatch, fresh_library):
    monkeypatch.setenv(library.SWITCH, "off")
    assert Policy.for_training("cpu") == CPU_TRAINING


@pytest.mark.skipif(not sys.platform.startswith(("linux", "darwin")), reason="a shell script is no compiler there")
def test_a_compiler_that_fails_is_said_once(monkeypatch, fresh_library, caplog, tmp_path):
    tool = tmp_path / "c++"
    tool.write_text("#!/bin/sh\necho 'kernel.cc:1: error: cannot' >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("CXX", str(tool))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(library.SWITCH, raising=False)
    assert not library.ready()
    assert not library.ready()
    assert [record.getMessage() for record in caplog.records] == [
        f"{tool} cannot compile the kernels, convolutions train in their JAX forms: kernel.cc:1: error: cannot"
    ]
    window = Window((32, 32), (3, 3), pads=((1, 1), (1, 1)))
    assert form_of((8, 32, 32, 16), (3, 3, 16, 16), window, jnp.float32, CPU_COMPILED) == Form.BATCH_LAST
    assert not list((tmp_path / "flaxvision" / "kernels").glob("*.so"))


def test_without_locks_it_compiles_all_the_same(tmp_path, monkeypatch):
    """And leaves no marker in place of a lock, for which the next process would wait for ever."""

    def none(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    monkeypatch.setattr(library, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(library.subprocess, "run", lambda command, **_: Path(command[-1]).write_text("compiled"))
    monkeypatch.setattr(library.ctypes, "CDLL", lambda path: Path(path).read_text())
    assert library._loaded(sys.executable) == "compiled"
    assert [path.read_text() for path in (tmp_path / "kernels").glob("*.lock")] in ([], [""])
