"""Copies that processes map: what is said and given is the same, what is damaged or has changed is noticed."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from flaxvision import data
from flaxvision._memory import is_mapped
from flaxvision.data import _load, image_folder, mapped, pixels, space
from flaxvision.errors import UserError
from flaxvision.training.preparing import place as placed
from tests.data.copies import RNG, copies, same


@pytest.fixture(autouse=True)
def unheld(monkeypatch):
    """Copies are not held by this process, which takes others' parts too."""
    monkeypatch.setattr(mapped, "share", lambda path: None)


@pytest.mark.parametrize("options", [{}, {"limit": 9}, {"size": "4x4", "channels": 1}], ids=str)
def test_a_folder_is_decoded_once(pets, home, monkeypatch, options):
    memory = image_folder.read_images(f"images:{pets}", pets, image_folder.conversion(None, None, None, False))
    first = data.load(f"images:{pets}", **options)
    assert "left out: 1 file without an image, such as notes.txt" in first.source.notes
    monkeypatch.setattr(image_folder, "read_images", None)
    again = data.load(f"images:{pets}", **options)
    same(first, again)
    assert all(is_mapped(split.images) and not split.images.flags.writeable for split in again.splits.values())
    if not options:
        same(first, memory)
    assert len(copies(home)) == 1


def test_a_limit_counts_before_anything_is_decoded(pets, home, monkeypatch):
    whole = data.load(f"images:{pets}")
    read, real = [], image_folder.read_header
    monkeypatch.setattr(image_folder, "read_header", lambda path: read.append(path) or real(path))
    few = data.load(f"images:{pets}", limit=10)
    assert len(read) == 30  # of 74
    for name, split in few.splits.items():
        expected = whole.limit(10).splits[name]
        np.testing.assert_array_equal(split.images, expected.images)
        assert split.files.tolist() == expected.files.tolist()


def test_damage_among_the_first_is_passed_over(pets, home):
    whole = data.load(f"images:{pets}", limit=8)
    (pets / str(whole.train.files[0])).write_bytes(b"")  # before it is decoded,
    broken = pets / str(whole.train.files[1])
    broken.write_bytes(broken.read_bytes()[:60])  # and while it is
    with pytest.raises(UserError, match="2 of 24 files cannot be read as images"):
        data.load(f"images:{pets}", limit=8)
    found = data.load(f"images:{pets}", limit=8, skip_damaged=True)
    assert len(found.train) == 8
    assert set(found.train.files) > set(whole.train.files[2:])
    assert any(note.startswith("left out: 2 damaged images") for note in found.source.notes)


def test_what_is_trained_on_is_not_copied(pets, home):
    found = data.load(f"images:{pets}")
    on_cpu = placed(found, tuple(jax.devices("cpu")[:1]))
    for array, split in ((on_cpu.train[0], found.train), (on_cpu.held_out[0], found.validation)):
        assert array.unsafe_buffer_pointer() == split.images.ctypes.data
    expected = np.concatenate([found.validation.images, found.test.images])
    np.testing.assert_array_equal(on_cpu.held_out[0], expected)


@pytest.mark.parametrize("damage", ["byte", "cut", "gone", "about", "rubbish", "label"])
def test_a_damaged_copy_is_made_anew(pets, home, damage):
    first = data.load(f"images:{pets}")
    (copy,) = copies(home)
    path = copy / ("about.json" if damage in ("about", "rubbish", "label") else "train.npy")
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    renamed = path.read_bytes().replace(b'"classes": ["a"', b'"classes": ["c"')
    new = {"label": renamed, "byte": content, "cut": content[:-20], "about": b"{}", "rubbish": b"\0"}
    path.unlink()  # `first` keeps what was there
    if damage != "gone":
        path.write_bytes(new[damage])
    again = data.load(f"images:{pets}")
    (note,) = again.loading_notes
    assert note.startswith("the prepared copy was damaged (")
    assert note.endswith(") and made anew")
    same(first, again)
    same(first, data.load(f"images:{pets}"))
    assert copies(home) == [copy]


def test_a_damaged_copy_that_may_not_be_replaced(pets, home, monkeypatch):
    first = data.load(f"images:{pets}")
    (copy,) = copies(home)
    (copy / "about.json").write_text("{}")
    rename = os.rename

    def refused(source, target):
        if Path(source) == copy:  # which is somebody else's
            raise PermissionError(1, "Operation not permitted")
        rename(source, target)

    monkeypatch.setattr(mapped.os, "rename", refused)
    again = data.load(f"images:{pets}")
    reason = "about.json differs from its checksum"
    assert again.loading_notes == (f"no prepared copy could be kept in {home}/mapped/images: {reason}",)
    same(first, again)
    assert copies(home) == [copy]
    assert not list(home.rglob(".preparing-*"))


