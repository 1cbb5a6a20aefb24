from __future__ import annotations

import string

import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxvision.errors import UserError
from flaxvision.models import count_parameters, create
from flaxvision.sweep import list_specs, load_spec, override, parse_spec
from flaxvision.sweep.spec import Typed, as_typed, config_hash
from flaxvision.sweep.spec_file import dump_spec, write_spec
from flaxvision.sweep.trials import every_trial, expand

# The table: data, model, varied keys, cells, seeds.
SPECS = {
    "demo": ("glyphs", ("learning_rate",), 4, 3),
    "fashion-learning-rate": ("fashion_mnist", ("learning_rate",), 4, 3),
    "fashion-convergence": ("fashion_mnist", ("learning_rate",), 4, 1),
    "fashion-structure": ("fashion_mnist", ("variant",), 3, 1),
    "glyphs-search": ("glyphs", ("optimizer", "learning_rate", "momentum", "hidden"), 0, 3),
    "mnist-frameworks": ("mnist", ("padding", "init"), 4, 3),
    "mnist-net": ("mnist", (), 1, 3),
    "mnist-ablations": ("mnist", ("variant",), 10, 3),
    "cifar-resnet20": ("cifar10", (), 1, 1),
    "cifar-vgg19": ("cifar10", ("variant",), 2, 1),
    "clusters": ("two_clusters", ("variant",), 3, 5),
    "digits": ("mnist", ("variant",), 3, 3),
    "emnist-holdout": ("emnist_balanced", ("hidden", "optimizer", "encoder"), 12, 1),
    "emnist-final": ("emnist_balanced", ("variant",), 2, 5),
    "emnist-autoencoder": ("emnist_balanced", ("optimizer",), 3, 1),
}

# shared/reports.md: optimiser, learning rate, batch size, epochs, of every trial that does not vary them.
RECIPES = {
    "fashion-learning-rate": {"optimizer": "sgd", "batch_size": 64, "shuffle": False, "epochs": 10},
    "fashion-convergence": {"optimizer": "sgd", "batch_size": 64, "shuffle": False, "epochs": 100},
    "fashion-structure": {"learning_rate": 0.01, "batch_size": 64, "shuffle": False, "epochs": 200},
    "mnist-frameworks": {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 128, "epochs": 10},
    "mnist-net": {"optimizer": "adam", "learning_rate": 0.001, "batch_size": 32, "epochs": 4},
    "mnist-ablations": {"optimizer": "adam", "learning_rate": 0.001, "batch_size": 32, "epochs": 4},
    # He et al. 2016, section 4.2.
    "cifar-resnet20": {
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.0001,
        "batch_size": 128,
        "steps": 64_000,
        "schedule": "step",
        "augment": ["crop", "flip"],
    },
    "cifar-vgg19": {"optimizer": "adam", "learning_rate": 0.0001, "batch_size": 64, "epochs": 4},
    "clusters": {"optimizer": "adam", "learning_rate": 0.001, "batch_size": 8, "epochs": 10},
    "digits": {"optimizer": "adam", "batch_size": 16, "epochs": 5, "pixels": "signed"},
    "emnist-holdout": {"batch_size": 32, "epochs": 10, "select": "best", "select_on": "val_loss", "validation": 0.2},
    "emnist-final": {"batch_size": 32, "epochs": 20, "hidden": 64},
    "emnist-autoencoder": {"batch_size": 32, "epochs": 10, "loss": "squared_error", "frozen": ["encoder"]},
}

