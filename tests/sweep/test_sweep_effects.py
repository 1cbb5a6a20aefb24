"""Settings without effect are errors, titles say what was changed, a dry run checks what a run does."""

from __future__ import annotations

import re
import tomllib

import numpy as np
import pytest

from flaxvision.errors import ELSEWHERE, UserError
from flaxvision.sweep import inputs, load_spec, override, parse_spec
from flaxvision.sweep.files import RunFiles
from flaxvision.sweep.keys import setting_keys
from flaxvision.sweep.overrides import parse_setting
from flaxvision.sweep.plan import plan
from flaxvision.sweep.trials import expand

pytestmark = pytest.mark.quick


@pytest.fixture
def files(tmp_path):
    return RunFiles(tmp_path / "run")


@pytest.fixture
def points_folder(tmp_path):
    """Points in a plane, as npz files, of which 9 in 10 are of one class."""
    random = np.random.default_rng(0)
    for split, count in (("train", 60), ("valid", 30)):
        labels = (np.arange(count) % 10 == 0).astype(np.int64)
        np.savez(tmp_path / f"{split}.npz", samples=random.normal(size=(count, 2)), annotations=labels)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": {"optimizer": "adam", "momentum": 0.9}}, "momentum is 0.9 but has no effect with optimizer 'adam'"),
        ({"recipe": {"optimizer": "adamw", "nesterov": True}}, "nesterov is True but has no effect"),
        ({"recipe": {"warm_start_only": ["linear_relu_stack.0"]}}, "no effect without a warm_start"),
        ({"recipe": {"select_on": "test_top1"}}, "select_on is 'test_top1' but has no effect with select 'last'"),
        ({"recipe": {"early_stopping": 1}}, "early_stopping is 1 but has no effect in 1 epoch:"),
        ({"recipe": {"schedule": "cosine", "warmup_epochs": 1}}, "the training is over when its warmup_epochs"),
        ({"recipe": {"warmup_epochs": 1e-3}}, "less than one update"),
        ({"recipe": {"schedule": "one_cycle", "warmup_epochs": 0.5}}, "has a rise of its own"),
        ({"recipe": {"augment": ["crop", "crop"]}}, "give each name once"),
        ({"recipe": {"frozen": ["linear_relu_stack.1"]}}, "have nothing to learn"),
        ({"data": {"validation_seed": 3}}, "validation_seed has no effect without a validation split"),
        ({"data": {"limit": 10**6}}, "limit is 1000000 but has no effect: no split has more than 10000 examples"),
        ({"data": {"drawn": 5000}}, "drawn is 5000 but has no effect with limit 128"),
        ({"sizes": {"hidden": [], "activation": "tanh"}}, "no effect without hidden layers"),
        ({"pretrain": {}}, r"\[pretrain\] has no effect, since no trial starts from it"),
        ({"pretrain": {"seeds": 2}, "recipe": {"warm_start": "pretrain"}}, r"\[pretrain\] has 2 seeds"),
        ({"final": {"only": ["linear_relu_stack.0"]}}, r"\[final\] only has no effect"),
        ({"final": {"seed": 1, "seeds": 2}}, "both seed and seeds"),
        ({"select": "best", "recipe": {"select": "last"}}, "select is given twice"),
        ({"init": {"from": "x"}, "recipe": {"warm_start": "y"}}, "a warm start is given twice"),
        ({"objective": "val_balanced"}, "there is no validation split"),
        (
            {"model": "my_networks:small", "sizes": {"epochs": 3}},
            r"\[sizes\] has epochs, which is a setting of \[recipe\]",
        ),
    ],
)
def test_a_setting_without_effect_is_an_error(tiny, files, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        plan(parse_spec(tiny(**changes)), files)
    assert "\n" not in str(caught.value)


def test_pixels_of_points(points_folder, files):
    table = {"name": "p", "dataset": f"npz:{points_folder}", "model": "linear", "recipe": {"batch_size": 10}}
    assert plan(parse_spec(table), files).parameters
    with pytest.raises(UserError, match=r"pixels is 'raw' but has no effect: .* holds float32 points"):
        plan(parse_spec({**table, "grid": {"pixels": ["unit", "raw"]}}), files)
    with pytest.raises(UserError, match="which is 1 with 2 classes: give 'test_top1'"):
        plan(parse_spec({**table, "objective": "test_top3"}), files)


def test_a_network_is_built_once_for_all_trials_of_its_structure(tiny, files, monkeypatch):
    built = []
    create = inputs.create_model
    monkeypatch.setattr(inputs, "create_model", lambda *given: built.append(given) or create(*given))
    grid = {"learning_rate": [0.1, 0.2, 0.3], "hidden": [[4], [5]], "dropout": [0.0, 0.1, 0.2]}
    checked = plan(parse_spec(tiny(grid=grid, seeds=2)), files)
    assert len(checked.trials) == 36
    assert len(built) == 4  # two widths, each with dropout and without
    assert {checked.parameters[trial.id] for trial in checked.trials} == {64 * w + w + 10 * w + 10 for w in (4, 5)}
    wrong = {"learning_rate": (0.2, -0.1, "learning_rate is -0.1"), "dropout": (0.2, 1.5, "dropout is 1.5")}
    for key, (good, bad, message) in wrong.items():  # what trials of a structure do not share is checked of each
        with pytest.raises(UserError, match=message):
            plan(parse_spec(tiny(grid={key: [good, bad]})), files)


def test_an_error_names_the_cell_unless_it_is_the_whole_sweeps(tiny, files):
    spec = parse_spec(tiny(grid={"optimizer": ["sgd", "adam"], "momentum": [0.0, 0.9]}))
    with pytest.raises(UserError, match=r"\(in optimizer=adam, momentum=0.9\)$"):
        plan(spec, files)
    with pytest.raises(UserError, match=r"unknown loss 'l1': [^(]*$"):
        plan(parse_spec(tiny(grid={"momentum": [0.0, 0.9]}, recipe={"loss": "l1"})), files)


@pytest.mark.parametrize(
    ("changes", "objective"),
    [
        ({}, "test_top1"),
        ({"data": {"validation": 0.25}}, "val_top1"),
        ({"data": {"validation": 0}}, "test_top1"),
        ({"grid": {"validation": [0.1, 0.2]}}, "val_top1"),
        ({"grid": {"validation": [0, 0.2]}}, "test_top1"),  # not every cell has it
        ({"data": {"validation": 0.25}, "objective": "test_balanced"}, "test_balanced"),
        ({"data": {"validation": 0.25}, "objective": "val_balanced"}, "val_balanced"),
        ({"data": {"validation": 0.25}, "final": {"data": {"validation": 0}}}, "val_top1"),
    ],
)
def test_the_objective_is_validations_where_there_is_some(tiny, files, changes, objective):
    assert plan(parse_spec(tiny(**changes)), files).spec.objective == objective


def test_validation_means_the_same_on_the_command_line(tiny, files):
    """`--set validation=0.25`, `--set validation=0.2,0.3` and [data] validation choose alike."""
    spec = parse_spec(tiny(grid={"learning_rate": [0.1, 0.2]}))
    for settings in (["validation=0.25"], ["validation=0.2,0.3"]):
        assert plan(override(spec, settings=settings), files).spec.objective == "val_top1"
    given = override(spec, settings=["validation=0.25", "objective=test_loss"])
    assert plan(given, files).spec.objective == "test_loss"
    with pytest.raises(UserError, match="unknown objective 'val_acc'"):
        override(spec, settings=["objective=val_acc"])


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("lr", "learning_rate"), ("LR", "learning_rate"), ("bs", "batch_size"), ("batch-size", "batch_size"),
        ("wd", "weight_decay"), ("n_epochs", "epochs"), ("num_epochs", "epochs"), ("max_epochs", "epochs"),
        ("num_train_epochs", "epochs"), ("patience", "early_stopping"), ("lr_scheduler", "schedule"),
        ("optim", "optimizer"), ("criterion", "loss"), ("val_split", "validation"), ("validation_split", "validation"),
        ("img_size", "size"), ("imgsz", "size"), ("arch", "model"), ("hidden_size", "hidden"), ("drop_rate", "dropout"),
        ("pretrained", "warm_start"), ("freeze", "frozen"), ("amp", "precision"), ("monitor", "select_on"),
    ],
)  # fmt: skip
def test_names_of_other_libraries_are_answered_with_ours(alias, name):
    with pytest.raises(UserError) as caught:
        override(load_spec("demo"), settings=[f"{alias}=1"])
    assert str(caught.value) == f"unknown --set key {alias!r}: did you mean {name!r}?"


