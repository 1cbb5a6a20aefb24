"""Copies that several processes make, use and delete."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading

import pytest
from PIL import Image

from flaxvision import data
from flaxvision.data import image_folder, mapped
from tests.data.copies import copies, same


@pytest.fixture
def unheld(monkeypatch):
    """Copies are not held by this process, which takes others' parts too."""
    monkeypatch.setattr(mapped, "share", lambda path: None)


@pytest.mark.parametrize("found", ["none", "damaged"])
def test_a_copy_that_another_process_made_meanwhile_stays(pets, home, monkeypatch, found, unheld):
    """Where the file system has no locks; else a third process might look while there is none."""
    if found == "damaged":
        data.load(f"images:{pets}")
        (copy,) = copies(home)
        (copy / "about.json").write_text("{}")
    real, theirs = image_folder.read_images, []

    def slow(*arguments):
        if not theirs:  # the other process begins later and ends sooner
            theirs.append(None)
            theirs[0] = data.load(f"images:{pets}")
            theirs.append(copies(home)[0].stat().st_ino)
        return real(*arguments)

    monkeypatch.setattr(image_folder, "read_images", slow)
    monkeypatch.setattr(mapped, "try_lock", lambda *_: None)
    ours = data.load(f"images:{pets}")
    same(ours, theirs[0])
    (copy,) = copies(home)
    assert copy.stat().st_ino == theirs[1]
    assert not list(home.rglob(".preparing-*"))


@pytest.mark.slow
def test_processes_that_prepare_at_once_do_no_harm(pets, home):
    load = f"data.load('images:{pets}').source.checksum"
    code = f"from flaxvision import data; print('here', flush=True); input(); print({load})"
    pipe = subprocess.PIPE
    with contextlib.ExitStack() as stack:
        processes = []
        for _ in range(3):
            process = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)
            processes.append(stack.enter_context(process))
            stack.callback(process.kill)
        assert [process.stdout.readline() for process in processes] == ["here\n"] * 3
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        found = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0] * 3
    assert len(set(found)) == 1
    assert found[0]
    assert len(copies(home)) == 1
    assert not list(home.rglob(".preparing-*"))
    assert data.load(f"images:{pets}").source.checksum == found[0]


def test_copies_that_nobody_needs_go(pets, home, unheld):
    data.load(f"images:{pets}", size=3)
    (old,) = copies(home)
    os.utime(old / "about.json", (0, 0))
    begun = old.parent / ".preparing-killed"
    begun.mkdir()
    os.utime(begun, (0, 0))
    data.load(f"images:{pets}", size=4)
    assert len(copies(home)) == 1
    assert not old.exists()
    assert not begun.exists()


def test_who_comes_while_a_folder_is_decoded_waits_for_that(pets, home, monkeypatch):
    real, calls, begun, go_on = image_folder.read_images, [], threading.Event(), threading.Event()

    def counted(*arguments):
        calls.append(arguments)
        begun.set()
        assert go_on.wait(120)
        return real(*arguments)

    monkeypatch.setattr(image_folder, "read_images", counted)
    found = []
    threads = [threading.Thread(target=lambda: found.append(data.load(f"images:{pets}"))) for _ in range(3)]
    threads[0].start()
    assert begun.wait(120)
    for thread in threads[1:]:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join(120)
    assert len(calls) == 1
    assert [each.loading_notes for each in found] == [()] * 3
    for each in found[1:]:
        same(each, found[0])
    assert [path.name for path in home.rglob("*.lock")] == []


def test_a_copy_that_another_process_has_mapped_stays(pets, home, unheld):
    """A network's file system would take it from a process of another host, which ends by a signal."""
    code = f"from flaxvision import data; found = data.load('images:{pets}'); print('here', flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as other:
        try:
            assert other.stdout.readline() == "here\n"
            (held,) = copies(home)
            for color in ("red", "blue"):
                for copy in copies(home):
                    os.utime(copy / "about.json", (0, 0))
                Image.new("RGB", (5, 6), color).save(pets / "train" / "a" / f"{color}.png")
                assert len(data.load(f"images:{pets}").loading_notes) == 1
                assert held in copies(home)
                assert len(copies(home)) == 2
        finally:
            other.kill()
    os.utime(held / "about.json", (0, 0))
    Image.new("RGB", (5, 6), "green").save(pets / "train" / "a" / "green.png")
    data.load(f"images:{pets}")
    assert held not in copies(home)


def test_copies_of_hosts_whose_data_lie_at_one_path_do_not_take_turns(pets, home, unheld):
    data.load(f"images:{pets}")
    (here,) = copies(home)
    path = pets / "train" / "a" / "0.png"
    os.utime(path, ns=(0, 0))  # as the other host's copy has it
    data.load(f"images:{pets}")
    assert here in copies(home)
    assert len(copies(home)) == 2
