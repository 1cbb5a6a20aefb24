"""Parity tables, trajectories, hand-written references, the command line, and a sweep's last step."""

from __future__ import annotations

import json
import re

import numpy as np
import onnx
import pytest

import export
import flaxvision as fv
from export.__main__ import main


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


@pytest.mark.parametrize(
    ("name", "recipe", "steps"),
    [
        ("mlp", {"learning_rate": 0.1, "batch_size": 32, "shuffle": False}, 30),
        ("mlp", {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.1, "batch_size": 50}, 12),
        ("mlp", {"learning_rate": 0.05, "momentum": 0.9, "nesterov": True, "batch_size": 32}, 12),
        ("mnist_net", {"optimizer": "adam", "learning_rate": 1e-3, "batch_size": 16, "pixels": "signed"}, 10),
        ("emnist_autoencoder", {"learning_rate": 1e-4, "batch_size": 16, "loss": "squared_error"}, 6),
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


def test_a_trajectory_notices_another_optimiser(make_dataset, torch, monkeypatch):
    from export import _trajectory

    make = _trajectory._optimizer
    monkeypatch.setattr(_trajectory, "_optimizer", lambda recipe, twin: make(fv.Recipe(learning_rate=0.101), twin))
    data = make_dataset((28, 28, 1), 10, train=64)
    table = export.trajectory("mlp", data, fv.Recipe(learning_rate=0.1, batch_size=32), steps=5)
    assert table.parting("float64", tolerance=1e-9).step == 2  # the first loss is before any update


def test_what_cannot_be_compared_is_refused(make_dataset, torch):
    data = make_dataset((28, 28, 1), 10, train=64)
    with pytest.raises(fv.UserError, match="constant learning rate"):
        export.trajectory("mlp", data, fv.Recipe(schedule="cosine"))
    with pytest.raises(fv.UserError, match="did you mean 'mlp'"):
        export.trajectory("mpl", data, fv.Recipe())


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
        (["onnx", "NET", "--layuot", "NCHW"], "unknown argument '--layuot'"),
        (["compare", "NET"], "give --dataset"),
        (["compare", "NET", "--dataset", "glyps"], "did you mean 'glyphs'"),
        (["compare", "NET", "--dataset", "glyphs"], "takes examples of shape"),
        (["trajectory", "mlp", "--steps", "0"], "'0' is not allowed"),
        (["trajectory", "mlp", "--set", "learning_rat=1"], "did you mean 'learning_rate'"),
        (["trajectory", "mpl", "--steps", "1"], "did you mean 'mlp'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(tmp_path, capsys, monkeypatch, arguments, message):
    for package, needed in (("keras", "keras" in arguments), ("torch", "mpl" in arguments)):
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


def test_a_sweep_exports_its_winner(tmp_path):
    spec = fv.sweep.override(fv.sweep.load_spec("demo"), limit=128, epochs=1, seeds=1, settings=["hidden=[8]"])
    result = fv.sweep.run(spec, tmp_path / "run", report=False)
    path = tmp_path / "run" / "winner.onnx"
    about = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert about["data set"] == "glyphs"
    assert float(about["test_top1"]) == result.winner.final["test_top1"]
    assert json.loads(about["classes"]) == list(result.classes)
    again = export.from_onnx(path)
    images = np.zeros((2, 28, 28, 1), np.uint8)
    np.testing.assert_array_equal(
        fv.predict(again, images), fv.predict(fv.load_model(tmp_path / "run" / "winner.safetensors"), images)
    )
    assert json.loads((tmp_path / "run" / "parity.json").read_text())["images"] == 128
