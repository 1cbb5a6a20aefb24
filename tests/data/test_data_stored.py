"""A data set in one file: it comes back as it was, and damage is one line."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import flaxvision as fv
from flaxvision.data.stored import read_dataset, write_dataset
from flaxvision.data.stream import Stream, streamed
from flaxvision.errors import UserError
from flaxvision.sweep.files import GivenData


@pytest.mark.parametrize("shape", [(6, 5, 3), (2,)])
def test_it_comes_back(make_dataset, tmp_path, shape):
    dataset = make_dataset(shape, 3, 40, 20).hold_out(0.2)
    test = dataclasses.replace(dataset.test, files=np.array([f"a/{i}.png" for i in range(20)], object))
    dataset = dataclasses.replace(dataset, test=test)
    again = read_dataset(write_dataset(dataset, tmp_path / "data.npz"))
    assert (again.name, again.classes, again.source) == (dataset.name, dataset.classes, dataset.source)
    assert list(again.splits) == ["train", "validation", "test"]
    for name, split in dataset.splits.items():
        np.testing.assert_array_equal(again.splits[name].images, split.images)
        np.testing.assert_array_equal(again.splits[name].labels, split.labels)
        assert again.splits[name].images.dtype == split.images.dtype
        assert [again.splits[name].name(i) for i in (0, 7)] == [split.name(i) for i in (0, 7)]


def test_a_stream_comes_back(make_dataset, tmp_path):
    """And stays as it was given, whatever the memory; a run that is told not to stream does not."""
    dataset = dataclasses.replace(make_dataset((6, 5, 3), 3, 40, 20), stream=Stream(7, 3))
    given = GivenData.of(dataset).kept(tmp_path / "data.npz")
    again = read_dataset(given.path)
    assert again.stream == Stream(7, 3)
    assert (
        GivenData.of(again).checksum == given.checksum != GivenData.of(dataclasses.replace(again, stream=None)).checksum
    )
    assert streamed(again) is streamed(again, True) is again
    made = streamed(dataclasses.replace(dataset, stream=None), True)
    without = streamed(made, False)
    assert (without.stream, without.source) == (None, dataset.source)


def test_damage_is_one_line(tmp_path):
    path = write_dataset(fv.data.load("two_clusters", limit=10), tmp_path / "data.npz")
    content = path.read_bytes()
    for damaged in (content[:-100], b"", b"PK" + content[2:200]):
        path.write_bytes(damaged)
        with pytest.raises(
            UserError, match=r"data.npz cannot be read as a data set of a run .*: it is damaged or gone"
        ):
            read_dataset(path)
    np.savez(path, x=np.zeros(3))
    with pytest.raises(UserError, match="cannot be read as a data set of a run"):
        read_dataset(path)


def test_names_of_any_script(tmp_path):
    dataset = dataclasses.replace(fv.data.load("two_clusters", limit=10), name="猫", classes=("ä", "\ud800"))
    assert read_dataset(write_dataset(dataset, tmp_path / "data.npz")).classes == ("ä", "\ud800")
