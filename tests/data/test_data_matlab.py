"""What SciPy writes is read as SciPy reads it; what is damaged is told, and never ends the process."""

import contextlib
import io
import struct

import hypothesis.extra.numpy as of_numpy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from flaxvision.data.matlab import TooLargeError, read_arrays

TYPES = st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])


def written(arrays: dict[str, object], *, packed: bool) -> bytes:
    with io.BytesIO() as file:
        savemat(file, arrays, do_compression=packed)
        return file.getvalue()


@given(
    x=of_numpy.arrays(TYPES, of_numpy.array_shapes(min_dims=2, max_dims=4, max_side=3)),
    y=of_numpy.arrays("u1", st.tuples(st.integers(0, 9), st.just(1))),
    packed=st.booleans(),
)
def test_as_scipy_reads_it(x, y, packed):
    content = written({"X": x, "other": "a text", "cells": np.array([[1], ["b"]], object), "y": y}, packed=packed)
    found, theirs = read_arrays(content, ("X", "y"), 10**6), loadmat(io.BytesIO(content))
    assert set(found) == {"X", "y"}
    for name, values in found.items():
        np.testing.assert_array_equal(values, theirs[name], strict=True)


def test_of_a_machine_with_the_other_order():
    """Big-endian, a short name within the element's head."""
    array = struct.pack(">2I2I", 6, 8, 9, 0) + struct.pack(">2I2i", 5, 8, 1, 2) + struct.pack(">2H4s", 1, 1, b"X")
    array += struct.pack(">2H4s", 2, 2, b"\x05\x07")
    content = b"MATLAB 5.0".ljust(124) + struct.pack(">H2s", 0x0100, b"MI") + struct.pack(">2I", 14, len(array)) + array
    assert loadmat(io.BytesIO(content))["X"].tolist() == [[5, 7]]
    assert read_arrays(content, "X", 100)["X"].tolist() == [[5, 7]]


@given(at=st.integers(126, 400), byte=st.integers(0, 255), packed=st.booleans(), cut=st.booleans())
def test_damage_is_told(at, byte, packed, cut):
    content = bytearray(written({"X": np.zeros((4, 4, 3, 2), np.uint8), "y": np.ones((2, 1))}, packed=packed))
    at = min(at, len(content) - 1)
    content[at] = byte
    found = {}
    with contextlib.suppress(ValueError, TooLargeError):  # and no other error
        found = read_arrays(bytes(content[: at + 1] if cut else content), ("X", "y"), 10**6)
    assert found.keys() <= {"X", "y"}
    assert sum(array.size for array in found.values()) <= 4 * 4 * 3 * 2 + 2


def test_limit():
    content = written({"X": np.zeros((100, 100), np.uint8), "y": np.zeros((100, 100), np.uint8)}, packed=True)
    with pytest.raises(TooLargeError):
        read_arrays(content, ("X", "y"), 10_500)  # either fits, both do not
    assert len(read_arrays(content, ("X", "y"), 30_000)) == 2
