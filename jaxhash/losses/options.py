"""Checks of the options that people give to losses; all run while a loss is traced."""

import math
import numbers
from typing import Any


def number(
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
    whole: bool = False,
) -> None:
    """Refuse what is no finite number within the bounds; None stands for a default and passes.

    Raises:
        ValueError: the message names the option and what it can be.

    Example:
        >>> number("margin", "wide", above=0)
        Traceback (most recent call last):
        ...
        ValueError: margin is 'wide'; give a number above 0
    """
    if value is None:
        return
    kind = numbers.Integral if whole else numbers.Real
    known = not isinstance(value, bool) and isinstance(value, kind) and math.isfinite(value)
    if known and above < value < below and at_least <= value <= at_most:
        return
    bounds = {"above": above, "at least": at_least, "below": below, "at most": at_most}
    limits = " and ".join(f"{word} {one:g}" for word, one in bounds.items() if math.isfinite(one))
    raise ValueError(f"{name} is {value!r}; give a {'whole ' * whole}number {limits}".rstrip())
