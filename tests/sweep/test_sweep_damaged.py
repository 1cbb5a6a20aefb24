"""Run directories whose files were damaged: what is sound is kept, the rest is trained again, and both are said."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from export import Parity, ParityTable
from export._winner import check_accuracy
from flaxvision.errors import UserError
from flaxvision.report import results_csv
from flaxvision.sweep import parse_spec, resume, run
from flaxvision.sweep.files import RunFiles
from flaxvision.sweep.records import check_record, line_of, read_log
from flaxvision.sweep.store import append_record, outcome_of, read_records, take_weights

pytestmark = pytest.mark.quick

SPEC = parse_spec(
    {"name": "small", "dataset": "glyphs", "model": "linear", "data": {"limit": 64, "size": 8}, "seeds": 2}
    | {"recipe": {"batch_size": 32, "epochs": 1}, "grid": {"learning_rate": [0.1]}}
)
QUIETLY = {"executor": "loop", "export": False, "report": False}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    run(SPEC, out, **QUIETLY)
    return out


@pytest.fixture
def there(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def table(result) -> list[str]:
    return [line.rpartition(",")[0] for line in results_csv(result).splitlines()]


def again(there: Path):
    """The run gone on with: its table, and what it says."""
    result = run(SPEC, there, resume=True, **QUIETLY)
    return table(result), result.provenance.get("notes", [])


LINES = {
    "no UTF-8": (lambda line: line[:30] + b"\xff" + line[31:], "it is not UTF-8"),
    "cut": (lambda line: line[:40] + b"\n", "it is not valid JSON"),
    "zeros": (lambda line: bytes(len(line) - 1) + b"\n", "it is not valid JSON"),
    "no record": (lambda line: b"[1]\n", "it is no trial's record"),
    "without a key": (lambda line: line.replace(b'"final"', b'"fimal"'), "it is not what was written"),
    "another number": (lambda line: line.replace(b'"best_epoch": 1', b'"best_epoch": 3'), "it is not what was written"),
    "no checksums": (lambda line: line.replace(b'"checksums"', b'"chekcsums"'), "it is not what was written"),
    "a path for an id": (lambda line: line.replace(b'"id": "', b'"id": "../'), "it is no trial's record"),
}


@pytest.mark.parametrize("fault", LINES)
def test_a_damaged_line_is_set_aside_and_its_trial_trained_again(whole, there, fault):
    change, why = LINES[fault]
    path = there / "trials.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(change(first) + second)
    expected = f"trials.jsonl line 1 is damaged ({why}): it is kept in damaged.jsonl, and what it was is trained again"
    assert again(there) == (again(whole)[0], [expected])
    assert (there / "damaged.jsonl").read_bytes() == change(first)
    assert path.read_bytes().startswith(second)
    assert again(there)[1] == []  # told of once


@pytest.mark.parametrize("what", ["weights", "history"])
@pytest.mark.parametrize("damage", ["flipped", "of another trial", "zeros", "empty"])
def test_a_damaged_file_is_found_and_its_trial_trained_again(whole, there, what, damage):
    one, other = (getattr(RunFiles(there), what)(record["id"]) for record in read_records(there))
    content = bytearray(one.read_bytes())
    content[-9] ^= 1
    bad = {"flipped": content, "of another trial": other.read_bytes(), "zeros": bytes(len(content)), "empty": b""}
    one.write_bytes(bad[damage])
    assert again(there) == (again(whole)[0], [f"trial {one.stem} is trained again: {one.name} is damaged"])


@pytest.mark.parametrize("name", ["trials.jsonl", "weights", "history"])
def test_a_file_that_cannot_be_read_is_one_line(there, name):
    files, record = RunFiles(there), read_records(there)[0]
    path = there / name if "." in name else getattr(files, name)(record["id"])
    path.unlink()
    path.mkdir()  # which root cannot read either
    read = {"history": lambda: outcome_of(record, files), "weights": lambda: take_weights(record, files, there / "w")}
    with pytest.raises(UserError, match=f"cannot read {path}"):
        read.get(name, lambda: read_log(there))()


def test_the_winner_is_not_copied_from_damaged_weights(there):
    record = read_records(there)[0]
    path = RunFiles(there).weights(record["id"])
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(UserError, match="its checksum is not that on record"):
        take_weights(record, RunFiles(there), there / "copy.safetensors")


@pytest.mark.parametrize(
    ("accuracy", "ties", "agreeing", "trial", "right"),
    [
        (0.72, 0, 1000, {}, True),
        (0.719, 0, 1000, {}, False),
        (0.719, 1, 1000, {}, True),
        (0.719, 0, 999, {}, True),
        (0.5, 0, 1000, {"precision": "bfloat16"}, True),
        (0.5, 0, 1000, {"precision": "highest"}, False),
        (0.5, 0, 1000, {"test_time_flip": True}, True),
        (None, 0, None, {}, True),
    ],
)
def test_the_winner_must_score_what_is_on_record(accuracy, ties, agreeing, trial, right):
    """As the comparison measures it: one bit of the weights cost 7 of 10,000 images, and nobody compared."""
    rows = [Parity(name, 0, 0, agreeing, accuracy, 0, 0, 0) for name in ("Flax", "ONNX")]
    compared = ParityTable("linear", "glyphs", 1000, ties, tuple(rows))
    notes = {"trial": trial, "final": {"test_top1": 0.72}}
    if right:
        check_accuracy(compared, notes)
    else:
        with pytest.raises(UserError, match=r"gets .* % of the test images right, and 72.00 % are on record"):
            check_accuracy(compared, notes)


def test_a_winner_that_cannot_be_written_costs_no_table(there):
    winner = there / "winner" / "flaxvision.safetensors"
    winner.unlink()
    winner.mkdir()
    result = run(SPEC, there, resume=True, **{**QUIETLY, "report": True})
    assert [problem.what for problem in result.problems] == ["winner/flaxvision.safetensors"]
    assert (there / "results.csv").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[: content.index(b"seeds")],  # valid TOML, of another sweep
        lambda content: content[:5],
        lambda content: b"",
        lambda content: content[:40] + bytes(len(content) - 40),
        lambda content: bytes(len(content)),
        lambda content: content[:40] + b"\xff" + content[40:],
        lambda content: content.replace(b"epochs = 1", b"epochs = 3"),  # a bit
        None,
    ],
)
def test_a_damaged_spec_is_written_anew(whole, there, damage):
    path = there / "spec.toml"
    content = path.read_bytes()
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(content))
        with pytest.raises(UserError, match=r"run: spec.toml is not what was written: type what the sweep was started"):
            resume(there, **QUIETLY)
    how = "is gone" if damage is None else "is not what was written"
    with pytest.raises(UserError, match=f"run holds a sweep whose spec.toml {how}: add --resume to continue with"):
        run(SPEC, there, **QUIETLY)
    assert again(there) == (again(whole)[0], [f"spec.toml {how}: it is written anew"])
    assert path.read_bytes() == content
    assert again(there)[1] == []
    path.write_bytes(content.partition(b"\n")[2])  # of an earlier version
    assert table(resume(there, **QUIETLY)) == again(whole)[0]


def test_what_another_sweep_left_is_not_taken_where_its_spec_is_gone(there, tmp_path):
    before = (there / "trials.jsonl").read_bytes()
    (there / "spec.toml").unlink()
    other = dataclasses.replace(SPEC, base={**SPEC.base, "batch_size": 16})
    result = run(other, there, resume=True, **QUIETLY)
    assert table(result) == table(run(other, tmp_path / "fresh", **QUIETLY))
    assert (there / "trials.jsonl").read_bytes().startswith(before)  # nor is it lost


def test_a_folder_that_is_gone_is_one_line(there):
    (record,) = read_records(there)[:1]
    shutil.rmtree(there)
    with pytest.raises(UserError, match=f"cannot write {there}: No such file"):
        append_record(there, record)


def test_records_of_an_earlier_version_are_held_against_their_histories(whole, there):
    records = read_records(there)
    for record in records:
        del record["checksums"]
    path = there / "trials.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert again(there)[1] == []
    records[0]["final"]["test_loss"] += 0.5
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert again(there) == (
        again(whole)[0],
        [f"trial {records[0]['id']} is trained again: {records[0]['id']}.npz is damaged"],
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("final", None), ("cell", {"a": 1}), ("seed", "0"), ("identity", {}), ("config", []), ("best_epoch", None)],
        ("cores", [1]),
    ],
)
def test_a_record_of_another_kind_is_named(there, key, value):
    """Its checksum may be right: somebody may have written it so."""
    (record, _) = read_records(there)
    with pytest.raises(UserError, match=f"its record has no right {key}"):
        check_record({**record, key: value})
    with pytest.raises(UserError, match=key):
        outcome_of({**record, key: value}, RunFiles(there))


def test_every_flipped_bit_of_a_record_is_found(there):
    """Of the 400 that were tried before there were checksums, 38 changed the table in silence."""
    content = (there / "trials.jsonl").read_bytes()
    true = {record["id"]: line_of(record) for record in read_records(there)}
    random = np.random.default_rng(0)
    for place, bit in zip(random.integers(0, len(content) - 1, 200), random.integers(0, 8, 200), strict=True):
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        (there / "trials.jsonl").write_bytes(flipped)
        assert all(line_of(record) == true[record["id"]] for record in read_log(there).records)
