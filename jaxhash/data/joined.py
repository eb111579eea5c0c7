"""Several arrays read as one, without copying them together first."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxhash.data.dataset import as_rows


class Joined:
    """Arrays one behind the other along their first axis, read only where asked.

    The parts can be memory maps; a batch costs the memory of that batch and no more.

    Args:
        parts: Arrays of one shape but for the first axis.
        dtype: What a batch is converted to on reading; the dtype of the first part by default.

    Raises:
        ValueError: where there is no part, or the parts differ in shape.

    Example:
        >>> import numpy as np
        >>> pair = Joined([np.zeros((2, 3), np.float16), np.ones((1, 3), np.float16)], np.float32)
        >>> pair.shape, pair[[2, 0]][:, 0].tolist()
        ((3, 3), [1.0, 0.0])
    """

    def __init__(self, parts: Sequence[np.ndarray], dtype: Any = None) -> None:
        if not parts:
            raise ValueError("parts: there is no array to join")
        shapes = {part.shape[1:] for part in parts}
        if len(shapes) > 1:
            raise ValueError(f"parts: arrays of different shapes cannot be joined: {shapes}")
        self._parts = tuple(parts)
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self._dtype = np.dtype(parts[0].dtype if dtype is None else dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, ...) of the whole."""
        return (int(self._starts[-1]), *self._parts[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of what indexing returns."""
        return self._dtype

    def __len__(self) -> int:
        """Number of rows in all parts."""
        return int(self._starts[-1])

    def __getitem__(self, index: Any) -> np.ndarray:
        """The rows an integer, a slice, integers or a boolean mask names, copied into an array."""
        rows, single = as_rows(index, len(self))
        out = np.empty((rows.size, *self.shape[1:]), self._dtype)
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(owner):
            mine = owner == number
            out[mine] = self._parts[number][rows[mine] - self._starts[number]]
        return out[0] if single else out
