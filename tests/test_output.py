"""Whatever a name or a terminal holds, output is written whole and a program ends with its own status."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flaxvision._files import write_atomically
from flaxvision._text import SUBSTITUTE
from flaxvision.cli.ending import LastWords, exit_status
from flaxvision.errors import UserError


@pytest.mark.parametrize(
    ("text", "encoding", "expected"),
    [
        ("0.9123 ± 0.0011", "ascii", b"0.9123 +/- 0.0011"),
        ("a – b … c → d × e †", "ascii", b"a - b ... c -> d x e *"),
        ("−0.5 · 3", "cp437", b"-0.5 \xfa 3"),  # a Windows console has some of them
        ("猫 caf\u00e9", "ascii", rb"\u732b caf\xe9"),
        ("猫 ± caf\u00e9", "utf-8", "猫 ± café".encode()),
        ("run\udce9", "utf-8", rb"run\xe9"),  # a folder's name in Latin-1
        ("\U0001f408", "latin-1", rb"\U0001f408"),
    ],
)
def test_what_an_encoding_cannot_hold(text, encoding, expected):
    assert text.encode(encoding, SUBSTITUTE) == expected


def test_a_file_about_a_folder_that_is_not_utf8(tmp_path):
    folder = os.fsdecode(b"caf\xe9")
    path = write_atomically(tmp_path / "page.html", f"<p>{folder} 猫</p>")
    assert path.read_text(encoding="utf-8") == "<p>caf\\xe9 猫</p>"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_streams_hold_everything_and_are_as_before(monkeypatch, encoding):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])

    def program() -> int:
        print("0.5 ± 0.1 猫 \udce9")
        raise UserError("no class 犬 in\nthe folder")

    assert exit_status(program) == 2
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams if stream.flush() is None)
    assert out.endswith("\\xe9\n")
    assert "0.5 " in out
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert [stream.errors for stream in streams] == ["strict", "strict"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "a\nb"), "a b: Permission denied"),
        (OSError("no\nspace"), "no space"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_what_the_system_refuses_is_one_line(capsys, error, said):
    def program() -> int:
        raise error

    assert exit_status(program) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


def test_rich_tables_in_an_ascii_terminal(monkeypatch):
    from rich.console import Console

    from flaxvision.report.display import Column, Entry, Table
    from flaxvision.report.tables import TerminalTables

    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    columns = (Column("class", "class", (Entry("猫"),)), Column("value", "value", (Entry("0.5 ± 0.1"),)))
    table = Table("Mean ± std", columns, 1)
    assert exit_status(lambda: Console(width=60).print(TerminalTables("Demo", (table,))) or 0) == 0
    stream.flush()
    shown = stream.buffer.getvalue().decode()
    assert "0.5 +/- 0.1" in shown
    assert "\\u732b" in shown
    assert "Mean +/- std" in shown


def test_interrupts_and_closed_pipes_have_their_status(capsys):
    def interrupt() -> int:
        raise KeyboardInterrupt

    assert exit_status(interrupt, LastWords("{}, stopped".format)) == 130
    assert capsys.readouterr().err == "interrupted, stopped\n"
    assert exit_status(lambda: 7) == 7


@pytest.mark.slow
def test_a_sweep_in_an_ascii_terminal_into_a_folder_that_is_not_utf8(tmp_path):
    out = os.fsencode(tmp_path) + b"/run\xe9"
    command = [sys.executable, "-m", "flaxvision.sweep", "demo", "--dataset", "glyphs", "--limit", "64", "--out", out]
    command += ["--set", "learning_rate=0.1", "--epochs", "1", "--seeds", "2", "--no-export"]
    environment = {**os.environ, "LANG": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert b"+/-" in done.stdout
    assert b"run\\xe9/report.html" in done.stdout
    assert b"run\\xe9" in Path(os.fsdecode(out), "report.html").read_bytes()
