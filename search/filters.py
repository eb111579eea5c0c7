"""Filters: which rows may be results, in the forms that the searches need."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from search.codes import refuse_subclass

Form = TypeVar("Form")


class Filter:
    """A mask over rows, and the forms that searches derive from it, kept for the next search.

    Attributes:
        allowed: bool (n,), contiguous; not to be changed.

    Example:
        >>> few = Filter(np.array([True, False]))
        >>> few.form("a database", lambda: few.allowed.sum()), few.form("a database", None)
        (np.int64(1), np.int64(1))
    """

    def __init__(self, allowed: NDArray[np.bool_]) -> None:
        self.allowed = np.ascontiguousarray(allowed)
        self._forms: dict[int, tuple[object, object]] = {}

    def form(self, database: object, make: Callable[[], Form]) -> Form:
        """The mask's form for a database: what `make` gave at the first call with it."""
        held = self._forms.get(id(database))
        if held is None:
            # Kept with the database itself, so that no other object can get its `id`.
            held = self._forms[id(database)] = database, make()
        return held[1]  # type: ignore[return-value]

    def __reduce__(self) -> tuple[object, ...]:
        return Filter, (self.allowed,)  # the forms are for objects of this process


def as_filter(allowed: NDArray[np.bool_] | Filter, count: int) -> Filter:
    """The filter of `count` rows that an argument `allowed` means.

    Raises:
        TypeError: not an array of bool.
        ValueError: of another length.
    """
    if isinstance(allowed, Filter):
        return allowed
    refuse_subclass(allowed, "allowed")
    if not isinstance(allowed, np.ndarray) or allowed.dtype != np.bool_:
        kind = getattr(allowed, "dtype", type(allowed).__name__)
        raise TypeError(f"allowed must be a NumPy array of bool, not {kind}")
    if allowed.shape != (count,):
        raise ValueError(f"allowed must have the shape ({count},), not {allowed.shape}")
    return Filter(allowed)
