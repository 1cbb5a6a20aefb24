"""A table filled in parts: by several processes at a time, put together by who resumes it."""

from __future__ import annotations

import itertools
import subprocess
import sys

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxvision.errors import UserError
from flaxvision.runs import open as open_run
from flaxvision.sweep import resume, run
from flaxvision.sweep.lock import locked
from flaxvision.sweep.parse import parse_spec
from flaxvision.sweep.parts import Part, files_of_parts, of_part
from flaxvision.sweep.trials import expand

pytestmark = pytest.mark.quick

QUIETLY = {"export": False, "report": False}


@pytest.fixture
def fill(tiny, tmp_path, monkeypatch):
    """Fills a folder with six trials of two programs, or a part of them."""
    monkeypatch.chdir(tmp_path)
    table = tiny(seeds=3, grid={"hidden": [[4], [8]]})

    def run_it(out="run", **options):
        return run({**table, **options.pop("table", {})}, out, **QUIETLY, **options)

    return run_it


@given(of=st.integers(1, 12), seeds=st.integers(1, 4), data=st.data())
@settings(max_examples=30, deadline=None)
def test_parts_share_out_every_trial_once(of, seeds, data):
    grid = {"hidden": [[4], [8], [2]], "learning_rate": [0.1, 0.2]}
    spec = parse_spec({"name": "mine", "dataset": "glyphs", "model": "mlp", "seeds": seeds, "grid": grid})
    trials = data.draw(st.permutations(expand(spec)))
    of = min(of, len(trials))
    shares = [Part(number, of).share(trials) for number in range(1, of + 1)]
    assert sorted(trial.id for share in shares for trial in share) == sorted(trial.id for trial in trials)
    assert {len(share) for share in shares} <= {len(trials) // of, -(-len(trials) // of)}
    programs = [trial.program for share in shares for trial in share]
    assert sum(one != two for one, two in itertools.pairwise(programs)) == 2  # each lies together


def test_parts_put_together_are_the_whole_table(fill, files, tmp_path):
    fill("whole")
    last = fill(part="2/2")
    assert (len(last.outcomes), last.winner) == (3, None)
    assert {trial.config["hidden"][0] for trial in last.outcomes} == {8}  # a part shares a program
    assert not (tmp_path / "run" / "trials.jsonl").exists()
    with open(tmp_path / "run" / "trials.part-2-of-2.jsonl", "ab") as file:
        file.write(b'{"id": "3", "se')  # as a kill leaves it
    seen = open_run("run")
    assert (len(seen.trials), seen.state) == (3, "ended early")
    assert len(fill(part="2/2").outcomes) == 3
    assert len(resume("run", part="1/2", **QUIETLY).outcomes) == 3
    resume("run", **QUIETLY)
    assert files["without_seconds"](tmp_path / "run") == files["without_seconds"](tmp_path / "whole")
    assert not files_of_parts(tmp_path / "run")
    assert open_run("run").state == "complete"
    assert open_run("run").winner.id == open_run("whole").winner.id


def test_who_fills_what_is_told(fill, tmp_path):
    fill(part="1/3")
    with locked(tmp_path / "run", Part(2, 3)):
        assert open_run("run").state == "running"
        with pytest.raises(UserError, match=r"^process \d+ on .* is filling part 2/3 of run: wait until it has ended"):
            fill(part="2/3")
        with pytest.raises(UserError, match=r"is filling part 2/3 of run: wait"):
            fill(resume=True)
        fill(part="3/3")
    with locked(tmp_path / "run"), pytest.raises(UserError, match=r"^process \d+ on .* is filling run: wait"):
        fill(part="2/3")
    (tmp_path / "run" / ".holder").write_text("process 1 on mars\n")  # who was killed fills nothing
    assert len(fill(part="2/3").outcomes) == 2


def test_what_parts_cannot_be(fill, tiny):
    for part in ("0/3", "4/3", "1", "1/0", "a/b", "1/-2", "²/3"):
        with pytest.raises(UserError, match=r"^part is .*: give which of how many, from 1/8 to 8/8"):
            fill(part=part)
    with pytest.raises(UserError, match="part 7/9 has no trials: the table has 6, so give that many parts at most"):
        fill(part="7/9")
    with pytest.raises(UserError, match="part 1/2 needs the folder that all parts fill"):
        fill(None, part="1/2")
    stage = {"recipe": {"batch_size": 32, "epochs": 1, "warm_start": "pretrain"}, "pretrain": {"recipe": {"epochs": 1}}}
    stage["grid"] = {"learning_rate": [0.1, 0.2]}
    with pytest.raises(UserError, match=r"part 1/2 starts from a \[pretrain\] stage"):
        fill(part="1/2", table=stage)
    fill(part="1/3")
    with pytest.raises(UserError, match=r"run is filled in 3 parts, and part 4/4 is none of these: give --part 3/3"):
        fill(part="4/4")
    with pytest.raises(UserError, match=r"the other parts of run are of a table of other trials"):
        fill(part="2/3", seeds=2)


def test_the_command(tiny, spec_file, command, tmp_path):
    words = [spec_file(tiny(seeds=2)), "--out", tmp_path / "run"]
    status, out, _ = command(*words, "--part", "1/2")
    assert (status, out.splitlines()[-1]) == (
        0,
        f"part 1/2 is over: when all parts are, type python -m flaxvision resume {tmp_path / 'run'}",
    )
    assert not (tmp_path / "run" / "report.html").exists()
    assert command(*words, "--part", "1/2", "--dry-run")[0] == 2
    status, _, error = command(*words, "--part", "1")
    assert (status, error) == (2, "error: part is '1': give which of how many, from 1/8 to 8/8\n")


def test_processes_that_are_joined_are_refused(fill, monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    with pytest.raises(UserError, match=r"^jax.distributed joins this process with others.* executor 'ray' for many"):
        fill()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_processes")
def test_parts_that_begin_at_a_time(tiny, spec_file, tmp_path, files):
    grid = {"learning_rate": [0.3, 0.1]}
    table = [sys.executable, "-m", "flaxvision.sweep", str(spec_file(tiny(seeds=3, grid=grid))), "--no-export"]
    words = [*table, "--executor", "loop", "--quiet", "--out", str(tmp_path / "run"), "--part"]
    jobs = [subprocess.Popen([*words, f"{number}/3"], stderr=subprocess.PIPE, text=True) for number in (1, 2, 3)]
    for job in jobs:
        _, said = job.communicate()
        assert (job.returncode, said) == (0, "")
    run(spec_file(tiny(seeds=3, grid=grid)), tmp_path / "whole", executor="loop", export=False)
    resume(tmp_path / "run", export=False)
    assert files["table_bytes"](tmp_path / "run") == files["table_bytes"](tmp_path / "whole")
    assert [of_part("a.b", None), of_part(".lock", Part(1, 2))] == ["a.b", ".lock.part-1-of-2"]
