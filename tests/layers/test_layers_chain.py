"""Chains, activations, the polar transform and initialisers."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxvision.errors import UserError
from flaxvision.layers import ACTIVATIONS, Activation, BatchNorm, Chain, Context, Flatten, PolarTransform, Preprocess
from flaxvision.layers.context import matches
from flaxvision.layers.initializers import kernel_and_bias
from flaxvision.layers.kinds import KINDS, build, describe
from tests.conftest import slow

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_equal_torch(torch, name):
    x = np.linspace(-8, 8, 101, dtype=np.float32)
    theirs = {"identity": lambda x: x, "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh")}
    theirs |= {each: functools.partial(getattr(torch, each), dim=-1) for each in ("softmax", "log_softmax")}
    expected = theirs.get(name, getattr(torch.nn.functional, name, None))(torch.tensor(x)).numpy()
    np.testing.assert_allclose(Activation(name)(jnp.asarray(x)), expected, atol=2e-6)


def test_an_unknown_activation_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'relu'"):
        Activation("rellu")


def test_polar_transform_on_axes_signs_and_origin():
    points = jnp.array([[1.0, 0], [0, 2], [-3, 0], [0, -4], [-1, -1], [0, 0]])
    expected = [[1, 0], [2, np.pi / 2], [3, np.pi], [4, -np.pi / 2], [np.sqrt(2), -3 * np.pi / 4], [0, 0]]
    np.testing.assert_allclose(PolarTransform()(points), expected, atol=1e-6)


def test_prefixes_cover_whole_names_only():
    assert matches("encoder.0", ("encoder",))
    assert matches("encoder", ("encoder",))
    assert not matches("encoder2.0", ("encoder",))
    assert not matches("decoder.0", ("encoder", "dec"))


def test_a_frozen_batch_norm_runs_in_evaluation_mode():
    model = Chain([("a.0", BatchNorm(2)), ("b.0", BatchNorm(2))], input_shape=(2,))
    x = jax.random.normal(jax.random.key(0), (8, 2)) + 3
    model(x, Context(train=True, frozen=("a",)))
    np.testing.assert_array_equal(model.layers[0].mean[...], np.zeros(2))
    assert (np.asarray(model.layers[1].mean[...]) > 0.1).all()


def test_two_layers_of_one_name_are_refused():
    with pytest.raises(UserError, match="occur twice"):
        Chain([("a", Flatten()), ("a", Flatten())], input_shape=(2, 2, 1))


def test_preprocess_scales_like_keras_rescaling():
    images = jnp.array([0, 51, 255], jnp.uint8)
    np.testing.assert_allclose(Preprocess(1 / 255)(images, jnp.float32), [0, 0.2, 1], rtol=1e-6)
    np.testing.assert_allclose(Preprocess(1 / 127.5, -1)(images, jnp.float32), [-1, -0.6, 1], rtol=1e-6)
    assert Preprocess()(images, jnp.float32).tolist() == [0, 51, 255]


@pytest.mark.parametrize("layer", ["linear", "conv", "conv_transpose"])
def test_torch_initialisation_has_torchs_distribution(torch, layer):
    made = {
        "linear": (torch.nn.Linear(300, 200), 300),
        "conv": (torch.nn.Conv2d(30, 40, 5), 30 * 25),
        "conv_transpose": (torch.nn.ConvTranspose2d(30, 40, 5), 40 * 25),
    }
    theirs, fan_in = made[layer]
    inits = kernel_and_bias("torch", fan_in)
    for name, parameter in (("kernel_init", theirs.weight), ("bias_init", theirs.bias)):
        sample = parameter.detach().numpy().ravel()
        ours = np.asarray(inits[name](jax.random.key(1), (len(sample),), jnp.float32))
        bound = 1 / np.sqrt(fan_in)
        assert np.abs(ours).max() <= bound
        assert np.abs(sample).max() <= bound
        assert np.abs(sample).max() > 0.9 * bound
        _same_distribution(ours, sample)


def test_keras_and_flax_initialisations_have_their_frameworks_distributions():
    keras = pytest.importorskip("keras")
    for shape in ((300, 200), (5, 5, 30, 40)):
        fan_in = int(np.prod(shape[:-1]))
        theirs = np.asarray(keras.initializers.GlorotUniform(seed=0)(shape)).ravel()
        ours = kernel_and_bias("keras", fan_in)
        _same_distribution(np.asarray(ours["kernel_init"](jax.random.key(0), shape, jnp.float32)).ravel(), theirs)
        assert not np.asarray(ours["bias_init"](jax.random.key(0), (7,), jnp.float32)).any()
    flax = nnx.Linear(300, 200, rngs=nnx.Rngs(5))
    ours = kernel_and_bias("flax", 300)["kernel_init"](jax.random.key(0), (300, 200), jnp.float32)
    _same_distribution(np.asarray(ours).ravel(), np.asarray(flax.kernel[...]).ravel())
    assert not np.asarray(flax.bias[...]).any()


@pytest.mark.parametrize("shape", [slow((1,)), slow((7, 5)), slow((2, 3, 4, 5)), (70, 90)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_initialisers_draw_the_numbers_of_jax(shape, dtype):
    key = jax.random.key(3)
    uniform = kernel_and_bias("torch", 4)["kernel_init"]
    pairs = [(uniform, lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -0.5, 0.5))]
    if len(shape) > 1:
        pairs += [
            (kernel_and_bias("flax", 1)["kernel_init"], nnx.initializers.lecun_normal()),
            (kernel_and_bias("keras", 1)["kernel_init"], nnx.initializers.glorot_uniform()),
        ]
    for ours, theirs in pairs:
        drawn, expected = ours(key, shape, dtype), theirs(key, shape, dtype)
        assert drawn.dtype == dtype
        np.testing.assert_allclose(*(np.asarray(x, np.float32) for x in (drawn, expected)), rtol=1e-6)
        traced = jax.jit(lambda key, init=ours: init(key, shape, dtype))(key)
        np.testing.assert_allclose(*(np.asarray(x, np.float32) for x in (traced, drawn)), rtol=1e-6)


def _same_distribution(a, b):
    """The two-sample Kolmogorov-Smirnov distance is below its 0.1 % critical value."""
    grid = np.sort(np.concatenate([a, b]))
    distance = np.abs(
        np.searchsorted(np.sort(a), grid, "right") / len(a) - np.searchsorted(np.sort(b), grid, "right") / len(b)
    ).max()
    assert distance < 1.95 * np.sqrt(1 / len(a) + 1 / len(b))


def test_every_kind_of_layer_is_described_and_built_again():
    rngs = nnx.Rngs(0)
    layers = {
        nnx.Linear: nnx.Linear(3, 4, rngs=rngs),
        nnx.Conv: nnx.Conv(3, 4, (3, 2), strides=(2, 1), padding=((1, 0), (0, 1)), rngs=rngs),
        nnx.ConvTranspose: nnx.ConvTranspose(3, 4, (3, 3), transpose_kernel=True, padding="VALID", rngs=rngs),
        **{kind: None for kind in KINDS if kind.__module__.startswith("flaxvision")},
    }
    arguments = {
        **{"BatchNorm": (3,), "Dropout": (0.5,), "Activation": ("elu", 0.5), "MaxPool": (3, 2, 1), "AvgPool": (2,)},
        **{
            "GroupNorm": (2, 4),
            "LayerNorm": (3,),
            "SpatialDropout": (0.5,),
            "DropPath": (0.5,),
            "PReLU": (3,),
            "Upsample": (2,),
            "Resize": ((3, 4), True),
            "Affine": ((1.0, 2.0), 3.0),
            "Rearrange": ((2, 3), (1, 0), (6,)),
            "Pad": (((1, 0),), 0.5),
            "Scale": (3, "add"),
            "Carried": ((2, 1),),
        },
    }
    assert set(layers) == set(KINDS)
    for kind, made in layers.items():
        layer = made if made is not None else kind(*arguments.get(kind.__name__, ()))
        description = describe("x.0", layer)
        name, again = build(description)
        assert name == "x.0"
        assert describe("x.0", again) == description
        assert nnx.split(again)[0] == nnx.split(layer)[0]


def test_a_layer_outside_the_vocabulary_is_named():
    with pytest.raises(UserError, match=r"layer 'norm' is a InstanceNorm.*allowed kinds: .*Linear.*Conv"):
        describe("norm", nnx.InstanceNorm(3, rngs=nnx.Rngs(0)))
