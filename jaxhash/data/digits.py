"""The embedded dataset: scikit-learn's 1,797 handwritten digits, no file needed."""

import numpy as np

from jaxhash.data.dataset import Dataset
from jaxhash.data.decoding import resize

DEFAULT_SIZE = 32
TEST_SHARE = 0.2
_SPLIT_SEED = 1998  # the year the digits were published; any fixed number would do


def load(image_size: int | None = None) -> Dataset:
    """Loads the 8x8 digits of the UCI "Optical Recognition of Handwritten Digits" test set.

    Grey values 0..16 are scaled to 0..255. One fifth of each class, always the same one, is the
    test part: 1,438 training and 359 test images.

    Args:
        image_size: Side in pixels; None for 32 (bicubic from 8), 8 for the images as they are.

    Example:
        >>> load().items.shape
        (1797, 32, 32, 1)
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # 0..16 to 0..255 with 16 -> 255 exactly, in steps of 15.94 rounded to the nearest.
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    rng = np.random.default_rng(_SPLIT_SEED)
    is_test = np.zeros(len(labels), bool)
    for digit in range(10):
        rows = rng.permutation(np.flatnonzero(labels == digit))
        is_test[rows[: round(TEST_SHARE * rows.size)]] = True
    return Dataset(
        name="digits",
        kind="images",
        items=resize(pixels, DEFAULT_SIZE if image_size is None else image_size),
        labels=labels,
        parts={"train": np.flatnonzero(~is_test), "test": np.flatnonzero(is_test)},
        classes=tuple(str(digit) for digit in range(10)),
    )
