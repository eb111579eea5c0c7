"""Packing bits into codes and back, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search import pack, unpack
from search.codes import check_bits, check_count, pad_mask, validate, width


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_unpack_inverts_pack(bits, count, seed):
    truth = np.random.default_rng(seed).integers(0, 2, (count, bits))
    codes = pack(truth)
    assert codes.shape == (count, width(bits))
    assert codes.dtype == np.uint8
    np.testing.assert_array_equal(unpack(codes, bits), truth)
    np.testing.assert_array_equal(pack(truth.astype(bool)), codes)
    np.testing.assert_array_equal(pack(truth.astype(np.float32)), codes)


def test_first_bit_is_the_highest_and_padding_is_zero():
    np.testing.assert_array_equal(pack([[1, 0, 0, 0, 0, 0, 0, 0, 1, 1]]), [[128, 192]])
    assert pad_mask(10) == 192
    assert pad_mask(16) == 255


def test_unpack_ignores_pad_bits():
    np.testing.assert_array_equal(unpack(np.array([[255]], np.uint8), 3), [[1, 1, 1]])


def test_unpack_takes_all_bits_when_none_are_given():
    assert unpack(np.zeros((2, 3), np.uint8)).shape == (2, 24)


@pytest.mark.parametrize(
    ("bits", "problem"),
    [
        ([1, 0], "shape"),
        (np.zeros((2, 0)), "bits must be between"),
        (np.zeros((1, 4097)), "bits must be between"),
        ([[0, 2]], "0 or 1"),
        ([[0.5, 1.0]], "0 or 1"),
        ([[np.nan, 1.0]], "0 or 1"),
    ],
)
def test_pack_refuses(bits, problem):
    with pytest.raises(ValueError, match=problem):
        pack(bits)


@pytest.mark.parametrize(
    ("codes", "bits", "kind", "problem"),
    [
        ([[1]], 8, TypeError, "codes must be a NumPy array of uint8"),
        (np.zeros((1, 1), np.int8), 8, TypeError, "int8"),
        (np.zeros(8, np.uint8), 8, ValueError, "shape"),
        (np.zeros((2, 2), np.uint8), 17, ValueError, "3 bytes in a row for bits=17"),
        (np.zeros((2, 2), np.uint8), 8, ValueError, "1 bytes in a row"),
        (np.zeros((2, 2), np.uint8), 0, ValueError, "bits must be between"),
        (np.zeros((2, 2), np.uint8), 16.0, TypeError, "bits must be a whole number"),
        (np.zeros((2, 1), np.uint8), True, TypeError, "bits must be a whole number"),
        (np.zeros((2, 0), np.uint8), None, ValueError, "at least one byte"),
    ],
)
def test_validate_refuses(codes, bits, kind, problem):
    with pytest.raises(kind, match=problem):
        validate(codes, bits)


def test_checks_take_numpy_integers():
    assert check_bits(np.int64(4096)) == 4096
    assert check_count(np.uint8(3), "k") == 3
    with pytest.raises(ValueError, match="k must not be negative"):
        check_count(-1, "k")
    with pytest.raises(TypeError, match="k must be a whole number"):
        check_count(2.5, "k")
    with pytest.raises(TypeError, match="k must be a whole number"):
        check_count(True, "k")
