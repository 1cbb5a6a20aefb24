from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxvision.errors import UserError
from flaxvision.sweep import load_spec, override, parse_spec
from flaxvision.sweep.overrides import parse_setting
from flaxvision.sweep.trials import by_program, expand


def test_order_first_axis_slowest_seeds_fastest(tiny):
    spec = parse_spec(tiny(grid={"learning_rate": [0.1, 0.2], "batch_size": [16, 32]}, seeds=[7, 3]))
    assert [(dict(trial.cell), trial.seed) for trial in expand(spec)] == [
        ({"learning_rate": rate, "batch_size": size}, seed)
        for rate in ("0.1", "0.2")
        for size in ("16", "32")
        for seed in (7, 3)
    ]


def test_settings_of_points_replace_those_of_the_sweep(tiny):
    points = [{"name": "short"}, {"name": "long", "epochs": 5}]
    first, second = expand(parse_spec(tiny(variants=points)))
    assert (first.settings["epochs"], second.settings["epochs"]) == (1, 5)
    assert second.cell == (("variant", "long"),)


@pytest.mark.parametrize(
    ("grid", "programs"),
    [
        ({"learning_rate": [0.1, 0.01]}, 1),
        ({"momentum": [0.5, 0.9]}, 1),
        ({"momentum": [0.0, 0.9]}, 2),
        ({"weight_decay": [0, 1e-4, 1e-3]}, 2),
        ({"dropout": [0.1, 0.2]}, 1),
        ({"dropout": [0.0, 0.2]}, 2),
        ({"batch_size": [16, 32]}, 2),
        ({"hidden": [[8], [16], [8, 8]]}, 3),
        ({"optimizer": ["sgd", "adam"]}, 2),
        ({"shuffle": [True, False]}, 2),
        ({"dataset": ["glyphs", "glyphs47"]}, 2),
        ({"model": ["mlp", "linear"]}, 2),
        ({"limit": [64, 128]}, 2),
        ({"epochs": [1, 2]}, 2),
        ({"variant": [{"name": "free"}, {"name": "frozen", "frozen": ["linear_relu_stack.0"]}]}, 2),
        ({"variant": [{"name": "the model's own"}, {"name": "none", "dropout": 0.0}]}, 2),
        ({"variant": [{"name": "cold"}, {"name": "warm", "warm_start": "a file"}]}, 1),
        ({"learning_rate": [0.1, 0.01], "batch_size": [16, 32]}, 2),
    ],
)
def test_programs(tiny, grid, programs):
    trials = expand(parse_spec(tiny(grid=grid, seeds=3)))
    groups = by_program(trials, 100)
    assert len(groups) == programs
    assert sorted(t.id for group in groups for t in group) == sorted(t.id for t in trials)


