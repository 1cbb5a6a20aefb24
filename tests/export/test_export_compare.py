"""Parity tables, trajectories, hand-written references, the command line, and a sweep's last step."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import onnx
import optax
import pytest

import export
import flaxvision as fv
from export.__main__ import main
from tests.conftest import slow
from tests.export.conftest import assert_alive, without_peers

pytestmark = pytest.mark.quick

ADAMW = {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.1, "batch_size": 50}
NESTEROV = {"learning_rate": 0.05, "momentum": 0.9, "nesterov": True}


@pytest.fixture(scope="module")
def trained():
    from tests.conftest import made_dataset

    data = made_dataset((12, 12, 1), 4, train=256, test=130)
    model = fv.models.create("mnist_net", input_shape=(12, 12, 1), num_classes=4)
    return fv.fit(model, data, fv.Recipe(epochs=2, batch_size=32, optimizer="adam", learning_rate=1e-2)).model, data


def test_a_parity_table(trained, tmp_path, torch):
    model, data = trained
    table = export.compare(model, data)
    assert [row.runtime for row in table.rows] == ["Flax", "ONNX", "PyTorch", "Keras"]
    accuracy = fv.evaluate(model, data.test).top1
    probabilities = np.sort(fv.predict(model, data.test.images), axis=1)
    for row in table.rows:
        assert row.max_absolute <= 1e-5 * max(1, row.max_absolute / max(row.max_relative, 1e-30))
        assert row.agreeing >= 130 - table.near_ties
        assert row.accuracy == pytest.approx(accuracy, abs=table.near_ties / 130 + 1e-9)
        assert row.file_bytes > 4 * fv.models.count_parameters(model)
        assert row.latency_1_ms > 0
        assert row.latency_64_ms > 0
    assert table.images == 130
    assert table.near_ties <= int((np.log(probabilities[:, -1] / probabilities[:, -2]) < 2e-4).sum())
    written = table.write(tmp_path)
    assert json.loads(written[1].read_text())["rows"][1]["runtime"] == "ONNX"
    assert written[0].read_text().count("\n| ") == 5
    assert "130 of 130" in table.html() or table.near_ties


def test_a_wrong_file_does_not_pass(trained, tmp_path):
    model, data = trained
    other = fv.models.create("mnist_net", input_shape=(12, 12, 1), num_classes=4, seed=9)
    table = export.compare(model, data, onnx=export.to_onnx(other, tmp_path / "other.onnx"))
    assert table.rows[1].max_absolute > 0.1
    assert table.rows[1].agreeing < 130


def test_images_of_other_classes_are_not_compared(trained):
    model, data = trained
    images, labels = data.test.images, data.test.labels
    for other, said in (
        (
            {"test": fv.data.Split(images, labels + 1)},
            r"mnist_net on made: label 4 at index \d+ is outside the 4 classes",
        ),
        (
            {"classes": ("0", "1", "3", "2")},
            "class 2 of made is '3', and of mnist_net '2': give a data set of the same",
        ),
        ({"classes": ("0", "1", "2", "3", "4")}, "class 4 of made is '4', and of mnist_net None"),
    ):
        with pytest.raises(fv.UserError, match=said):
            export.compare(model, dataclasses.replace(data, **other))


@pytest.mark.parametrize(
    ("name", "recipe", "steps"),
    [
        slow("mlp", {"learning_rate": 0.1, "batch_size": 32, "shuffle": False}, 30),
        slow("mlp", ADAMW, 12),
        slow("mlp", {**ADAMW, "optimizer": "nadam", "decay_biases": False, "pixels": "standard"}, 12),
        ("mlp", {**NESTEROV, "label_smoothing": 0.1, "clip_norm": 0.5, "batch_size": 32}, 12),
        slow("mlp", {"optimizer": "rmsprop", "smoothing": 0.9, "learning_rate": 1e-3, "batch_size": 32}, 12),
        slow("mnist_net", {"optimizer": "adam", "learning_rate": 1e-3, "batch_size": 16, "pixels": "signed"}, 10),
        slow("emnist_autoencoder", {"learning_rate": 1e-4, "batch_size": 16, "loss": "squared_error"}, 6),
    ],
)
def test_flax_and_pytorch_train_alike_in_float64(make_dataset, torch, name, recipe, steps):
    data = make_dataset((28, 28, 1), 10, train=100)
    table = export.trajectory(name, data, fv.Recipe(**recipe), steps=steps)
    assert table.losses["flax", "float64"].shape == (steps,)
    assert table.losses["flax", "float64"].dtype == np.float64
    assert table.parting("float64", tolerance=1e-9).step is None
    assert table.parting("float64").largest > 0 or name == "mlp"
    assert table.parting("float32").first_step <= 1e-6
    assert table.losses["torch", "float64"][-1] != table.losses["torch", "float64"][0]
    assert table.markdown().count("\n") == 5


@pytest.mark.slow
def test_a_trajectory_notices_another_optimiser(make_dataset, torch, monkeypatch):
    from export import _trajectory

    make, other = _trajectory.torch_optimizer, fv.Recipe(learning_rate=0.101)
    monkeypatch.setattr(_trajectory, "torch_optimizer", lambda recipe, parameters: make(other, parameters))
    data = make_dataset((28, 28, 1), 10, train=64)
    table = export.trajectory("mlp", data, fv.Recipe(learning_rate=0.1, batch_size=32), steps=5)
    assert table.parting("float64", tolerance=1e-9).step == 2  # the first loss is before any update


@pytest.mark.slow
def test_pytorch_again_sees_the_same_batches_in_another_order(make_dataset, torch):
    from export._trajectory import _permute_inputs, _permuted
    from export.references import reference

    order = np.random.default_rng(1).permuted(np.tile(np.arange(50), (3, 1)), axis=1)
    again = _permuted(order, 16, 0)
    for start, stop in ((0, 16), (16, 32), (32, 48), (48, 50)):
        np.testing.assert_array_equal(np.sort(again[:, start:stop]), np.sort(order[:, start:stop]))
    assert (again[:, :48] != order[:, :48]).any(axis=1).all()

    twin = reference("mnist_net", input_shape=(28, 28, 1), num_classes=10, dropout=0.0).double()
    x = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = twin(x).detach().numpy()
    _permute_inputs(twin, 0)
    after = twin(x).detach().numpy()
    assert_alive(after)
    assert (after != before).any()
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-13)

    data = make_dataset((28, 28, 1), 10, train=256)
    table = export.trajectory("mlp", data, fv.Recipe(learning_rate=0.1, batch_size=64), steps=20)
    apart = table.partings("float32", "torch again")
    assert len(apart) == 5
    assert all(run.first_step <= 1e-6 and 1e-8 < run.largest < 1e-4 for run in apart)
    assert len({run.largest for run in apart}) > 1
    assert table.parting("float32", "torch again").largest == max(run.largest for run in apart)
    assert "none (0 of 5 runs)" in table.markdown()


@pytest.mark.slow
def test_a_trajectory_on_disk(make_dataset, torch, tmp_path):
    table = export.trajectory(
        "mlp", make_dataset((28, 28, 1), 10, train=64), fv.Recipe(batch_size=32), steps=3, orders=2
    )
    written = table.write(tmp_path)
    assert [path.name for path in written] == ["trajectory.md", "trajectory.json"]
    assert written[0].read_text() == table.markdown()
    record = json.loads(written[1].read_text())
    assert (record["network"], record["tolerance"]) == ("mlp", 1e-4)
    assert {precision: list(runs) for precision, runs in record["losses"].items()} == {
        "float32": ["flax", "torch", "torch again, order 0", "torch again, order 1"],
        "float64": ["flax", "torch"],
    }
    found = record["losses"]["float32"]
    table.losses["torch again, order 1", "float32"] = table.losses.pop(("torch again", "float32"))[1]
    for (run, precision), losses in table.losses.items():
        np.testing.assert_array_equal(np.array(record["losses"][precision][run], precision), losses)
    assert len(found["torch again, order 0"]) == 3


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"schedule": "cosine"}, "cannot follow schedule='cosine'"),
        ({"warmup_epochs": 1}, "cannot follow warmup_epochs=1"),
        ({"augment": ("flip",), "select": "best"}, r"cannot follow augment=\('flip',\), select='best' in PyTorch"),
        ({"frozen": ("linear_relu_stack.0",)}, "cannot follow frozen="),
        ({"warm_start": "x.safetensors"}, "cannot follow warm_start='x.safetensors'"),
        ({"early_stopping": 1}, "cannot follow early_stopping=1"),
        ({"precision": "bfloat16"}, "cannot follow precision='bfloat16'"),
        ({"record_gradients": True}, "cannot follow record_gradients=True"),
        ({"learning_rate": lambda step: 0.1}, "constant learning rate"),
        ({"optimizer": optax.sgd(0.1)}, "by name"),
        ({"optimizer": "lion"}, "one of sgd, adam, adamw, rmsprop, adagrad, adadelta, adamax, nadam, radam, by name"),
    ],
)
def test_recipes_that_pytorch_does_not_follow_are_refused(make_dataset, torch, recipe, message):
    with pytest.raises(fv.UserError, match=message) as caught:
        export.trajectory("mlp", make_dataset((28, 28, 1), 10, train=64), fv.Recipe(**recipe))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape", "sizes", "message"),
    [
        ("mpl", (28, 28, 1), {}, "did you mean 'mlp'"),
        ("mlp", (28, 28, 1), {"dropout": 0.1}, "trains without dropout, given is 0.1"),
        ("mnist_net", (28, 28, 1), {"dropout": 0.25}, "trains without dropout"),
        ("mlp", (28, 28, 1), {"activation": "gelu"}, "reference of mlp .* does not fit .*activation='gelu'"),
        ("mnist_net", (20, 20, 1), {}, r"reference of mnist_net .* does not fit input_shape=\(20, 20, 1\)"),
        ("wide_cnn", (28, 28, 3), {}, r"reference of wide_cnn .* does not fit input_shape=\(28, 28, 3\)"),
        ("mlp", (2,), {"batch_norm": True}, "reference of mlp .* does not fit .*batch_norm"),
        ("emnist_autoencoder", (28, 28, 1), {}, "loss 'cross_entropy' does not fit"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_training(
    make_dataset, torch, monkeypatch, name, shape, sizes, message
):
    from export import _trajectory

    monkeypatch.setattr(_trajectory, "fit", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(fv.UserError, match=message) as caught:
        export.trajectory(name, make_dataset(shape, 10, train=64), fv.Recipe(batch_size=32), **sizes)
    assert "\n" not in str(caught.value)


def test_the_command_line(trained, tmp_path, capsys):
    pytest.importorskip("keras")
    model, _ = trained
    path = fv.save_model(model, tmp_path / "net.safetensors", trial={"dataset": "glyphs", "size": 12, "limit": 64})
    for verb, name in (("onnx", "net.onnx"), ("torch", "net.pt.safetensors"), ("keras", "net.keras")):
        assert main([verb, str(path)]) == 0
        assert capsys.readouterr().out.strip() == str(tmp_path / name)
        assert (tmp_path / name).exists()
    assert (
        main(["onnx", str(path), "--normalize", "--softmax", "--fold-batch-norm", "-o", str(tmp_path / "x.onnx")]) == 0
    )
    graph = onnx.load(tmp_path / "x.onnx").graph
    assert {node.op_type for node in graph.node} >= {"Cast", "Softmax"}
    assert "BatchNormalization" not in {node.op_type for node in graph.node}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "VERB"),
        (["onx", "x"], "'onx'"),
        (["onnx"], "RUN_OR_WEIGHTS"),
        (["onnx", "missing.safetensors"], "no weights file"),
        (["onnx", "NET", "-o", "/proc/x.onnx"], "cannot write"),
        (["keras", "NET", "-o", "x.h5"], r"does not end in \.keras"),
        (["torch", "NET", "-o", "x.pt"], r"does not end in \.safetensors"),
        (["onnx", "NET", "--layuot", "NCHW"], "unknown argument '--layuot'"),
        (["compare", "NET"], "give --dataset"),
        (["compare", "NET", "--dataset", "glyps"], "did you mean 'glyphs'"),
        (["compare", "NET", "--dataset", "glyphs"], "takes examples of shape"),
        (["compare", "NET", "--dataset", "glyphs", "-o", "missing"], "cannot write in missing: No such file"),
        (["compare", "NET", "--dataset", "glyphs", "-o", "NET"], "cannot write in NET: Not a directory"),
        (["compare", ".", "--dataset", "glyphs"], r"\. has no winner/flaxvision\.safetensors: give a run"),
        (["trajectory", "mlp", "--out", "/proc"], "cannot write in /proc"),
        (["trajectory", "mlp", "--set", "augment=crop"], r"cannot follow augment=\('crop',\)"),
        (["trajectory", "mlp", "--steps", "0"], "'0' is not allowed"),
        (["trajectory", "mlp", "--set", "learning_rat=1"], "did you mean 'learning_rate'"),
        (["trajectory", "mpl", "--steps", "1"], "did you mean 'mlp'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(tmp_path, capsys, monkeypatch, arguments, message):
    for package, needed in (("keras", "keras" in arguments), ("torch", "trajectory" in arguments)):
        if needed:
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    fv.save_model(fv.models.create("linear", input_shape=(3, 3, 1), num_classes=2), "NET")
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert re.search(message, err), err
    assert [path.name for path in tmp_path.iterdir()] == ["NET"]


def test_a_sweep_exports_its_winner(tmp_path, capsys, monkeypatch):
    without_peers(monkeypatch)
    settings = ["hidden=[8]", "drawn=90", "learning_rate=0.1,0.3", "size=12"]
    spec = fv.sweep.override(fv.sweep.load_spec("demo"), epochs=1, seeds=1, settings=settings)
    run = tmp_path / "run"
    result = fv.sweep.run(spec, run, report=False)
    folder = run / "winner"
    path = folder / "network.onnx"
    about = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert about["data set"] == "glyphs"
    assert about["config hash"] == result.winner.id
    assert {key: json.loads(about[key]) for key in result.winner.final} == result.winner.final
    assert json.loads(about["classes"]) == list(result.classes)
    again = export.from_onnx(path)
    images = np.random.default_rng(0).integers(0, 256, (5, 12, 12, 1)).astype(np.uint8)
    expected = fv.predict(fv.load_model(run), images)
    assert_alive(expected)
    np.testing.assert_array_equal(fv.predict(again, images), expected)
    parity = json.loads((folder / "parity.json").read_text())
    assert parity["images"] == 90 // 5  # of the test set that the sweep drew

    # The command line does the same with the run.
    before = {each.name: each.read_bytes() for each in folder.iterdir()}
    for verb, options, name in (
        ("onnx", [], "network.onnx"),
        ("onnx", ["--normalize", "--softmax"], "model.onnx"),
        ("torch", [], "torch.safetensors"),
    ):
        (folder / name).unlink()
        assert main([verb, str(run), *options]) == 0
        assert (folder / name).read_bytes() == before[name]
    (folder / "parity.md").unlink()
    (folder / "parity.json").unlink()
    capsys.readouterr()
    assert main(["compare", str(run)]) == 0
    assert capsys.readouterr().out == (folder / "parity.md").read_text()
    compared = json.loads((folder / "parity.json").read_text())
    assert (compared["images"], compared["dataset"]) == (18, "glyphs")
    assert [row["runtime"] for row in compared["rows"]] == [row["runtime"] for row in parity["rows"]]
    assert [row["accuracy"] for row in compared["rows"]] == [row["accuracy"] for row in parity["rows"]]
    assert compared["rows"][0]["accuracy"] == result.winner.final["test_top1"]


def test_trajectory_on_the_command_line(tmp_path, monkeypatch, capsys, torch):
    noted = dataclasses.replace(fv.data.load("glyphs", limit=64), loading_notes=("no copy could be kept",))
    monkeypatch.setattr("flaxvision.data.load", lambda *_, **__: noted)
    settings = ["--set", "batch_size=16", "learning_rate=0.05", "--steps", "2"]
    assert main(["trajectory", "mlp", *settings, "-o", str(tmp_path)]) == 0
    assert capsys.readouterr() == ((tmp_path / "trajectory.md").read_text(), "note: no copy could be kept\n")
    losses = json.loads((tmp_path / "trajectory.json").read_text())["losses"]
    assert [len(losses["float64"][run]) for run in ("flax", "torch")] == [2, 2]
    assert losses["float64"]["flax"][1] == pytest.approx(losses["float64"]["torch"][1], rel=1e-12)
