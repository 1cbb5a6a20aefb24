"""Random networks of every layer: Flax, onnxruntime, PyTorch and Keras give the same outputs."""

from __future__ import annotations

import importlib
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

import export
from flaxvision.errors import UserError
from flaxvision.layers import AvgPool, Chain, Conv, ConvTranspose, Dropout, Flatten, Linear, MaxPool
from tests.conftest import slow
from tests.export.conftest import assert_alive

pytestmark = pytest.mark.quick

torch = pytest.importorskip("torch")
sys.path.append(str(Path(__file__).parents[2] / "experiments"))
random_networks = importlib.import_module("random_networks")


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks this small only wait for each other's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


SEEDS = range(5000, 5150)  # `export_random_networks.py` has those before
PART = 25  # networks of a test


@pytest.mark.parametrize("first", [SEEDS[0], *map(slow, SEEDS[PART::PART])])
def test_random_networks_agree_in_all_runtimes(first):
    """Keras is asked on every tenth."""
    pytest.importorskip("keras")
    disagreed = {}
    for seed in range(first, first + PART):
        case = random_networks.random_case(seed)
        found = random_networks.errors(case, ("onnx", "torch", "keras") if seed % 10 == 0 else ("onnx", "torch"))
        if random_networks.disagreements(found):
            disagreed[seed] = found, random_networks.describe(case.network)
    assert not disagreed


@pytest.mark.parametrize("seed", [137, 1347, 2140])
def test_what_was_found_among_five_thousand(seed):
    """A sigmoid of -17 that is 9e-8, not 4e-8; a mean that is exact by luck; PyTorch's variance at batch 1."""
    case = random_networks.random_case(seed)
    found = random_networks.errors(case)
    assert not random_networks.disagreements(found), (found, random_networks.describe(case.network))


def test_a_seed_decides_the_network():
    first, again = random_networks.random_case(7), random_networks.random_case(7)
    assert random_networks.describe(first.network) == random_networks.describe(again.network)
    np.testing.assert_array_equal(first.inputs, again.inputs)
    np.testing.assert_array_equal(first.outputs[64], again.outputs[64])


@pytest.mark.parametrize("broken", ["kernel", "bias", "mean", "order"])
def test_a_wrong_network_is_a_disagreement(broken):
    """The comparison sees a tensor that is flipped, shifted or permuted."""
    layers = [
        ("conv", Conv(2, 3, (3, 3), rngs=nnx.Rngs(0))),
        ("norm", random_networks.BatchNorm(3)),
        ("flat", Flatten()),
        ("fc", Linear(75, 4, rngs=nnx.Rngs(1))),
    ]
    chain = Chain(layers, input_shape=(5, 5, 2))
    inputs = np.random.default_rng(0).standard_normal((64, 5, 5, 2)).astype(np.float32)
    case = random_networks.case_of(chain, inputs)
    assert_alive(case.outputs[64])
    assert not random_networks.disagreements(random_networks.errors(case))
    conv, norm, _, fc = chain.layers
    if broken == "kernel":
        conv.kernel[...] = conv.kernel[...][::-1]
    elif broken == "order":
        fc.kernel[...] = fc.kernel[...].reshape(25, 3, 4).transpose(1, 0, 2).reshape(75, 4)
    else:
        variable = conv.bias if broken == "bias" else norm.mean
        variable[...] = variable[...] + 1e-3
    assert random_networks.disagreements(random_networks.errors(case)) == ["onnx", "torch"]


PADS = ["SAME", slow("VALID"), 1, *map(slow, [((0, 0), (0, 0)), ((1, 0), (0, 1)), ((0, 2), (2, 0)), ((2, 2), (1, 1))])]
PADS.append(((1, 2), (2, 1)))