# shared/reports.md: sweep, cell, metric, value.
PUBLISHED = [
    ("fashion-learning-rate", {"learning_rate": "0.1"}, "test_top1", 0.870),
    ("fashion-learning-rate", {"learning_rate": "0.001"}, "test_top1", 0.719),
    ("fashion-convergence", {"learning_rate": "0.01"}, "test_top1", 0.886),
    ("fashion-structure", {"variant": "wider"}, "test_top1", 0.891),
    ("fashion-structure", {"variant": "deeper"}, "parameters", 2_977_546),
    ("mnist-frameworks", {"padding": "SAME", "init": "torch"}, "test_top1", 0.9893),
    ("mnist-frameworks", {"padding": "VALID", "init": "keras"}, "test_top1", 0.9913),
    ("mnist-net", {}, "test_top1", 0.9881),
    ("mnist-net", {}, "parameters", 204_826),
    ("mnist-ablations", {"variant": "two-bn"}, "test_top1", 0.9634),
    ("mnist-ablations", {"variant": "conv"}, "test_top1", 0.9796),
    ("mnist-ablations", {"variant": "conv-pool"}, "parameters", 3_202),
    ("cifar-resnet20", {}, "test_top1", 0.9125),
    ("cifar-vgg19", {"variant": "scratch"}, "parameters", 20_365_002),
    ("clusters", {"variant": "linear"}, "test_loss", 0.693),
    ("clusters", {"variant": "polar"}, "test_top1", 0.901),
    ("digits", {"variant": "linear"}, "test_top1", 0.9150),
    ("digits", {"variant": "cnn"}, "test_top1", 0.9850),
    ("emnist-holdout", {"hidden": "64", "optimizer": "Adam 0.001", "encoder": "scratch"}, "val_loss", 0.6833),
    ("emnist-holdout", {"hidden": "32", "optimizer": "SGD 0.1", "encoder": "pretrained"}, "val_loss", 1.119),
    ("emnist-holdout", {"hidden": "64", "optimizer": "SGD 0.01", "encoder": "pretrained"}, "val_loss", 2.001),
    ("emnist-final", {"variant": "scratch"}, "test_top1", 0.8023),
    ("emnist-final", {"variant": "pretrained"}, "test_loss", 0.9383),
    ("emnist-autoencoder", {"optimizer": "SGD 0.1"}, "val_loss", 111.1),
    ("emnist-autoencoder", {}, "test_loss", 21.6),
]


def test_shipped_names():
    assert list_specs() == sorted(SPECS)


@pytest.mark.parametrize("name", SPECS)
def test_shipped_spec(name):
    dataset, keys, cells, seeds = SPECS[name]
    spec = load_spec(name)
    trials = expand(spec)
    assert (spec.name, spec.base["dataset"], spec.keys, len(spec.seeds)) == (name, dataset, keys, seeds)
    assert len(trials) == cells * seeds
    assert len({trial.cell for trial in trials}) == cells
    assert spec.title
    for trial in trials:
        expected = RECIPES.get(name, {})
        assert {key: trial.settings.get(key) for key in expected} == expected


@pytest.mark.parametrize(("name", "where", "metric", "value"), PUBLISHED)
def test_published_value(name, where, metric, value):
    found = [p.value for p in load_spec(name).published if p.where == where and p.metric == metric]
    assert found == [value]


@pytest.mark.parametrize("name", sorted({name for name, _, metric, _ in PUBLISHED if metric == "parameters"}))
def test_published_parameters_are_those_of_the_networks(name):
    shape = {"cifar10": (32, 32, 3)}.get(SPECS[name][0], (28, 28, 1))
    spec = load_spec(name)
    counts = {}
    for trial in expand(spec):
        model = nnx.eval_shape(
            lambda trial=trial: create(
                trial.settings["model"], input_shape=shape, num_classes=10, **trial.config.model.arguments
            )
        )
        counts[trial.cell] = count_parameters(model)
    published = [p for p in spec.published if p.metric == "parameters"]
    assert published
    for entry in published:
        assert [n for cell, n in counts.items() if entry.where.items() <= dict(cell).items()] == [entry.value]


def test_convergence_threshold_and_final_stage():
    assert load_spec("fashion-convergence").convergence_threshold == 0.001
    final = load_spec("emnist-autoencoder").final
    assert final is not None
    assert final.settings == {"validation": 0, "epochs": 15, "select_on": "test_loss"}
    assert final.seeds == (0,)


def test_values_as_typed(spec_file, tiny):
    text = """
dataset = "glyphs"
model = "mlp"
[grid]
learning_rate = [1e-3, 0.10, 1]
hidden = [[8], [16, 8]]
shuffle = [true, false]
optimizer = ["sgd", "adam"]
"""
    spec = load_spec(spec_file(text))
    labels = {axis.key: [point.label for point in axis.points] for axis in spec.axes}
    assert labels == {
        "learning_rate": ["1e-3", "0.10", "1"],
        "hidden": ["[8]", "[16, 8]"],
        "shuffle": ["true", "false"],
        "optimizer": ["sgd", "adam"],
    }
    again = load_spec(spec_file(dump_spec(spec), "again.toml"))
    assert again.axes == spec.axes
    assert "1e-3" in dump_spec(spec)
    assert "0.10" in dump_spec(spec)


def test_typed_is_a_float():
    value = Typed("1e-3")
    assert value == 0.001
    assert str(value) == as_typed(value) == "1e-3"
    assert as_typed([Typed("0.10"), 1, True, "x"]) == "[0.10, 1, true, x]"


