"""Layers that move values, and parameters that a block owns: values and gradients are PyTorch's, in either layout."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxvision.errors import UserError
from flaxvision.layers import Carried, Context, Network, Pad, Rearrange, Scale
from flaxvision.layers.kinds import build, describe, kind_of
from flaxvision.ops.maps import Maps
from flaxvision.ops.policy import CPU_TRAINING

pytestmark = pytest.mark.quick

# ours, the shape of an example, PyTorch's
CASES = {
    "channels shuffled": (
        Rearrange((2, 3, 5, 4), (1, 0, 2, 3), (6, 5, 4)), (5, 4, 6),
        lambda t, x: x.view(-1, 2, 3, 5, 4).transpose(1, 2).reshape(-1, 6, 5, 4)),
    "a vector becomes a map": (
        Rearrange((24,), (0,), (2, 3, 4)), (24,), lambda t, x: x.view(-1, 2, 3, 4)),
    "a map becomes a vector, channels last": (
        Rearrange((2, 3, 4), (1, 2, 0), (24,)), (3, 4, 2), lambda t, x: x.permute(0, 2, 3, 1).reshape(-1, 24)),
    "space to depth": (
        Rearrange((2, 2, 2, 3, 2), (0, 2, 4, 1, 3), (8, 2, 3)), (4, 6, 2),
        lambda t, x: t.nn.functional.pixel_unshuffle(x, 2)),
    "padded": (
        Pad(((1, 0), (2, 3), (0, 2)), 1.5), (4, 3, 2),
        lambda t, x: t.nn.functional.pad(x, (2, 3, 1, 0, 0, 2), value=1.5)),
    "cut": (Pad(((-1, 0), (0, -1), (-1, 1))), (4, 3, 2), lambda t, x: t.nn.functional.pad(x, (0, -1, -1, 0, -1, 1))),
    "reflected": (
        Pad(((1, 3), (2, 0), (0, 0)), mode="reflect"), (4, 3, 2),
        lambda t, x: t.nn.functional.pad(x, (2, 0, 1, 3), "reflect")),
    "replicated": (
        Pad(((1, 3), (4, 0), (0, 0)), mode="replicate"), (4, 3, 2),
        lambda t, x: t.nn.functional.pad(x, (4, 0, 1, 3), "replicate")),
    "a vector padded": (Pad(((2, -1),)), (5,), lambda t, x: t.nn.functional.pad(x, (2, -1))),
    "scaled": (Scale(3), (4, 5, 3), lambda t, x, w: x * w.view(-1, 1, 1)),
    "shifted": (Scale(3, "add"), (4, 5, 3), lambda t, x, w: x + w.view(-1, 1, 1)),
    "scaled by one number": (Scale(1), (7,), lambda t, x, w: x * w),
}  # fmt: skip


def channels_first(x):
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


@pytest.mark.parametrize("batch_last", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_pytorchs(torch, case, batch_last):
    layer, shape, theirs = CASES[case]
    if batch_last and len(shape) != 3:
        pytest.skip("vectors have the batch first")
    random = np.random.default_rng(3)
    x = random.normal(0, 1, (4, *shape)).astype(np.float32)
    weights = [random.normal(0, 1, layer.size).astype(np.float32)] if isinstance(layer, Scale) else []
    for weight in weights:
        layer.weight[...] = jnp.asarray(weight)
    graphdef, state = nnx.split(layer)

    def run(state, x):
        maps = Maps(x.transpose(3, 1, 2, 0), True) if batch_last else Maps(x)
        return (
            kind_of(layer).apply(nnx.merge(graphdef, state), [maps], Context(train=True, policy=CPU_TRAINING)).first()
        )

    y, pull = jax.vjp(run, state, jnp.asarray(x))
    assert y.shape[1:] == kind_of(layer).shape(layer, [shape])
    cotangent = random.normal(0, 1, y.shape).astype(np.float32)
    of_state, of_x = pull(jnp.asarray(cotangent))
    tensors = [
        torch.tensor(channels_first(x), requires_grad=True),
        *(torch.tensor(w, requires_grad=True) for w in weights),
    ]
    outputs = theirs(torch, *tensors)
    outputs.backward(torch.tensor(channels_first(cotangent)))
    np.testing.assert_allclose(channels_first(y), outputs.detach(), atol=1e-6)
    np.testing.assert_allclose(channels_first(of_x), tensors[0].grad, atol=1e-6)
    for tensor in tensors[1:]:
        np.testing.assert_allclose(of_state["weight"][...], tensor.grad, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_descriptions_build_the_same(case):
    layer = CASES[case][0]
    assert describe("a", build(describe("a", layer))[1]) == describe("a", layer)


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (
            Rearrange((2, 3), (1, 0), (6,)),
            (7,),
            r"splits an example into \(2, 3\), which does not fit its shape \(7,\)",
        ),
        (Pad(((1, 1),)), (4, 4, 1), "pads 1 axes, not the 3"),
        (Pad(((-3, -3),)), (5,), "would turn a map of"),
        (Pad(((4, 0), (0, 0), (0, 0)), mode="reflect"), (4, 4, 1), "mode='reflect', which has no values for that"),
        (Pad(((0, 0), (0, 0), (1, 0)), mode="replicate"), (4, 4, 1), "mode='replicate', which has no values"),
        (Pad(((0, -1),), mode="reflect"), (5,), "mode='reflect', which has no values for that"),
        (Scale(3), (4, 4, 2), "has 3 numbers for 2 channels"),
        (Carried((3,)), (3,), "takes 0 values, not 1"),
    ],
)
def test_what_does_not_fit_is_one_line(layer, shape, words):
    with pytest.raises(UserError, match=words):
        list(Network([("a", layer)], input_shape=shape).walk())
    with pytest.raises(UserError, match="unknown mode of pads 'wrap'"):
        Pad(((1, 1),), mode="wrap")
    with pytest.raises(UserError, match="unknown operation 'divide'"):
        Scale(1, "divide")
