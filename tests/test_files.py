from __future__ import annotations

import concurrent.futures
import os
import stat
import struct
import zipfile

import pytest

from flaxvision._files import is_unfinished, is_zip, write_atomically
from flaxvision.errors import UserError


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_files_have_the_mode_of_any_new_file_in_threads_too(tmp_path):
    (tmp_path / "plain").write_text("")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda i: write_atomically(tmp_path / str(i % 40), f"{i % 40}"), range(400)))
    (tmp_path / "after").write_text("")
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {(tmp_path / "plain").stat().st_mode}
    assert len(list(tmp_path.iterdir())) == 42  # no temporary file is left
    assert all(path.read_text() == path.name for path in paths)


def test_what_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "missing" / "x", tmp_path / "file" / "x", tmp_path):
        with pytest.raises(UserError, match="cannot write"):
            write_atomically(path, "")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name != "posix", reason="folders are synced on POSIX")
def test_a_name_is_given_to_what_is_on_disk(tmp_path, monkeypatch):
    """After a loss of power a file is as before or whole: content, name and folder are written in that order."""
    done = []
    replace = os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: done.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"))
    monkeypatch.setattr(os, "replace", lambda *names: done.append("name") or replace(*names))
    write_atomically(tmp_path / "x", "text")
    assert done == ["file", "name", "folder"]


def test_what_a_kill_leaves_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: None)
    write_atomically(tmp_path / "x.toml", "text")
    (left,) = tmp_path.iterdir()
    assert is_unfinished(left)
    assert not any(map(is_unfinished, [tmp_path / "x.toml", tmp_path / ".lock", tmp_path / ".holder"]))


def test_an_archive_of_several_disks_is_none(tmp_path):
    """As one flipped bit makes of any ZIP archive of more than 4 GB."""
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 2)  # 2: the disks
    (tmp_path / "model.pt").write_bytes(b"PK" + locator + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 0, 0, 0, 0))
    with pytest.raises(zipfile.BadZipFile, match="multiple disks"):
        zipfile.is_zipfile(tmp_path / "model.pt")
    assert not is_zip(tmp_path / "model.pt")