def test_aliases_are_of_settings_and_hide_none():
    assert set(ELSEWHERE.values()) <= set(setting_keys())
    assert not set(ELSEWHERE) & set(setting_keys())


def test_an_alias_beside_a_model_of_ones_own(tiny, files, tmp_path, monkeypatch):
    (tmp_path / "alias_networks.py").write_text("def small(build, outputs, width=4):\n    build.linear('a', outputs)\n")
    monkeypatch.syspath_prepend(tmp_path)
    table = tiny(model="alias_networks:small", data={"limit": 64})
    for sizes, message in (({"width": 3}, None), ({"lr": 3}, "unknown setting 'lr': did you mean 'learning_rate'")):
        table["sizes"] = sizes
        if message is None:
            plan(parse_spec(table), files)
        else:
            with pytest.raises(UserError, match=message):
                plan(parse_spec(table), files)


@pytest.mark.parametrize("key", ["seeds", "seed", "out", "executor", "resume", "raw_dir"])
def test_an_option_is_named_where_it_is_given_as_a_setting(key):
    with pytest.raises(UserError, match=f"--set {key}: that is an option of its own, --"):
        override(load_spec("demo"), settings=[f"{key}=1"])


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("augment=[crop,flip]", [["crop", "flip"]]),
        ("augment=crop,flip", ["crop", "flip"]),
        ("augment=[crop, flip],[],crop", [["crop", "flip"], [], "crop"]),
        ("hidden=[64,32]", [[64, 32]]),
        ("hidden=64,32", [64, 32]),
        ("frozen=[features.0,features.1]", [["features.0", "features.1"]]),
        ("frozen=['a', b]", [["a", "b"]]),
        ("x=[[a],[b,c]]", [[["a"], ["b", "c"]]]),
        ("dataset=images:/data/[old,npz:/b", ["images:/data/[old", "npz:/b"]),  # brackets that do not match are text
        ("dataset=images:/a]b,glyphs", ["images:/a]b", "glyphs"]),
    ],
)
def test_lists_of_bare_words(text, values):
    assert parse_setting(text)[1] == values


