"""How long a sweep will take: shared out among workers, guessed from operations, and from steps that were timed."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxvision.cli.main import main
from flaxvision.sweep import foresee
from flaxvision.sweep.arrange import Arrangement
from flaxvision.sweep.foresee import Foreseen, Pace, guessed, span, workers_of
from flaxvision.sweep.measure import Mark, Seen

pytestmark = pytest.mark.quick


def cohorts(programs: str):
    """A cohort of one trial for each letter, which names its program."""
    return tuple((SimpleNamespace(program=letter),) for letter in programs)


@pytest.mark.parametrize(
    ("programs", "workers", "apart", "seconds"),
    [
        ("aab", 1, False, 10 + 10 + 100 + 1 + 2),
        ("aaaa", 2, False, 1 + 10 + 10),  # the other worker waits for the program
        ("aaaa", 2, True, 1 + 10 + 10),
        ("baaa", 2, False, 2 + 100),
        ("bbaa", 2, True, 2 + 100 + 1 + 10),  # each loads both
        ("bba", 2, False, 2 + 100 + 1 + 10),
        ("aaab", 2, False, 1 + 10 + 2 + 100),  # the longest came last
        ("", 3, False, 0),
    ],
)
def test_cohorts_take_the_first_worker_that_is_free(programs, workers, apart, seconds):
    paces = {"a": Pace(10.0, 1.0), "b": Pace(100.0, 2.0)}
    assert span(cohorts(programs), paces, workers, apart=apart) == seconds


@given(st.text("abc", min_size=1, max_size=30), st.integers(1, 8), st.lists(st.floats(0, 100), min_size=6, max_size=6))
def test_workers_share_the_work(programs, workers, seconds):
    paces = {letter: Pace(*seconds[2 * i : 2 * i + 2]) for i, letter in enumerate("abc")}
    training = [paces[letter].training for letter in programs]
    loading = sum(paces[letter].loading for letter in set(programs))
    together, apart = (span(cohorts(programs), paces, workers, apart=apart) for apart in (False, True))
    for taken in (together, apart):
        assert taken >= max(sum(training) / workers, *training) - 1e-9
    assert together <= sum(training) + loading + 1e-9
    if workers == 1:
        assert together == pytest.approx(sum(training) + loading)
        assert apart == pytest.approx(together)


def test_a_guess_rests_on_operations_and_on_how_many_share_the_cores(monkeypatch):
    monkeypatch.setattr(foresee, "cores", lambda: list(range(4)))
    arranged = Arrangement("loop", "auto", cohorts("aaaab"), {"a": 10.0, "b": 20.0})
    alone = guessed(arranged)
    assert alone.likely == pytest.approx(0.5 + 1.6 * 60 + 2 * 0.5)
    assert alone.low < alone.likely / 1.9
    assert alone.high > alone.likely * 1.9
    beside = guessed(Arrangement("threads", "auto", cohorts("aaaa"), {"a": 10.0}))
    assert workers_of(arranged) == 1
    assert beside.likely == pytest.approx(0.5 + 1.6 * 20 + 0.5)  # each has one core where the model counts with two


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((83.4, 100, 139), "1 min 23 s to 2 min 20 s"),
        ((7.1, 7.2, 7.4), "7 s"),
        ((4321, 5000, 9876), "1 h 11 min to 2 h 45 min"),
    ],
)
def test_a_range_has_no_more_digits_than_are_known(ends, text):
    assert str(Foreseen(*ends)) == text


@pytest.mark.parametrize(
    ("marks", "steps", "seconds"),
    [
        # The first call took 5 s; ten steps take 2 s from then on; the epoch's end was not seen.
        (((5, 10, False), (7, 20, False), (9, 30, False)), 1000, 0.2 * 1000),
        # Epochs of ten steps take 3 s, evaluation included; the first one took 8.
        (((4, 5, False), (8, 10, True), (9, 15, False), (11, 20, True), (12, 25, False)), 100, 30),
        # On an accelerator an epoch is one call, and only its end is waited for.
        (((0.1, 50, False), (4, 50, True)), 200, 16),
    ],
)
def test_a_training_from_its_beginning(marks, steps, seconds):
    marks = tuple(Mark(*mark) for mark in marks)
    assert Seen({}, marks=marks, steps=steps).training == pytest.approx(seconds)
    assert Seen({}, marks=marks, steps=steps, whole=1.5).training == 1.5  # it came to its end


def test_measure_goes_with_a_dry_run(capsys):
    assert main(["sweep", "demo", "--measure"]) == 2
    assert "--measure has no effect without --dry-run: add it" in capsys.readouterr().err


def told(capsys, tmp_path, *words) -> tuple[str, str]:
    """The time that a dry run of a small sweep tells, and the last line; it leaves nothing."""
    small = ["--limit", "64", "--epochs", "2", "--set", "hidden=[4]", "learning_rate=0.1,0.2", "--seeds", "1"]
    assert main(["sweep", "demo", "--dry-run", *small, *words, "--out", str(tmp_path / "run")]) == 0
    *_, time, last = re.sub(r"\n {10}", " ", capsys.readouterr().out).splitlines()
    assert not list(tmp_path.iterdir())
    return time, last


def test_a_dry_run_tells_a_range(capsys, tmp_path):
    time, last = told(capsys, tmp_path, "--executor", "loop")
    assert re.fullmatch(r"time +\d+ s to \d+ s of training by loop, by the networks' operations; --measure .*", time)
    assert last == "nothing was trained or written"


@pytest.mark.parametrize(
    "executor", ["loop", *(pytest.param(each, marks=pytest.mark.slow) for each in ("threads", "processes"))]
)
def test_a_dry_run_measures_every_program(capsys, tmp_path, executor):
    time, last = told(capsys, tmp_path, "--executor", executor, "--measure")
    assert re.fullmatch(rf"time +\d+ s( to \d+ s)? of training by {executor}.*, by what every network took .*", time)
    assert last.startswith("nothing was kept but compiled programs")