@pytest.mark.parametrize("change", ["content", "added", "removed", "renamed"])
def test_a_folder_that_has_changed_is_read_anew(pets, home, change):
    first = data.load(f"images:{pets}")
    path = pets / "train" / "a" / "0.png"
    if change == "removed":
        path.unlink()
    elif change == "renamed":
        path.rename(path.with_name("x.png"))
    else:
        status = path.stat()
        target = path if change == "content" else path.with_name("new.png")
        Image.new("RGB", (5, 6), "red").save(target)
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))  # as tools do that copy
    (copy,) = copies(home)
    os.utime(copy / "about.json", (0, 0))
    again = data.load(f"images:{pets}")
    assert again.loading_notes == ("files have changed since they were prepared, and were prepared anew",)
    assert again.source.checksum != first.source.checksum
    assert len(copies(home)) == 1  # the other one is gone
    last = data.load(f"images:{pets}")
    assert (last.source, last.loading_notes) == (again.source, ())


def test_another_version_makes_a_copy_of_its_own(pets, home, monkeypatch):
    """And calls the earlier one neither damaged nor made of other files."""
    with monkeypatch.context() as patch:
        patch.setattr(space, "VERSION", 1)
        data.load(f"images:{pets}")
    (earlier,) = copies(home)
    (earlier / "about.json").write_text("of another form")
    assert data.load(f"images:{pets}").loading_notes == ()
    assert len(copies(home)) == 2


def test_hidden_files_change_nothing(pets, home, monkeypatch):
    data.load(f"images:{pets}")
    (pets / "train" / ".DS_Store").write_text("x")
    monkeypatch.setattr(image_folder, "read_images", None)
    data.load(f"images:{pets}")


@pytest.mark.parametrize("trouble", ["folder", "disk"])
def test_without_a_copy_it_goes_on_and_says_so(pets, home, monkeypatch, trouble):
    first = data.load(f"images:{pets}")
    shutil.rmtree(home)
    if trouble == "folder":
        home.write_text("a file where a folder should be")
    else:

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(space.os, "posix_fallocate", full)
    again = data.load(f"images:{pets}")
    reason = "No space left on device" if trouble == "disk" else "Not a directory"
    assert again.loading_notes == (f"no prepared copy could be kept in {home}/mapped/images: {reason}",)
    assert not is_mapped(again.train.images)
    same(first, again)
    assert trouble == "folder" or not list(home.rglob("*.npy"))


def test_trouble_of_the_moment_takes_no_image_away(pets, home, monkeypatch):
    """It is not damage: a prepared copy without the image would stay."""
    whole = data.load(f"images:{pets}", skip_damaged=True)

    def flaky(path, *mode):
        if str(path).endswith("3.png"):
            raise OSError(errno.EIO, "Input/output error")
        return open(path, *mode)

    monkeypatch.setattr(pixels, "open", flaky, raising=False)
    with pytest.raises(UserError, match=r"cannot read .*3\.png: input/output error, which may be no fault of the file"):
        data.load(f"images:{pets}", skip_damaged=True, size=4)
    monkeypatch.undo()
    assert len(data.load(f"images:{pets}", skip_damaged=True, size=4).train) == len(whole.train)


# --- archives and hold-outs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["mixed", "sorted"])
def test_large_archives_are_mapped(tmp_path, home, monkeypatch, order):
    monkeypatch.setattr(mapped, "SMALL", 10_000)
    monkeypatch.setattr(mapped.mapped, "__kwdefaults__", {"least": 10_000})
    monkeypatch.setattr("flaxvision.data.npz.SMALL", 10_000)
    monkeypatch.setattr(_load, "LARGE", 10_000)
    folder = tmp_path / "set"
    folder.mkdir()
    for split, number in (("train", 400), ("test", 90)):
        labels = RNG.integers(3, size=number)
        images = RNG.integers(256, size=(number, 7, 5), dtype=np.uint8)
        np.savez(folder / f"{split}.npz", x=images, y=np.sort(labels) if order == "sorted" else labels)
    from flaxvision.data.npz import read_npz

    memory = read_npz(f"npz:{folder}", folder)
    first, again = data.load(f"npz:{folder}"), data.load(f"npz:{folder}")
    same(memory, first)
    same(first, again)
    assert is_mapped(again.train.images)
    held = [data.load(f"npz:{folder}", validation=0.25, validation_seed=3) for _ in range(2)]
    for found in held:
        same(found, memory.hold_out(0.25, 3))
        assert all(is_mapped(split.images) for split in found.splits.values())
    few = data.load(f"npz:{folder}", limit=50, validation=0.5)
    same(few, memory.limit(50).hold_out(0.5))
    np.savez(folder / "test.npz", x=images[:80], y=labels[:80])
    assert len(data.load(f"npz:{folder}").test) == 80