@pytest.mark.parametrize(
    ("changes", "heading", "description"),
    [
        ({}, "Learning rates on drawn digits", "Digits drawn from fonts"),
        ({"seeds": 5}, "Learning rates on drawn digits", "Digits drawn from fonts"),
        ({"epochs": 5}, "Learning rates on drawn digits", "Digits drawn from fonts"),  # as it is
        (
            {"limit": 4000, "epochs": 4, "settings": ["hidden=[64]"]},
            "Learning rates on drawn digits (4,000 examples, 4 epochs, changed: hidden)",
            "Not the sweep demo as it is written: 4,000 examples, 4 epochs, changed: hidden.",
        ),
        ({"settings": ["epochs=1"]}, "Learning rates on drawn digits (1 epoch)", "Not the sweep demo as it is"),
        (
            {"settings": ["epochs=1,2"]},
            "Learning rates on drawn digits (changed: epochs)",
            "Not the sweep demo as it is",
        ),
        ({"settings": ["learning_rate=1"]}, "Learning rates on drawn digits (changed: learning_rate)", "Not the sweep"),
        (
            {"dataset": "images:/home/me/pets"},
            "demo on images:pets",
            "Not the sweep demo as it is written: on images:/home/me/pets.",
        ),
        (
            {"dataset": "mnist", "limit": 1},
            "demo on mnist (1 example)",
            "Not the sweep demo as it is written: on mnist, 1 example.",
        ),
    ],
)
def test_titles_say_what_was_changed(changes, heading, description):
    spec = override(load_spec("demo"), **changes)
    assert spec.heading == heading
    assert spec.description.startswith(description)