@given(st.integers(1, 40), st.integers(1, 12))
def test_chunks_are_near_equal_and_keep_the_order(seeds, most):
    trials = expand(parse_spec({"name": "x", "dataset": "glyphs", "model": "mlp", "seeds": seeds}))
    groups = by_program(trials, most)
    assert [trial for group in groups for trial in group] == trials
    assert max(map(len, groups)) <= most
    assert len(groups) == -(-seeds // most)


@pytest.mark.parametrize(
    ("text", "key", "values"),
    [
        ("a=1", "a", [1]),
        ("a=1,0.5", "a", [1, 0.5]),
        (" a = 1 , 2", "a", [1, 2]),
        ("a=[8],[16, 8]", "a", [[8], [16, 8]]),
        ("a=sgd,adam", "a", ["sgd", "adam"]),
        ("a=sgd,1", "a", ["sgd", 1]),
        ('a="x,y"', "a", ["x,y"]),
        ("a=true,false", "a", [True, False]),
        ("a=npz:/some/folder", "a", ["npz:/some/folder"]),
        ("a=b=c", "a", ["b=c"]),
    ],
)
def test_parse_setting(text, key, values):
    assert parse_setting(text) == (key, values)


@given(st.text(max_size=12))
def test_parse_setting_never_breaks(text):
    try:
        key, values = parse_setting(text)
    except UserError:
        return
    assert key
    assert values


def test_override():
    spec = override(
        load_spec("fashion-learning-rate"),
        dataset="glyphs",
        epochs=2,
        seeds=2,
        limit=64,
        settings=["learning_rate=0.1,0.30", "batch_size=32", "hidden=[8],[16]", "optimizer=adam"],
    )
    assert spec.keys == ("learning_rate", "hidden")
    assert [p.label for p in spec.axes[0].points] == ["0.1", "0.30"]
    assert spec.seeds == (0, 1)
    wanted = {"dataset": "glyphs", "epochs": 2, "limit": 64, "batch_size": 32, "optimizer": "adam"}
    assert wanted.items() <= spec.base.items()
    assert spec.published == ()  # they are another data set's


def test_published_numbers_of_cells_that_are_gone_are_gone():
    spec = override(load_spec("fashion-learning-rate"), dataset="fashion_mnist", settings=["learning_rate=0.1,0.30"])
    assert [p.where for p in spec.published] == [{"learning_rate": "0.1"}]


@pytest.mark.parametrize("changes", [{"epochs": 1}, {"limit": 100}, {"settings": ["batch_size=64"]}])
def test_published_numbers_of_another_training_are_gone_but_for_parameters(changes):
    spec = load_spec("mnist-net")
    assert {p.metric for p in spec.published} == {"test_top1", "parameters"}
    assert [p.metric for p in override(spec, **changes).published] == ["parameters"]
    same = {"epochs": spec.base["epochs"], "settings": ["conv=native"], "seeds": 1}
    assert override(spec, **same).published == spec.published


def test_a_data_set_reaches_every_stage():
    spec = override(load_spec("emnist-holdout"), dataset="glyphs47")
    assert spec.pretrain is not None
    assert spec.pretrain.settings["dataset"] == "glyphs47"


def test_override_reaches_the_stages():
    spec = override(load_spec("emnist-autoencoder"), epochs=1, seeds=2, limit=10)
    assert spec.pretrain is not None
    assert spec.final is not None
    assert spec.pretrain.settings["epochs"] == spec.final.settings["epochs"] == 1
    assert spec.pretrain.settings["limit"] == 10
    assert spec.pretrain.settings["dataset"] == "mnist"
    assert (spec.pretrain.seeds, spec.final.seeds) == ((0,), (0, 1))


def test_override_replaces_an_axis_and_a_duration(tiny):
    table = tiny(grid={"dataset": ["glyphs", "glyphs47"], "limit": [64, 128]}, recipe={"epochs": 1})
    del table["recipe"]["epochs"]
    table["recipe"]["steps"] = 5
    spec = override(parse_spec(table), dataset="glyphs47", limit=32, epochs=0.5)
    (trial,) = expand(spec)
    assert {"dataset": "glyphs47", "limit": 32, "epochs": 0.5}.items() <= trial.settings.items()
    assert "steps" not in trial.settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": ["learning_rte=1"]}, "did you mean 'learning_rate'"),
        ({"settings": ["hidden"]}, "give KEY=VALUE"),
        ({"settings": ["learning_rate="]}, "give KEY=VALUE"),
        ({"settings": ["learning_rate=0.1,0.1"]}, "has '0.1' twice"),
        ({"settings": ["optimizer=2020-01-01"]}, "give a number, a string"),
        ({"settings": ["momentum=nan"]}, "finite"),
        ({"settings": ["encoder=1"]}, "unknown --set key 'encoder'"),
        ({"settings": ["learning_rate=1"]}, "learning_rate is given by optimizer"),
        ({"settings": ["warm_start=x"]}, "warm_start is given by encoder"),
        ({"seeds": 0}, "give a number of them"),
    ],
)
def test_override_errors(changes, message):
    with pytest.raises(UserError, match=message):
        override(load_spec("emnist-holdout"), **changes)


def test_dataset_that_points_give_cannot_be_overridden(tiny):
    spec = parse_spec(tiny(variants=[{"name": "a", "dataset": "glyphs47"}]))
    with pytest.raises(UserError, match="dataset is given by variant"):
        override(spec, dataset="glyphs")


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"learning_rate": [0.001, 1e-3]}, "'0.001' twice"),
        ({"learning_rate": [1, 1.0]}, "are the same trial"),
        ({"optimizer": [{"name": "a", "momentum": 0.5}], "momentum": [0.5]}, "given by both optimizer and momentum"),
        ({"variant": [{"name": "a"}, {"name": "b"}]}, "are the same trial"),
    ],
)
def test_expand_errors(tiny, grid, message):
    with pytest.raises(UserError, match=message):
        expand(parse_spec(tiny(grid=grid)))


def test_numbers_of_optimizers_vary_within_a_program(tiny):
    recipe = {"optimizer": "rmsprop", "momentum": 0.9}
    numbers = {"smoothing": [0.9, 0.5], "clip_norm": [0.5, 2], "label_smoothing": [0.1, 0.2], "epsilon": [1e-8, 1e-3]}
    trials = expand(parse_spec(tiny(recipe=recipe, grid=numbers)))
    assert len({trial.program for trial in trials}) == 1
    other = expand(parse_spec(tiny(recipe=recipe, grid={**numbers, "centered": [False, True]})))
    assert len({trial.program for trial in other}) == 2
    without = expand(parse_spec(tiny(recipe=recipe, grid={"label_smoothing": [0, 0.1, 0.2]})))
    assert len({trial.program for trial in without}) == 2
