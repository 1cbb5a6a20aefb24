"""Optimisers against torch.optim, schedules against their closed forms."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxvision.errors import UserError
from flaxvision.training import Recipe
from flaxvision.training.updates import build_optimizer, init_many, shape

pytestmark = pytest.mark.quick

CASES = {
    "sgd": ({"optimizer": "sgd"}, lambda torch, p: torch.optim.SGD(p, 0.05)),
    "momentum": ({"momentum": 0.9}, lambda torch, p: torch.optim.SGD(p, 0.05, momentum=0.9)),
    "nesterov": (
        {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
        lambda torch, p: torch.optim.SGD(p, 0.05, momentum=0.8, nesterov=True, weight_decay=0.1),
    ),
    "adam": ({"optimizer": "adam"}, lambda torch, p: torch.optim.Adam(p, 0.05)),
    "adam with L2": (
        {"optimizer": "adam", "weight_decay": 0.1},
        lambda torch, p: torch.optim.Adam(p, 0.05, weight_decay=0.1),
    ),
    "adam with numbers": (
        {"optimizer": "adam", "beta1": 0.7, "beta2": 0.95, "epsilon": 1e-3},
        lambda torch, p: torch.optim.Adam(p, 0.05, betas=(0.7, 0.95), eps=1e-3),
    ),
    "adamw with numbers": (
        {"optimizer": "adamw", "weight_decay": 0.1, "beta1": 0.0, "beta2": 0.9},
        lambda torch, p: torch.optim.AdamW(p, 0.05, weight_decay=0.1, betas=(0.0, 0.9)),
    ),
    "rmsprop": ({"optimizer": "rmsprop"}, lambda torch, p: torch.optim.RMSprop(p, 0.05)),
    "rmsprop with numbers": (
        {"optimizer": "rmsprop", "smoothing": 0.9, "epsilon": 0.01, "momentum": 0.5, "weight_decay": 0.1},
        lambda torch, p: torch.optim.RMSprop(p, 0.05, alpha=0.9, eps=0.01, momentum=0.5, weight_decay=0.1),
    ),
    "rmsprop, centered": (
        {"optimizer": "rmsprop", "centered": True, "epsilon": 0.01, "smoothing": 0.5},
        lambda torch, p: torch.optim.RMSprop(p, 0.05, alpha=0.5, eps=0.01, centered=True),
    ),
    "adagrad with numbers": (
        {"optimizer": "adagrad", "epsilon": 0.1, "weight_decay": 0.1},
        lambda torch, p: torch.optim.Adagrad(p, 0.05, eps=0.1, weight_decay=0.1),
    ),
    "adadelta with numbers": (
        {"optimizer": "adadelta", "smoothing": 0.7, "epsilon": 1e-3, "weight_decay": 0.1},
        lambda torch, p: torch.optim.Adadelta(p, 0.05, rho=0.7, eps=1e-3, weight_decay=0.1),
    ),
    "adamax with numbers": (
        {"optimizer": "adamax", "beta1": 0.7, "beta2": 0.95, "epsilon": 1e-3, "weight_decay": 0.1},
        lambda torch, p: torch.optim.Adamax(p, 0.05, betas=(0.7, 0.95), eps=1e-3, weight_decay=0.1),
    ),
    "nadam with numbers": (
        {"optimizer": "nadam", "beta1": 0.7, "beta2": 0.95, "momentum_decay": 0.1, "weight_decay": 0.1},
        lambda torch, p: torch.optim.NAdam(p, 0.05, betas=(0.7, 0.95), momentum_decay=0.1, weight_decay=0.1),
    ),
    "radam with numbers": (
        {"optimizer": "radam", "beta1": 0.7, "beta2": 0.95, "weight_decay": 0.1},
        lambda torch, p: torch.optim.RAdam(p, 0.05, betas=(0.7, 0.95), weight_decay=0.1),
    ),
    "adamw": (
        {"optimizer": "adamw", "weight_decay": 0.1},
        lambda torch, p: torch.optim.AdamW(p, 0.05, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_thirty_updates_equal_torch(torch, case):
    settings, make = CASES[case]
    start = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    scale = np.array([[1.0, 3.0]], np.float32)

    theirs = torch.nn.Parameter(torch.tensor(start))
    optimizer = make(torch, [theirs])
    tx = build_optimizer(Recipe(learning_rate=0.05, **settings), 30, 10)
    ours = jnp.asarray(start)
    state = tx.init(ours)
    for _ in range(30):
        optimizer.zero_grad()
        (torch.cos(theirs * torch.tensor(scale)).sum() + theirs.square().sum()).backward()
        optimizer.step()
        grads = jax.grad(lambda p: jnp.cos(p * scale).sum() + jnp.square(p).sum())(ours)
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes integers and floats
            updates, state = tx.update(grads, state, ours)
        ours = optax.apply_updates(ours, updates)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=2e-4, atol=2e-5)


def test_numbers_live_in_the_state():
    recipe = Recipe(learning_rate=0.25, momentum=0.5, weight_decay=0.125)
    tx = build_optimizer(recipe.structure(), 10, 10)  # one program for all numbers
    state = build_optimizer(recipe, 10, 10).init(jnp.ones(2))
    updates, _ = tx.update(jnp.ones(2), state, jnp.ones(2))
    np.testing.assert_allclose(updates, -0.25 * (1 + 0.125) * np.ones(2))


@pytest.mark.parametrize("case", CASES)
def test_the_states_of_several_optimizers_at_once(case):
    recipes = [Recipe(**CASES[case][0], learning_rate=rate, seed=seed) for seed, rate in enumerate((0.5, 0.1))]
    if recipes[0].momentum:
        recipes[1] = dataclasses.replace(recipes[1], momentum=0.3)
    params = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones((2, 1))}
    together = init_many(recipes, 10, 10, params)
    for k, recipe in enumerate(recipes):
        alone = build_optimizer(recipe, 10, 10).init(jax.tree.map(lambda x, k=k: x[k], params))
        assert jax.tree.structure(alone) == jax.tree.structure(together)
        for one, both in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            np.testing.assert_array_equal(both[k], one)
            assert both.dtype == one.dtype


def test_schedules():
    cosine = shape(Recipe(schedule="cosine"), 100, 10)
    np.testing.assert_allclose([cosine(0), cosine(50), cosine(100)], [1, 0.5, 0], atol=1e-6)
    warm = shape(Recipe(schedule="linear", warmup_epochs=2), 100, 10)
    np.testing.assert_allclose([warm(0), warm(10), warm(20), warm(60), warm(100)], [0, 0.5, 1, 0.5, 0], atol=1e-6)


def test_a_schedule_scales_the_update():
    recipe = Recipe(learning_rate=0.5, schedule="linear")
    tx = build_optimizer(recipe, 4, 4)
    state = tx.init(jnp.ones(()))
    sizes = []
    for _ in range(4):
        update, state = tx.update(jnp.ones(()), state, jnp.ones(()))
        sizes.append(-float(update))
    np.testing.assert_allclose(sizes, [0.5, 0.375, 0.25, 0.125])


def test_optax_schedules_and_transformations():
    tx = build_optimizer(Recipe(learning_rate=lambda step: 1 / (1 + step.astype(jnp.float32))), 4, 4)
    state = tx.init(jnp.ones(()))
    first, state = tx.update(jnp.ones(()), state, jnp.ones(()))
    second, _ = tx.update(jnp.ones(()), state, jnp.ones(()))
    np.testing.assert_allclose([first, second], [-1, -0.5])
    own = optax.sgd(0.1)
    assert build_optimizer(Recipe(optimizer=own), 1, 1) is own


@pytest.mark.parametrize("numbers", [{}, {"beta1": 0.5, "beta2": 0.7, "weight_decay": 0.1}])
def test_lion_is_the_papers(numbers):
    """Algorithm 2 of Chen et al. (2023), written out in NumPy."""
    b1, b2, decay = numbers.get("beta1", 0.9), numbers.get("beta2", 0.99), numbers.get("weight_decay", 0.0)
    theirs = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    momentum = np.zeros_like(theirs)
    tx = build_optimizer(Recipe(optimizer="lion", learning_rate=0.05, **numbers), 10, 10)
    ours = jnp.asarray(theirs)
    state = tx.init(ours)
    for _ in range(10):
        gradient = 2 * theirs - np.sin(theirs)
        update = np.sign(b1 * momentum + (1 - b1) * gradient)
        momentum = b2 * momentum + (1 - b2) * gradient
        theirs = theirs - 0.05 * (update + decay * theirs)
        updates, state = tx.update(2 * ours - jnp.sin(ours), state, ours)
        ours = optax.apply_updates(ours, updates)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("numbers", [{}, {"beta1": 0.5, "beta2": 0.7, "epsilon": 0.01, "weight_decay": 0.1}])
def test_lamb_is_the_papers(numbers):
    """Algorithm 2 of You et al. (2020) with the identity as phi, written out in NumPy."""
    b1, b2, decay = numbers.get("beta1", 0.9), numbers.get("beta2", 0.999), numbers.get("weight_decay", 0.0)
    epsilon = numbers.get("epsilon", 1e-6)
    random = np.random.default_rng(0)
    theirs = {"kernel": random.normal(size=(3, 2)), "bias": random.normal(size=2)}
    ours = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), theirs)
    mean, square = ({name: np.zeros_like(x) for name, x in theirs.items()} for _ in range(2))
    tx = build_optimizer(Recipe(optimizer="lamb", learning_rate=0.05, **numbers), 10, 10)
    state = tx.init(ours)
    for step in range(1, 11):
        for name, x in theirs.items():
            gradient = 2 * x - np.sin(x)
            mean[name] = b1 * mean[name] + (1 - b1) * gradient
            square[name] = b2 * square[name] + (1 - b2) * gradient**2
            ratio = mean[name] / (1 - b1**step) / (np.sqrt(square[name] / (1 - b2**step)) + epsilon)
            update = ratio + decay * x
            theirs[name] = x - 0.05 * np.linalg.norm(x) / np.linalg.norm(update) * update
        ours, state = apply_update(tx, jax.tree.map(lambda x: 2 * x - jnp.sin(x), ours), ours, state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)


@pytest.mark.parametrize("shape", [(3, 5), (3, 3, 2, 4)])
def test_muon_is_the_authors(torch, shape):
    """Jordan's algorithm (2024) in NumPy; PyTorch's `Muon`, which multiplies in bfloat16, nearby."""
    random = np.random.default_rng(0)
    kernel, bias = random.normal(size=shape), random.normal(size=4)
    matrix = kernel.reshape(-1, shape[-1]).T
    settings = {"learning_rate": 0.05, "weight_decay": 0.1}
    recipe = Recipe(optimizer="muon", beta1=0.8, vector_scale=0.5, **settings)
    ours = {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}
    tx = build_optimizer(recipe, 10, 10)
    state = tx.init(ours)
    theirs = torch.nn.Parameter(torch.tensor(matrix, dtype=torch.float32))
    optimizer = torch.optim.Muon([theirs], lr=0.05, momentum=0.8, weight_decay=0.1)
    vector = torch.nn.Parameter(torch.tensor(bias, dtype=torch.float32))
    adam = torch.optim.AdamW([vector], lr=0.025, weight_decay=0.2)
    momentum = np.zeros_like(matrix)
    for _ in range(6):
        gradient = 2 * matrix - np.sin(matrix)
        momentum = 0.8 * momentum + 0.2 * gradient
        x = 0.2 * gradient + 0.8 * momentum
        x = x / np.linalg.norm(x)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        matrix = (1 - 0.05 * 0.1) * matrix - 0.05 * max(1, x.shape[0] / x.shape[1]) ** 0.5 * x
        ours, state = apply_update(tx, jax.tree.map(lambda x: 2 * x - jnp.sin(x), ours), ours, state)
        theirs.grad, vector.grad = (
            2 * theirs.detach() - theirs.detach().sin(),
            2 * vector.detach() - vector.detach().sin(),
        )
        optimizer.step()
        adam.step()
    found = np.asarray(ours["kernel"]).reshape(-1, shape[-1]).T
    np.testing.assert_allclose(found, matrix, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found, theirs.detach(), atol=0.01)
    np.testing.assert_allclose(ours["bias"], vector.detach(), rtol=1e-4)


@functools.partial(jax.jit, static_argnums=0)
def apply_update(tx, gradient, params, state):
    with jax.numpy_dtype_promotion("standard"):
        updates, state = tx.update(gradient, state, params)
    return optax.apply_updates(params, updates), state


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_decay_without_biases_is_pytorchs(torch, optimizer):
    random = np.random.default_rng(0)
    arrays = {"kernel": random.normal(size=(2, 3)), "bias": random.normal(size=3), "scale": random.normal(size=3)}
    ours = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), arrays)
    recipe = Recipe(optimizer=optimizer, learning_rate=0.05, weight_decay=0.3, decay_biases=False)
    tx = build_optimizer(recipe, 4, 4)
    state = tx.init(ours)
    theirs = {name: torch.nn.Parameter(torch.tensor(x, dtype=torch.float32)) for name, x in arrays.items()}
    groups = [
        {"params": [theirs["kernel"]], "weight_decay": 0.3},
        {"params": [theirs["bias"], theirs["scale"]], "weight_decay": 0.0},
    ]
    make = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimizer](groups, lr=0.05)
    for _ in range(4):
        for parameter in theirs.values():
            parameter.grad = parameter.detach().cos()
        make.step()
        ours, state = apply_update(tx, jax.tree.map(jnp.cos, ours), ours, state)
    for name, parameter in theirs.items():
        np.testing.assert_allclose(ours[name], parameter.detach(), rtol=1e-4)


def test_every_optimizer_has_its_row_its_fields_and_its_peer(torch, monkeypatch):
    from export import _torch_optimizers
    from flaxvision.training.optimizers import OPTIMIZERS, Optimizer, settings_of_optimizers
    from flaxvision.training.recipe import VARYING, field_names

    assert set(settings_of_optimizers()) <= set(field_names())
    assert set(settings_of_optimizers()) - {"nesterov", "centered"} == set(settings_of_optimizers()) & set(VARYING)
    for name, optimizer in OPTIMIZERS.items():
        tx = build_optimizer(Recipe(optimizer=name, weight_decay=0.1, clip_norm=1.0), 4, 4)
        assert jax.tree.leaves(tx.init(jnp.ones(2)))
        peer = _torch_optimizers.PEERS[name]
        if peer is None:
            continue
        (group,) = _torch_optimizers.torch_optimizer(
            Recipe(optimizer=name), [torch.nn.Parameter(torch.ones(2))]
        ).param_groups
        theirs = {argument: group[argument] for argument in peer.arguments}  # our defaults are PyTorch's, but Lion's
        default = getattr(torch.optim, peer.kind)([torch.nn.Parameter(torch.ones(2))], lr=0.1).param_groups[0]
        assert theirs == {argument: default[argument] for argument in theirs}
        assert len(optimizer.defaults) == sum(
            1 if isinstance(setting, str) else len(setting) for setting in peer.arguments.values()
        )
    monkeypatch.setitem(OPTIMIZERS, "new", Optimizer({}, lambda: []))
    with pytest.raises(TypeError, match=r"without an entry here.*\['new'\]"):
        importlib.reload(_torch_optimizers)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "lion", "momentum": 0.9}, "give momentum=0.0, or optimizer 'sgd' or 'rmsprop'"),
        ({"optimizer": "lion", "epsilon": 1e-3}, "leave it out, or optimizer 'adam' or 'adamw' or 'rmsprop'"),
        ({"optimizer": "rmsprop", "nesterov": True, "momentum": 0.9}, "give nesterov=false, or optimizer 'sgd'"),
        ({"optimizer": "rmsprop", "beta1": 0.9}, "beta1 is 0.9 but has no effect with optimizer 'rmsprop'"),
        ({"smoothing": 0.9}, "smoothing is 0.9 but has no effect with optimizer 'sgd': leave it out"),
        ({"optimizer": "adam", "centered": True}, "give centered=false, or optimizer 'rmsprop'"),
        ({"optimizer": "adam", "beta2": 1.0}, "beta2 is 1.0: give a number from 0 up to but without 1"),
        ({"optimizer": "adam", "epsilon": 0}, "epsilon is 0: give a number above 0"),
        ({"optimizer": "adam", "beta1": "0.9"}, "beta1 is '0.9': give a number from 0"),
        ({"momentum": None}, "momentum is None: give a number from 0"),
        ({"optimizer": "rmsprob"}, "unknown optimizer 'rmsprob': did you mean 'rmsprop'?"),
    ],
)
def test_numbers_that_an_optimizer_does_not_have(settings, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        Recipe(**settings)
    assert "\n" not in str(caught.value)
