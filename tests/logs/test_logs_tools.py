"""TensorBoard, Weights & Biases and MLflow, read back by their own readers; each where it is installed."""

from __future__ import annotations

import json
import struct

import pytest

import flaxvision as fv
from tests.conftest import made_dataset

TABLE = {
    "name": "logged",
    "model": "linear",
    "seeds": 2,
    "recipe": {"batch_size": 32, "epochs": 2},
    "grid": {"learning_rate": [0.5, 0.05]},
}
pytestmark = [pytest.mark.quick, pytest.mark.filterwarnings("ignore")]  # warnings of these tools' own making


def filled(tool, folder, **options):
    data = made_dataset((2,), 3, 96, 30)
    out = folder / "two-rates"
    options = {"executor": "loop", "export": False, "report": False} | options
    return fv.sweep.run(TABLE, out, data=data, log=tool, **options)


def test_own_loggers_are_callbacks_of_fit(make_dataset):
    told = []

    class Tool:
        def __init__(self, about):
            told.append((about.name, about.group, dict(about.settings)))

        def log(self, metrics, step, seconds):
            told.append((step, metrics["test_top1"]))

        def end(self, status, final):
            told.append((status, final["test_top1"]))

    model, data = fv.models.create("linear", input_shape=(2,), num_classes=3), make_dataset((2,), 3, 64, 20)
    recipe = fv.Recipe(epochs=2, batch_size=32, augment=())
    with fv.logs.Log(Tool, "first", group="mine", settings={**recipe.given, "schedule": len}) as log:
        scores = fv.fit(model, data, recipe, callbacks=[log]).history["test_top1"].tolist()
    settings = {"epochs": 2, "batch_size": 32, "schedule": str(len)}
    assert told == [("first", "mine", settings), (2, scores[0]), (4, scores[1]), ("ok", scores[1])]
    with pytest.raises(KeyboardInterrupt), fv.logs.Log(Tool, "second") as log:
        fv.fit(model, data, recipe, callbacks=[log, interrupt])
    assert told[-1] == ("interrupted", scores[0])


def interrupt(progress):
    if progress.metrics:
        raise KeyboardInterrupt


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    result = filled("tensorboard", tmp_path)
    assert not result.problems
    folders = {path.name.rpartition("-")[2]: path for path in (result.directory / "tensorboard").iterdir()}
    assert set(folders) == {trial.id for trial in result.outcomes}
    for trial in result.outcomes:
        events = accumulator.EventAccumulator(str(folders[trial.id])).Reload()
        for name in ("train_loss", "test_top1"):
            points = events.Scalars(name)
            assert [point.step for point in points] == [3, 6]
            assert [point.value for point in points] == pytest.approx(trial.history[name].tolist(), rel=1e-6)
            assert points[0].wall_time <= points[1].wall_time
        assert any("hparams" in tag for tag in events.summary_metadata)


def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    store = f"sqlite:///{tmp_path / 'store.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    result = filled("mlflow", tmp_path)
    assert not result.problems
    client = mlflow.MlflowClient(store)
    runs = client.search_runs([client.get_experiment_by_name("two-rates").experiment_id])
    found = {run.data.tags["flaxvision.id"]: run for run in runs}
    assert set(found) == {trial.id for trial in result.outcomes}
    for trial in result.outcomes:
        run = found[trial.id]
        assert (run.info.status, run.data.tags["status"]) == ("FINISHED", "ok")
        assert float(run.data.params["learning_rate"]) == trial.config["learning_rate"]
        points = client.get_metric_history(run.info.run_id, "test_top1")
        assert [(point.step, point.value) for point in points] == [
            *zip((3, 6), trial.history["test_top1"].tolist(), strict=True)
        ]
        assert run.data.metrics["final_test_top1"] == trial.final["test_top1"]


def written_records(content):
    """The records of a .wandb file, a log of LevelDB's format: blocks of 32 KiB, of records whole or in parts."""
    assert content.startswith(b":W&B")
    at, record = 7, b""
    while at < len(content):
        left = 2**15 - at % 2**15
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_wandb(tmp_path):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    result = filled("wandb", tmp_path)
    assert not result.problems
    found = {}
    for path in (result.directory / "wandb").glob("offline-run-*/run-*.wandb"):
        points, run = [], None
        for record in map(Record.FromString, written_records(path.read_bytes())):
            if record.WhichOneof("record_type") == "run":
                run = record.run
            elif record.WhichOneof("record_type") == "history":
                items = {
                    ".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item
                }
                points.append(items)
        settings = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in run.config.update}
        assert run.run_group == "two-rates"
        found[run.run_id.rpartition("-")[2]] = points, settings
    assert set(found) == {trial.id for trial in result.outcomes}
    for trial in result.outcomes:
        points, settings = found[trial.id]
        assert settings["learning_rate"] == trial.config["learning_rate"]
        assert [point["_step"] for point in points] == [3, 6]
        assert [point["test_top1"] for point in points] == trial.history["test_top1"].tolist()
