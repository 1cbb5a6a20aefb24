"""What a sweep says while it runs, where standard error is no terminal and where it is one."""

from __future__ import annotations

import io
import re
import time
from types import SimpleNamespace

import pytest

from flaxvision.sweep import parse_spec, progress, run
from flaxvision.sweep.progress import Bar, Lines, Together, Watcher
from flaxvision.sweep.status import duration

pytestmark = pytest.mark.quick


def cohort(number: int, trials: int = 1, stage: str = "sweep", seconds: float = 0.0):
    """As much of a cohort as a watcher looks at."""
    made = [SimpleNamespace(program=number, stage=stage, id="abc") for _ in range(trials)]
    return SimpleNamespace(trials=made, files=SimpleNamespace(directory="runs/x"), seconds=seconds)


def record(seed: int, value: float | None, status: str = "ok", **more):
    return {"id": "abc", "status": status, "stage": "sweep", "seed": seed, "cell": {"lr": "0.1"}, **more} | (
        {} if status == "failed" else {"final": {"test_top1": value}}
    )


def test_lines_at_the_start_at_each_tenth_and_of_failures():
    file = io.StringIO()
    watch, work = Lines(file), [cohort(i % 4) for i in range(20)]
    watch.begin(work, "test_top1")
    with watch:
        for seed, each in enumerate(work):
            (move,) = watch.callbacks(each)
            for step in (1, 2):
                move(SimpleNamespace(step=step, steps=2, note=""))
            failed = seed == 9
            watch.end(each, [record(seed, seed / 100, "failed" if failed else "ok", message="no luck")])
    lines = file.getvalue().splitlines()
    assert lines[0] == "training, 20 trials, 4 programs"
    assert [line for line in lines if "failed:" in line] == ["trial abc (lr 0.1, seed 9) failed: no luck"]
    counted = [line for line in lines[1:] if "failed:" not in line]
    assert [int(re.search(r"(\d+) %", line).group(1)) for line in counted] == list(range(10, 101, 10))
    assert counted[0] == "1/20 trials, 10 %, 0 s left, best 0.0 % (lr 0.1)"
    assert counted[-1] == "20/20 trials, 100 %, 1 failed, best 19.0 % (lr 0.1)"
    assert file.getvalue().isprintable() == (not lines)  # nothing but lines
    assert all(line.isprintable() for line in lines)


def test_long_trials_are_a_larger_share_of_the_work():
    watch, work = Watcher(), [cohort(0, 2, seconds=30.0), cohort(1, 2, seconds=10.0)]
    watch.begin(work, "test_top1")
    (move,) = watch.callbacks(work[0])
    move(SimpleNamespace(step=1, steps=2, note=""))
    assert watch.status.share == pytest.approx(15 / 40)
    watch.end(work[0], [record(0, 0.1), record(1, 0.1)])
    assert watch.status.share == pytest.approx(30 / 40)
    watch.end(work[1], [record(0, 0.1), record(1, 0.1)])
    assert watch.status.share == pytest.approx(1)


def test_a_line_now_and_then_while_nothing_ends():
    """As during a long compilation."""
    file = io.StringIO()
    watch = Lines(file, every=0.01)
    with watch:
        watch.begin([cohort(0)], "val_loss")
        until = time.monotonic() + 30
        while file.getvalue().count("\n") < 4 and time.monotonic() < until:
            time.sleep(0.01)
    assert file.getvalue().splitlines()[1:4] == ["0/1 trials, 0 %, 0 s so far"] * 3


def test_the_best_of_a_loss_is_the_smallest_and_no_diverged_one():
    watch = Watcher()
    work = [cohort(0, trials=3), cohort(0, stage="pretrain")]
    watch.begin(work, "val_loss")
    ends = [("ok", 2.5), ("diverged", 0.1), ("ok", None)]
    watch.end(work[0], [record(i, 0.5, status) | {"final": {"val_loss": x}} for i, (status, x) in enumerate(ends)])
    assert watch.line().endswith("best val loss 2.500 (lr 0.1)")
    assert watch.line().startswith("3/4 trials, 75 %")


def test_a_terminal_of_80_columns_has_one_line(monkeypatch):
    from rich.console import Console

    watch, file = Bar(), io.StringIO()
    watch.console = Console(file=file, force_terminal=True, width=80)
    work = [cohort(0), cohort(1)]
    with watch:
        watch.stage("checking data and networks")
        watch.bar.refresh()
        watch.open("runs/x")
        watch.begin(work, "test_top1")
        cell = {"cell": {"variant": "a name that is far too long for any terminal " * 3}}
        watch.end(work[0], [record(0, 0.971) | cell])
        watch.bar.refresh()
        watch.stage("exporting the winner")
        watch.bar.refresh()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    lines = re.split(r"[\r\n]+", shown)
    last = [line for line in lines if "50 %" in line][-1]
    assert "1/2 trials · 50 % · 0 s left · best 97.1 % (variant a name that is" in last
    assert all(len(line.rstrip()) <= 80 for line in lines)
    said = (
        "checking data and networks · 0 s",
        "run folder: runs/x",
        "training, 2 trials",
        "exporting the winner · 0 s",
    )
    places = [next(i for i, line in enumerate(lines) if words in line) for words in said]
    assert places == sorted(places)


def test_a_log_of_a_sweep_has_no_control_codes(tmp_path, capsys, tiny):
    run(
        parse_spec(tiny(seeds=2)),
        tmp_path / "run",
        executor="loop",
        export=False,
        report=False,
        watch=progress.watcher(),
    )
    err = capsys.readouterr().err
    lines = err.splitlines()
    assert lines[0] == f"run folder: {tmp_path / 'run'}"
    assert "training, 2 trials, 1 program" in lines
    assert lines[-1].startswith("2/2 trials, 100 %, best ")
    assert "\x1b" not in err
    assert "\r" not in err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (130, "2 min 10 s"), (3599.6, "1 h 00 min"), (90061, "25 h 01 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_what_an_earlier_run_has_left_counts():
    file = io.StringIO()
    watch, work = Lines(file), [cohort(0)]
    watch.begin(work, "test_top1", [record(0, 0.9), record(1, 0.8), record(2, None, "failed", message="no luck")])
    watch.end(work[0], [record(3, 0.7)])
    assert file.getvalue().splitlines() == [
        "training, 1 trial, 1 program, 3 more from before",
        "4/4 trials, 100 %, 1 failed, best 90.0 % (lr 0.1)",
    ]


def test_together_all_are_told():
    files = [io.StringIO(), io.StringIO()]
    each = Together(*(Lines(file) for file in files))
    work = [cohort(0)]
    with each:
        each.open("runs/x")
        each.stage("checking")
        each.begin(work, "test_top1")
        for move in each.callbacks(work[0]):
            move(SimpleNamespace(step=1, steps=2, note="goes on from epoch 2"))
        each.end(work[0], [record(0, 0.5)])
        each.note("a note")
    first, second = (file.getvalue().splitlines() for file in files)
    assert first == second
    assert len(first) == 7
