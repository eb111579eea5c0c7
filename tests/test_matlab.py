"""MATLAB files: read as scipy reads sound ones, and refused where they are damaged."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.io import loadmat, savemat

from jaxhash.data import matlab

TYPES = [np.dtype(name) for name in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")]
HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"


def saved(arrays: dict[str, object], compress: bool) -> bytes:
    file = io.BytesIO()
    savemat(file, arrays, do_compression=compress)
    return file.getvalue()


def element(kind: int, content: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}II", kind, len(content)) + content + bytes(-len(content) % 8)


def array(order: str, shape: tuple[int, ...], kind: int, numbers: bytes) -> bytes:
    """An array of doubles called y, its numbers stored as this type."""
    return element(
        14,
        element(6, struct.pack(f"{order}II", 6, 0), order)
        + element(5, struct.pack(f"{order}{len(shape)}i", *shape), order)
        + element(1, b"y", order)
        + element(kind, numbers, order),
        order,
    )


def refused(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        matlab.read(path, ("X", "y"))
    assert str(path) in str(error.value)


def is_refused(path: Path) -> bool:
    try:
        matlab.read(path, ("X", "y"))
    except ValueError as error:
        return str(path) in str(error)
    return False


@given(
    st.sampled_from(TYPES).flatmap(
        lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=2, max_dims=4, max_side=5))
    ),
    st.booleans(),
)
def test_arrays_are_those_that_scipy_reads(tmp_path_factory, values: np.ndarray, compress: bool):
    path = tmp_path_factory.mktemp("mat") / "a.mat"
    others = {"text": "words", "cells": np.array([[1, "a"]], object), "twice": 1j, "more": {"a": 1}}
    path.write_bytes(saved(others | {"X": values, "y": np.eye(2)}, compress))
    found, wanted = matlab.read(path, ("X", "y", "cells", "twice")), loadmat(path)
    assert found.keys() == {"X", "y"}
    for name in found:
        assert found[name].dtype == wanted[name].dtype
        np.testing.assert_array_equal(found[name], wanted[name])


@pytest.mark.parametrize("order", ["<", ">"])
def test_numbers_can_be_stored_smaller_than_they_are_and_in_any_byte_order(tmp_path, order):
    path = tmp_path / "a.mat"
    header = HEADER if order == "<" else HEADER[:124] + b"\x01\x00MI"
    path.write_bytes(header + array(order, (1, 3), 2, b"\x01\x0a\xff"))
    assert matlab.read(path, ["y"])["y"].tolist() == loadmat(path)["y"].tolist() == [[1, 10, 255]]
    path.write_bytes(header + array(order, (1, 2), 3, struct.pack(f"{order}2h", -2, 300)))
    assert matlab.read(path, ["y"])["y"].tolist() == loadmat(path)["y"].tolist() == [[-2, 300]]


@pytest.mark.parametrize("compress", [False, True])
def test_every_byte_can_be_damaged_and_every_end_be_missing(tmp_path, compress):
    """Some of these end the process within `scipy.io.loadmat`."""
    path = tmp_path / "a.mat"
    values = {"y": np.array([[1], [10]]), "X": np.arange(12, dtype=np.uint8).reshape(1, 2, 3, 2)}
    sound = saved(values, compress)
    read = 0
    for at in range(120, len(sound)):
        for value in (0, 1, 0x7F, 0xFF, sound[at] ^ 1, sound[at] ^ 0x80):
            path.write_bytes(sound[:at] + bytes([value]) + sound[at + 1 :])
            read += not is_refused(path)
        path.write_bytes(sound[:at])
        if not is_refused(path) and len(sound) - at > 7:  # fewer are padding, which may be missing
            assert matlab.read(path, values).keys() < values.keys()
    assert 0 < read < 3 * len(sound)


def test_sizes_are_compared_with_what_is_there(tmp_path, monkeypatch):
    path = tmp_path / "a.mat"
    good = array("<", (1, 3), 2, b"\x01\x0a\xff")
    for shape in ((1, 4), (-1, -3), (2**31 - 1, 2**31 - 1), (), (3, 1, -1)):
        refused(path, HEADER + array("<", shape, 2, b"\x01\x0a\xff"), "'y' has 3 bytes of numbers")
    refused(path, HEADER + array("<", (1, 3), 8, b"\x01\x0a\xff"), "numbers of type 8")
    refused(path, HEADER + good + b"\x00\x00", "ends within an element")
    refused(path, HEADER + struct.pack("<II", 14, 2**32 - 1) + good[8:], "4294967295 bytes, where")
    refused(path, HEADER + struct.pack("<HH4x", 14, 5), "of 5 bytes, where 4 are left")
    refused(path, HEADER + good[:8] + bytes(len(good) - 8), "whose class is missing")
    refused(path, HEADER + element(9, b"12345678"), "type 9, which is no array")
    refused(path, HEADER + element(15, zlib.compress(b"")), "type 0, which is no array")
    refused(path, HEADER + element(15, zlib.compress(good)[:-1]), "cut short")
    refused(path, HEADER[:124] + b"\x00\x02IM" + good, "no MATLAB file of level 5")
    refused(path, b"", "no MATLAB file of level 5")
    monkeypatch.setattr(matlab, "_MAX_UNPACKED", 1000)
    refused(path, HEADER + element(15, zlib.compress(bytes(1001))), "absurd size")
    path.write_bytes(HEADER + element(15, zlib.compress(good)))
    assert matlab.read(path, ["y"])["y"].tolist() == [[1, 10, 255]]
