"""Binary codes: bits packed into bytes, most significant bit first, the last byte zero-padded."""

import operator

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_BITS = 4096


def pack(bits: ArrayLike) -> NDArray[np.uint8]:
    """Pack rows of bits into codes.

    Args:
        bits: (n, b) of bool, or of numbers that are all 0 or 1; 1 <= b <= 4096.

    Returns:
        uint8 (n, ceil(b / 8)), most significant bit first, pad bits zero.

    Raises:
        ValueError: the shape is not (n, b), or a value is neither 0 nor 1.

    Example:
        >>> pack([[1, 0, 0, 0, 0, 0, 0, 1, 1]])
        array([[129, 128]], dtype=uint8)
    """
    refuse_subclass(bits, "bits")
    array = np.asarray(bits)
    if array.ndim != 2:
        raise ValueError(f"bits must have the shape (n, b), not {array.shape}")
    check_bits(array.shape[1])
    if array.dtype != np.bool_:
        truth = array == 1
        if not np.all(truth | (array == 0)):
            raise ValueError("bits must be 0 or 1; threshold real values first")
        array = truth
    return np.packbits(array, axis=1)


def unpack(codes: NDArray[np.uint8], bits: int | None = None) -> NDArray[np.uint8]:
    """Unpack codes into rows of bits: the inverse of `pack`.

    Args:
        codes: uint8 (n, ceil(bits / 8)).
        bits: number of bits in a code; all of them when left out.

    Returns:
        uint8 (n, bits) of 0 and 1.

    Raises:
        TypeError, ValueError: as `validate`.

    Example:
        >>> unpack(np.array([[129, 128]], np.uint8), 9)
        array([[1, 0, 0, 0, 0, 0, 0, 1, 1]], dtype=uint8)
    """
    codes, bits = validate(codes, bits)
    return np.unpackbits(codes, axis=1, count=bits)


def check_bits(bits: int) -> int:
    """`bits` as an int within 1 to 4096.

    Raises:
        TypeError: `bits` is not a whole number.
        ValueError: `bits` is outside 1 to 4096.
    """
    try:
        number = operator.index(bits)
    except TypeError:
        raise TypeError(f"bits must be a whole number, not {bits!r}") from None
    if isinstance(bits, bool):
        raise TypeError(f"bits must be a whole number, not {bits!r}")
    if not 1 <= number <= MAX_BITS:
        raise ValueError(f"bits must be between 1 and {MAX_BITS}, not {number}")
    return number


def check_count(value: int, name: str) -> int:
    """`value` as an int of at least zero; `name` is the argument that an error speaks of.

    Raises:
        TypeError: `value` is not a whole number.
        ValueError: `value` is negative.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {value!r}") from None
    if isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if number < 0:
        raise ValueError(f"{name} must not be negative, but is {number}")
    return number


def check_share(value: float, name: str) -> float:
    """`value` as a float above 0 and up to 1; `name` is the argument that an error speaks of.

    Raises:
        TypeError: `value` is not a number.
        ValueError: `value` is outside that range.
    """
    if isinstance(value, bool) or not isinstance(value, (float, int, np.floating, np.integer)):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be above 0 and at most 1, not {value}")
    return float(value)


def width(bits: int) -> int:
    """Bytes in a code of `bits` bits."""
    return (bits + 7) // 8


def validate(
    codes: NDArray[np.uint8], bits: int | None = None, name: str = "codes"
) -> tuple[NDArray[np.uint8], int]:
    """Check an array of codes and settle its number of bits; the array itself is not copied.

    Args:
        codes: uint8 (n, ceil(bits / 8)), any strides.
        bits: number of bits in a code; eight a byte when left out.
        name: what an error calls the array.

    Returns:
        (codes, bits).

    Raises:
        TypeError: not an array of uint8, or `bits` not a whole number.
        ValueError: wrong shape, or `bits` does not fit the width.

    Example:
        >>> validate(np.zeros((3, 6), np.uint8))[1]
        48
    """
    refuse_subclass(codes, name)
    if not isinstance(codes, np.ndarray) or codes.dtype != np.uint8:
        kind = getattr(codes, "dtype", type(codes).__name__)
        raise TypeError(f"{name} must be a NumPy array of uint8, not {kind}; see search.pack")
    if codes.ndim != 2:
        raise ValueError(f"{name} must have the shape (n, bytes), not {codes.shape}")
    if bits is None:
        if codes.shape[1] == 0:
            raise ValueError(f"{name} must have at least one byte in a row, not {codes.shape}")
        return codes, check_bits(8 * codes.shape[1])
    bits = check_bits(bits)
    if codes.shape[1] != width(bits):
        raise ValueError(
            f"{name} must have {width(bits)} bytes in a row for bits={bits}, not {codes.shape[1]}"
        )
    return codes, bits


def validate_queries(queries: NDArray[np.uint8], bits: int) -> tuple[NDArray[np.uint8], bool]:
    """Queries as a table (q, ceil(bits / 8)), and whether it was a single one, (ceil(bits / 8),).

    Raises:
        TypeError, ValueError: as `validate`.

    Example:
        >>> validate_queries(np.array([1, 2], np.uint8), 16)
        (array([[1, 2]], dtype=uint8), True)
    """
    alone = isinstance(queries, np.ndarray) and queries.shape == (width(bits),)
    queries, _ = validate(queries[None] if alone else queries, bits, "queries")
    return queries, alone


def refuse_subclass(array: object, name: str) -> None:
    """Refuse array subclasses that index or mask by rules of their own.

    A `numpy.memmap`, and a subclass that only adds names, are accepted.

    Raises:
        TypeError: `array` is a `numpy.matrix` or a masked array; `name` is the argument.
    """
    if type(array) is np.ndarray:  # as nearly always, and told at once
        return
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{name} must be a plain NumPy array, not a masked one; its mask would be ignored; "
            "drop the masked entries, or fill them and give array.filled(...)"
        )
    if isinstance(array, np.matrix):
        raise TypeError(
            f"{name} must be a plain NumPy array, not a numpy.matrix, whose rows stay "
            "two-dimensional; give numpy.asarray(...) of it"
        )


def as_int64(array: NDArray[np.integer], name: str) -> NDArray[np.int64]:
    """Integers of any width, sign and byte order as contiguous int64.

    Raises:
        TypeError: a matrix or a masked array; `name` is the argument.
        ValueError: a value does not fit.

    Example:
        >>> as_int64(np.array([5], ">u8"), "ids")
        array([5])
    """
    refuse_subclass(array, name)
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"{name} must fit int64, but one is {array.max()}")
    return np.ascontiguousarray(array, np.int64)


def pad_mask(bits: int) -> int:
    """The bits of the last byte of a code that are in use.

    Example:
        >>> bin(pad_mask(11))
        '0b11100000'
    """
    return 0xFF & (0xFF << (-bits % 8))
