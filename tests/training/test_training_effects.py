"""Recipes whose settings leave each other without effect, schedules by name, and the time of compilation."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.training import Recipe
from flaxvision.training.compiling import compiled_seconds, compiling_once
from flaxvision.training.updates import build_optimizer, shape, update
from tests.conftest import made_dataset

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"learning_rate": 5.0}, "learning_rate"),
        ({"momentum": 0.9}, "momentum"),
        ({"weight_decay": 0.1}, "weight_decay"),
        ({"schedule": "cosine"}, "schedule"),
        ({"warmup_epochs": 1.0}, "warmup_epochs"),
        ({"learning_rate": optax.constant_schedule(0.1)}, "learning_rate"),
    ],
)
def test_nothing_stands_beside_an_optimizer_of_ones_own(settings, name):
    own = optax.sgd(0.1)
    with pytest.raises(UserError, match=f"{name} has no effect beside an optax optimizer of your own"):
        Recipe(optimizer=own, **settings)
    recipe = Recipe(optimizer=own, batch_size=7, augment=("crop",))
    assert dataclasses.replace(recipe, seed=3).structure() == recipe.structure()


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_momentum_is_stochastic_gradient_descents(optimizer):
    with pytest.raises(UserError, match="has no effect with optimizer"):
        Recipe(optimizer=optimizer, momentum=0.9)
    # The message leads somewhere: what it says to give is taken.
    assert Recipe(optimizer=optimizer, momentum=0).optimizer == optimizer
    assert Recipe(optimizer="sgd", momentum=0.9, nesterov=True).nesterov


def test_points_have_no_pixels_and_early_stopping_needs_time():
    data = fv.data.load("two_clusters", limit=64)
    model = fv.models.create("linear", input_shape=(2,), num_classes=1)
    points = Recipe(loss="binary_cross_entropy", epochs=2, batch_size=32)
    with pytest.raises(UserError, match="pixels is 'signed' but has no effect: two_clusters holds float32 points"):
        fv.fit(model, data, dataclasses.replace(points, pixels="signed"))
    with pytest.raises(UserError, match="early_stopping is 2 but has no effect in 2 epochs"):
        fv.fit(model, data, dataclasses.replace(points, early_stopping=2))
    with pytest.raises(UserError, match="select_on is 'test_top3', which is 1 with 2 classes"):
        fv.fit(model, data, dataclasses.replace(points, select="best", select_on="test_top3"))


def test_one_class_is_nothing_to_learn():
    x = np.zeros((4, 2), np.float32)
    data = fv.data.from_arrays(x, ["cat"] * 4, x, ["cat"] * 4)
    for loss in ("cross_entropy", "binary_cross_entropy"):
        with pytest.raises(UserError, match=r"arrays has one class, cat: .* FOLDER/cat/1.png and FOLDER/dog/1.png"):
            fv.fit(fv.models.create("linear", input_shape=(2,), num_classes=1), data, Recipe(loss=loss, batch_size=4))


def factors(schedule: str, steps: int) -> np.ndarray:
    """What the learning rate is multiplied by at every step."""
    return np.asarray(jax.jit(jax.vmap(shape(Recipe(schedule=schedule), steps, 10)))(np.arange(steps)))


@pytest.mark.parametrize("steps", [8, 37, 100])
def test_step_schedule_is_pytorchs(steps, torch):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], 1.0)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps // 2, 3 * steps // 4])
    ours = factors("step", steps)
    for step in range(steps):
        assert ours[step] == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(("epochs", "factor"), [(1, 0.1), (2.5, 0.5), (0.1, 0.9)])
def test_steps_every_so_many_epochs_are_pytorchs(epochs, factor, torch):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    theirs = torch.optim.lr_scheduler.StepLR(optimizer, int(epochs * 10), gamma=factor)
    recipe = Recipe(schedule="step", step_epochs=epochs, step_factor=factor)
    ours = np.asarray(jax.vmap(shape(recipe, 60, 10))(np.arange(60)))
    for step in range(60):
        assert ours[step] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-5)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(("milestones", "warmup"), [([2, 4.5], 0), ([0.5], 0), ([2, 3, 5.9], 1)])
def test_milestones_are_pytorchs(milestones, warmup, torch):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [round(10 * m) for m in milestones], gamma=0.2)
    recipe = Recipe(schedule="step", milestones=milestones, step_factor=0.2, warmup_epochs=warmup)
    ours = np.asarray(jax.vmap(shape(recipe, 60, 10))(np.arange(60)))
    for step in range(60):
        if step >= 10 * warmup:
            assert ours[step] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-5)
        optimizer.step()
        theirs.step()


def test_where_schedules_begin_and_end_is_pytorchs(torch):
    """`LinearLR` and `CosineAnnealingLR`, whose last value is that after the last update."""
    for schedule, after in (
        ("linear", lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.07, 37)),
        ("cosine", lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 37, 0.07)),
    ):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
        rise = torch.optim.lr_scheduler.LinearLR(optimizer, 0.2, 1.0, 11)
        theirs = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, after(optimizer)], [11])
        recipe = Recipe(schedule=schedule, warmup_epochs=1.1, start_factor=0.2, end_factor=0.07)
        with jax.numpy_dtype_promotion("standard"):
            ours = np.asarray(jax.vmap(shape(recipe, 48, 10))(np.arange(48)))
        for step in range(48):
            assert ours[step] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-5)
            optimizer.step()
            theirs.step()


def test_the_short_last_batch_is_left_out():
    """With `drop_last` a training of 50 examples by 16 sees only the first 48 of each epoch."""
    data = made_dataset((4, 4, 1), 3, 50, 20)
    model = fv.models.create("linear", input_shape=(4, 4, 1), num_classes=3)
    recipe = Recipe(batch_size=16, epochs=2, shuffle=False, drop_last=True)
    assert recipe.total_steps(50) == 6
    fewer = dataclasses.replace(data, train=data.train[:48])
    found, wanted = fv.fit(model, data, recipe), fv.fit(model, fewer, dataclasses.replace(recipe, drop_last=False))
    np.testing.assert_array_equal(found.history["step_loss"], wanted.history["step_loss"])
    np.testing.assert_array_equal(found.history["train_top1"], wanted.history["train_top1"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"milestones": [3], "schedule": "cosine"}, "milestones is [3] but has no effect with schedule 'cosine'"),
        ({"milestones": [3, 2], "schedule": "step"}, "milestones is [3, 2]: give epochs above 0 in increasing order"),
        ({"milestones": ["3"], "schedule": "step"}, "milestones is ['3']: give epochs above 0"),
        (
            {"milestones": [10], "schedule": "step"},
            "milestones is [10] but steps down from 0 to 10 epochs, of 8 updates",
        ),
        ({"milestones": [3, 3.01], "schedule": "step"}, "give epochs between these"),
        ({"milestones": [1], "warmup_epochs": 2, "schedule": "step"}, "steps down from 2 to 10 epochs"),
        ({"milestones": [3], "step_epochs": 2, "schedule": "step"}, "both milestones and step_epochs"),
        ({"step_epochs": 3}, "step_epochs is 3 but has no effect with schedule 'constant': give schedule 'step'"),
        ({"step_factor": 0.5, "schedule": "cosine"}, "step_factor is 0.5 but has no effect with schedule 'cosine'"),
        ({"step_factor": 1, "schedule": "step"}, "step_factor is 1: give a number above 0 up to but without 1"),
        ({"step_epochs": 0, "schedule": "step"}, "step_epochs is 0: give a number above 0"),
        ({"step_epochs": 10, "schedule": "step"}, "step_epochs is 10 but there are 10 epochs of 8 updates to step"),
        ({"step_epochs": 9, "schedule": "step", "warmup_epochs": 1}, "step_epochs is 9 but there are 9 epochs"),
        ({"step_epochs": 0.01, "schedule": "step"}, "give an update or more, and less than all of them"),
    ],
)
def test_steps_that_never_come(settings, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        Recipe(**settings).total_steps(8 * 128)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("steps", [20, 133])
def test_one_cycle_rises_and_falls_as_pytorchs(steps, torch):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], 1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=steps, cycle_momentum=False)
    ours = factors("one_cycle", steps)
    for step in range(steps):
        assert ours[step] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-5, abs=1e-7)
        optimizer.step()
        theirs.step()


CYCLING = {
    "sgd": ({"momentum": 0.95, "nesterov": True}, {"momentum": 0.95, "nesterov": True}),
    "rmsprop": ({"momentum": 0.95, "epsilon": 0.1}, {"momentum": 0.95, "eps": 0.1}),
    "adam": ({"beta1": 0.95, "epsilon": 0.1}, {"betas": (0.95, 0.999), "eps": 0.1}),
}


@pytest.mark.parametrize("name", CYCLING)
def test_momentum_cycles_as_pytorchs(name, torch):
    """Twenty updates of `OneCycleLR` with its default, cycle_momentum=True."""
    kinds = {"sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop, "adam": torch.optim.Adam}
    settings, arguments = CYCLING[name]
    start = np.linspace(-1, 2, 6).astype(np.float32)
    parameter = torch.nn.Parameter(torch.tensor(start))
    optimizer = kinds[name]([parameter], 0.05, **arguments)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, 20, base_momentum=0.8, max_momentum=0.95)
    recipe = Recipe(optimizer=name, learning_rate=0.05, schedule="one_cycle", base_momentum=0.8, **settings)
    tx, ours = build_optimizer(recipe, 20, 10), jnp.asarray(start)
    state, step = tx.init(ours), jax.jit(functools.partial(update, tx))
    for number in range(20):
        parameter.grad = parameter.detach().cos() + parameter.detach()
        optimizer.step()
        if number < 19:
            schedule.step()
        ours, state = step(jnp.cos(ours) + ours, ours, state)
        np.testing.assert_allclose(ours, parameter.detach(), rtol=1e-4, atol=1e-6)


def test_a_schedule_that_is_not_there_says_what_python_takes():
    with pytest.raises(
        UserError, match=r"unknown schedule 'poly': .*one_cycle; in Python any optax schedule"
    ) as caught:
        Recipe(schedule="poly")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"unknown optimizer 'yogi': .*in Python any optax transformation"):
        Recipe(optimizer="yogi")


def test_time_of_compilation_is_known_and_counted_once():
    before = compiled_seconds()
    assert compiled_seconds() == before
    inner = jax.jit(lambda x: x * 3 + 1)
    jax.jit(lambda x: inner(x) + inner(x[:3]).sum())(np.arange(7.0, dtype=np.float32))
    first = compiled_seconds()
    assert first > before
    jax.jit(inner)(np.arange(7.0, dtype=np.float32))  # in another thread's account: none of ours
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        elsewhere = pool.submit(
            lambda: (jax.jit(lambda x: x - 2)(np.arange(5.0, dtype=np.float32)), compiled_seconds())[1]
        )
        ours = compiled_seconds()
        assert elsewhere.result() > 0
        assert compiled_seconds() == ours


def test_waiting_for_another_threads_compilation_counts_as_compilation():
    def function():
        pass

    import threading

    inside, leave = threading.Event(), threading.Event()

    def first():
        with compiling_once(function, 1):
            inside.set()
            leave.wait()

    def second():
        compiled_seconds()
        with compiling_once(function, 1):
            pass
        return compiled_seconds()

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        holder = pool.submit(first)
        inside.wait()
        waiter = pool.submit(second)
        while not waiter.running():
            pass
        leave.set()
        holder.result()
        assert waiter.result() > 0


def test_total_time_holds_the_compilation():
    data = fv.data.load("two_clusters", limit=64)
    model = fv.models.create("linear", input_shape=(2,), num_classes=2)
    timing = fv.fit(model, data, Recipe(epochs=1, batch_size=16)).timing
    assert 0 < timing.compilation < timing.total
    again = fv.fit(model, data, Recipe(epochs=1, batch_size=16)).timing
    assert again.compilation < timing.compilation