@pytest.mark.parametrize("padding", PADS, ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_every_padding_with_every_stride(padding, transposed):
    """Convolutions and transposed ones, kernels smaller and larger than their stride."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((64, 6, 5, 2)).astype(np.float32)
    for kernel, stride, flip in itertools.product((1, 3, 4), (1, 2, 3), (False, True)):
        if kernel == 1 and not isinstance(padding, str) and transposed and np.max(padding) > 0:
            continue  # wider than the kernel reaches: refused, see below
        if flip and not transposed:
            continue
        more = {"transpose_kernel": flip} if transposed else {}
        make = ConvTranspose if transposed else Conv
        # The width's stride differs from the height's.
        layer = make(2, 3, (kernel, 3), (stride, 2), padding=padding, rngs=nnx.Rngs(0), **more)
        chain = Chain([("layer", layer)], input_shape=(6, 5, 2))
        case = random_networks.case_of(chain, inputs)
        assert_alive(case.outputs[64])
        found = random_networks.errors(case)
        assert not random_networks.disagreements(found), (kernel, stride, flip, found)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_pools_whose_windows_do_not_divide_the_map(padding):
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((64, 7, 6, 2)).astype(np.float32) - 3  # a zero for padding would win a maximum
    for pool, window, strides in itertools.product((MaxPool, AvgPool), (2, (3, 2), 4), (None, 1, (2, 3), 5)):
        chain = Chain([("pool", pool(window, strides, padding))], input_shape=(7, 6, 2))
        case = random_networks.case_of(chain, inputs)
        assert_alive(case.outputs[64])
        found = random_networks.errors(case)
        assert not random_networks.disagreements(found), (pool, window, strides, found)


@pytest.mark.parametrize("padding", [((3, 0), (0, 0)), ((0, 3), (1, 1)), 3])
def test_a_transposed_convolution_padded_beyond_its_kernel_is_refused(padding, tmp_path):
    layer = ConvTranspose(2, 3, (3, 3), padding=padding, rngs=nnx.Rngs(0))
    chain = Chain([("first", MaxPool(1)), ("up.0", layer)], input_shape=(5, 5, 2))
    for write in (export.to_torch, lambda chain: export.to_onnx(chain, tmp_path / "x.onnx")):
        with pytest.raises(UserError, match=r"layer 1 'up.0' has padding=.*more than its kernel reaches"):
            write(chain)


@pytest.mark.parametrize(
    ("sides", "kernel", "padding"),
    [((3, 5), (2, 5), 0), ((2, 4), (2, 5), ((0, 0), (4, 4))), ((3, 4), (2, 5), ((0, 1), (4, 4))), ((5, 5), (5, 2), 0)],
)
def test_beside_the_convolution_on_which_xla_aborts(sides, kernel, padding):
    layer = ConvTranspose(3, 2, kernel, (2, 2), padding=padding, rngs=nnx.Rngs(0))
    chain = Chain([("up", layer)], input_shape=(*sides, 3))
    case = random_networks.case_of(chain, np.random.default_rng(0).standard_normal((64, *sides, 3)).astype(np.float32))
    assert_alive(case.outputs[64])
    assert not random_networks.disagreements(random_networks.errors(case))


@pytest.mark.parametrize(
    ("sides", "kernel", "padding"), [((3, 4), (2, 5), ((0, 0), (4, 4))), ((4, 3), (5, 2), ((4, 4), (0, 0)))]
)
def test_a_convolution_on_which_xla_aborts_is_refused(sides, kernel, padding):
    layer = ConvTranspose(3, 2, kernel, (2, 2), padding=padding, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match=r"layer 'up' has kernel=.*, on which XLA's compiler aborts: pad the axis"):
        list(Chain([("up", layer)], input_shape=(*sides, 3)).walk())


def test_dropout_leaves_no_trace_in_the_outputs():
    chain = Chain([("drop", Dropout(0.9)), ("flat", Flatten())], input_shape=(3, 4, 2))
    inputs = np.random.default_rng(0).standard_normal((64, 3, 4, 2)).astype(np.float32)
    outputs = {batch: inputs[:batch].transpose(0, 3, 1, 2).reshape(batch, -1) for batch in random_networks.BATCHES}
    assert_alive(outputs[64])
    found = random_networks.errors(random_networks.Case(0, chain, inputs, outputs))
    assert found["onnx"][0] == found["torch"][0] == 0