def test_a_change_of_a_changed_sweep_is_said_once(tmp_path):
    from flaxvision.sweep.spec_file import dump_spec

    spec = override(load_spec("demo"), epochs=2, settings=["hidden=[8]"])
    path = tmp_path / "spec.toml"
    path.write_text(dump_spec(spec))
    again = override(load_spec(path), epochs=3, limit=500)
    assert again.heading == "Learning rates on drawn digits (500 examples, 3 epochs, changed: hidden)"
    assert again.description.endswith(": 500 examples, 3 epochs, changed: hidden.")
    assert load_spec(path).heading == spec.heading


def test_shipped_titles_name_no_setting():
    """What a title says must stay true whatever the command line shortens."""
    from flaxvision.sweep import list_specs

    for name in list_specs():
        title = load_spec(name).title
        assert "epoch" not in title, name


def test_the_select_of_a_sweep_can_be_switched_off():
    """`--set select=last` takes select_on with it: no message asks for what a command line cannot give."""
    spec = override(load_spec("emnist-final"), settings=["select=last"])
    assert all("select_on" not in trial.settings for trial in expand(spec))


DRY = [
    ["--set", "batch_size=abc"],
    ["--set", "optimizer=yogi"],
    ["--set", "model=resnet18"],
    ["--dataset", "imagenet"],
    ["--set", "hidden=64,256"],
    ["--set", "objective=val_top1"],
    ["--set", "channels=8"],
    ["--set", "sharpness=0.1"],
    ["--set", "batch_size=100000"],
    ["--set", "warm_start=nowhere.safetensors"],
    ["--set", "dropout=2"],
    ["--set", "select=best", "select_on=val_loss"],
    ["--set", "learning_rate=0.1,fast"],
    ["--set", "momentum=0.9", "optimizer=adam"],
    ["--resume"],
    ["--out", "/proc/nowhere/run"],
    ["--out", __file__],
]


@pytest.mark.parametrize("arguments", DRY, ids=" ".join)
def test_a_dry_run_fails_as_the_run_would(command, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    real = command("demo", "--limit", 64, *arguments)
    dry = command("demo", "--limit", 64, *arguments, "--dry-run")
    assert dry == real
    assert (dry[0], dry[1], dry[2].count("\n")) == (2, "", 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("optimizers", [["sgd", "lion"], ["lion", "rmsprop"], ["adam", "sgd", "lion"]])
def test_a_number_that_one_optimizer_of_a_table_has(tiny, files, optimizers):
    """It is not passed over where it has no effect; what the message says to write is taken."""
    table = tiny(grid={"optimizer": optimizers}, recipe={"batch_size": 16, "epochs": 1, "momentum": 0.9})
    with pytest.raises(
        UserError, match=r"momentum is 0\.9 for optimizer '(lion|adam)' too, .*: give it with"
    ) as caught:
        plan(parse_spec(table), files)
    told = re.search(r"optimizer = (\[.*\])", str(caught.value)).group(1)
    axis = tomllib.loads(f"optimizer = {told}")
    spec = parse_spec(tiny(grid=axis, recipe={"batch_size": 16, "epochs": 1}))
    assert sorted(trial.settings.get("momentum", 0) for trial in plan(spec, files).trials) == [0, 0.9]