def test_ids(tiny):
    def ids(values, seeds=1):
        return [trial.id for trial in expand(parse_spec(tiny(grid={"learning_rate": values}, seeds=seeds)))]

    assert ids([0.001]) == ids([Typed("1e-3")]) == ids([Typed("0.00100")])
    assert ids([1]) == ids([1.0])
    assert ids([0.001]) != ids([0.01])
    assert len(set(ids([0.1, 0.01], seeds=3))) == 6
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1.0})
    assert config_hash({"a": True}) != config_hash({"a": 1})


def test_named_points_that_look_like_values_keep_their_names(spec_file, tiny):
    points = [{"name": "Adam", "optimizer": "adam"}, {"name": "sgd", "optimizer": "sgd"}]
    published = [{"where": {"optimizer": "Adam"}, "metric": "test_top1", "value": 0.5, "tolerance": 0.1}]
    spec = parse_spec(tiny(grid={"optimizer": points}, published=published))
    assert load_spec(spec_file(dump_spec(spec))) == spec


def test_sizes_of_a_model_of_ones_own_may_vary(tiny):
    table = tiny(model="some.module:function", sizes={"hidden": [8], "depth": 2}, grid={"branches": [1, 2]})
    assert [trial.config.model.arguments["branches"] for trial in expand(parse_spec(table))] == [1, 2]
    table = tiny(model="some.module:function", variants=[{"name": "a", "branches": 1}])
    assert expand(parse_spec(table))[0].config.model.arguments["branches"] == 1


CHANGES = [
    {"epochs": 1},
    {"epochs": 0.5, "seeds": 2, "limit": 500},
    {"settings": ["learning_rate=0.1,1e-3", "epochs=2"]},
    {"settings": ["batch_size=32,64"], "epochs": 2},
    {"settings": {"activation": "tanh"}},
]

# Settings among these that points with names have.
REFUSED = {
    "emnist-autoencoder": ["learning_rate is given by optimizer"],
    "emnist-final": ["learning_rate is given by variant"],
    "emnist-holdout": ["learning_rate is given by optimizer"],
    "mnist-ablations": ["activation is given by variant"],
}


@pytest.mark.parametrize("name", list_specs())
def test_a_sweep_with_changes_is_read_as_it_is_written(name, tmp_path):
    refused = []
    for changes in CHANGES:
        try:
            spec = override(load_spec(name), **changes)
        except UserError as error:
            refused.append(str(error).partition(":")[0])
            continue
        write_spec(tmp_path, spec)
        again = load_spec(tmp_path / "spec.toml")
        assert dump_spec(again) == dump_spec(spec)
        assert again.search == spec.search
        assert {trial.id for trial in every_trial(again)} == {trial.id for trial in every_trial(spec)}
    assert refused == REFUSED.get(name, [])


words = st.text(string.ascii_letters + string.digits + " .=#\"'\\é[]{}", min_size=1, max_size=8)
numbers = st.one_of(
    st.integers(-(10**6), 10**6),
    st.floats(-1e6, 1e6, allow_nan=False),
    st.floats(1e-8, 1, allow_nan=False).map(lambda x: Typed(f"{x:.3e}")),
)
values = st.one_of(numbers, st.booleans(), words, st.lists(numbers, max_size=3))
points = st.dictionaries(st.sampled_from(["momentum", "activation", "nesterov", "epochs"]), values, max_size=3)


@st.composite
def axes(draw):
    grid = {}
    for key in draw(st.lists(st.sampled_from(["learning_rate", "hidden", "optimizer"]), unique=True, max_size=3)):
        grid[key] = draw(st.lists(values, min_size=1, max_size=4, unique_by=(as_typed, lambda v: config_hash(v))))
    if draw(st.booleans()):
        names = draw(st.lists(words, min_size=1, max_size=3, unique=True))
        grid["way"] = [{**draw(points), "name": name} for name in names]
    return grid


@settings(max_examples=60, deadline=None)
@given(axes(), st.one_of(st.integers(1, 4), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3, unique=True)))
def test_resolved_spec_reads_back_to_the_same_trials(grid, seeds):
    import tomllib

    table = {"name": "a sweep", "dataset": "glyphs", "model": "mlp", "seeds": seeds, "grid": grid}
    spec = parse_spec({**table, "recipe": {"weight_decay": 0.5}, "final": {"recipe": {"epochs": 3}, "seeds": 2}})
    again = parse_spec(tomllib.loads(dump_spec(spec), parse_float=Typed))
    assert again.axes == spec.axes
    assert (again.seeds, again.base, again.final, again.objective) == (
        spec.seeds,
        spec.base,
        spec.final,
        spec.objective,
    )

    def ids(one):
        try:
            return [(trial.id, trial.cell, trial.seed) for trial in expand(one)]
        except ValueError as error:  # two named points may be the same trial
            return str(error)

    assert ids(again) == ids(spec)
