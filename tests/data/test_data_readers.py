"""The readers of raw files: IDX, CIFAR-10 batches, plain and compressed."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from hypothesis.extra import numpy as arrays

from flaxvision.data import raw
from flaxvision.data.cifar import RECORD, parse_cifar
from flaxvision.data.idx import parse_idx
from flaxvision.errors import UserError


@hypothesis.given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6)))
def test_idx_round_trip(files, array):
    assert np.array_equal(parse_idx(files.idx(array), array.ndim, "x"), array)


@hypothesis.given(strategies.binary(max_size=64), strategies.integers(1, 3))
def test_idx_of_any_bytes_is_an_array_or_a_user_error(content, ndim):
    try:
        array = parse_idx(content, ndim, "some file")
    except UserError as error:
        assert str(error).startswith("some file")  # noqa: PT017 (either outcome is right)
    else:
        assert array.size == len(content) - 4 - 4 * ndim


def _idx_of(files):
    return files.idx(np.arange(6, dtype=np.uint8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1], "is truncated: it has 13 bytes"),
        (lambda content: content + b"!", "has trailing bytes: it has 15 bytes"),
        (lambda content: content[:6], "is truncated: it has 6 bytes, its header alone has 8"),
        (lambda content: b"\x00\x00\x0d\x01" + content[4:], "it starts with 00 00 0d 01, not 00 00 08 01"),
        (lambda content: b"", "it starts with nothing"),
    ],
)
def test_idx_errors(files, change, message):
    with pytest.raises(UserError, match=message):
        parse_idx(change(_idx_of(files)), 1, "labels")


def test_cifar_planes_become_channels():
    records = np.random.default_rng(0).integers(256, size=(3, RECORD), dtype=np.uint8)
    images, labels = parse_cifar(records.tobytes(), "batch")
    assert np.array_equal(labels, records[:, 0])
    assert images.shape == (3, 32, 32, 3)
    assert images[2, 5, 7, 1] == records[2, 1 + 1024 + 5 * 32 + 7]


@pytest.mark.parametrize("content", [b"", b"x" * (RECORD - 1), b"x" * (RECORD + 1)])
def test_cifar_size(content):
    with pytest.raises(UserError, match="not a multiple of 3073"):
        parse_cifar(content, "batch")


@pytest.mark.parametrize("suffix", raw.SUFFIXES)
@pytest.mark.parametrize("named", ["a", "a.gz"])  # what a browser decompressed keeps its name
def test_files_are_read_in_every_form(files, tmp_path, suffix, named):
    files.write(tmp_path / f"a{suffix}", b"content")
    (tmp_path / f"a{suffix}").rename(tmp_path / named)
    assert raw.read(tmp_path / named) == b"content"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><title>403 Forbidden</title>", "a web page"),
        (b"\n<html><body>sign in</body></html>", "a web page"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ],
)
def test_what_was_downloaded_in_place_of_a_file(tmp_path, content, words):
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(UserError, match=words):
        raw.read(tmp_path / "a.gz")


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
@pytest.mark.parametrize("damage", [lambda c: c[:-9], lambda c: c[:20] + b"\xff" * 9 + c[29:]])
def test_damaged_compression(files, tmp_path, suffix, damage):
    path = tmp_path / f"a{suffix}"
    files.write(path, bytes(range(256)) * 4)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"a\.[gx]z is damaged: it cannot be decompressed"):
        raw.read(path)