@pytest.fixture
def archive(tmp_path, home, monkeypatch):
    """A mixed archive that counts as a large one; its name, and what is in it."""
    from flaxvision.data.npz import read_npz

    monkeypatch.setattr(mapped.mapped, "__kwdefaults__", {"least": 10_000})
    monkeypatch.setattr(mapped.held_out, "__kwdefaults__", {"least": 1_000})
    monkeypatch.setattr(_load, "LARGE", 1_000)
    folder = tmp_path / "set"
    folder.mkdir()
    for split, number in (("train", 300), ("test", 400)):
        images = RNG.integers(256, size=(number, 7, 5), dtype=np.uint8)
        np.savez(folder / f"{split}.npz", x=images, y=RNG.integers(3, size=number))
    memory = read_npz(f"npz:{folder}", folder)
    monkeypatch.setattr("flaxvision.data.npz.SMALL", 10_000)
    return f"npz:{folder}", memory


def test_a_hold_out_is_of_its_limit(archive, monkeypatch):
    name, memory = archive
    for _ in range(2):
        same(data.load(name, limit=350, validation=0.25), memory.limit(350).hold_out(0.25))  # of the test examples
        same(data.load(name, validation=0.25), memory.hold_out(0.25))


def test_a_full_disk_costs_no_memory(archive, home, monkeypatch):
    """What an archive was unpacked to is used from there; a hold-out, which needs a copy, is one line."""
    name, memory = archive

    def full(*_):
        raise OSError(28, "No space left on device")

    def no_memory(*_):
        raise AssertionError("copied into memory")

    monkeypatch.setattr(space.os, "posix_fallocate", full)
    with monkeypatch.context() as patch:
        patch.setattr(space, "empty", no_memory)
        found = data.load(name)
    same(found, memory)
    assert is_mapped(found.train.images)
    assert found.loading_notes == (f"no prepared copy could be kept in {home}/mapped/npz: No space left on device",)
    held = data.load(name, validation=0.25)  # which the memory has room for
    same(held, memory.hold_out(0.25))
    assert held.loading_notes[0] == found.loading_notes[0]
    monkeypatch.setattr(space, "free_memory", lambda: 1_000.0)
    with pytest.raises(UserError, match=r"no room on disk \(No space left on device\), nor in the 0.0 GB of memory"):
        data.load(name, validation=0.25)
    monkeypatch.setattr(space.Space, "room", lambda _: 12_000.0)
    with pytest.raises(UserError, match=r"a copy with validation=0\.25 held out takes .*: leave validation out, or"):
        mapped.held_out(found, space.Place(home, "state", "options"), 0.25, 0)


def test_small_archives_leave_nothing(tmp_path, home):
    np.savez(tmp_path / "train.npz", x=RNG.normal(size=(40, 3)), y=RNG.integers(2, size=40))
    np.savez(tmp_path / "test.npz", x=RNG.normal(size=(40, 3)), y=RNG.integers(2, size=40))
    data.load(f"npz:{tmp_path}", validation=0.5)
    assert not Path(home).exists()


def test_an_archive_without_room_is_one_line(tmp_path, home, monkeypatch):
    monkeypatch.setattr("flaxvision.data.npz.SMALL", 1000)
    monkeypatch.setattr(space.Space, "room", lambda _: 2.0**13)
    np.savez(tmp_path / "train.npz", x=np.zeros((40, 30, 10), np.uint8), y=np.zeros(40, int))
    with pytest.raises(
        UserError, match=r"train.npz: x unpacks to 0\.0 GB of the 0\.0 that there are in memory and on disk"
    ):
        data.load(f"npz:{tmp_path}")
    assert not home.exists() or not list(home.rglob("*.npy"))
