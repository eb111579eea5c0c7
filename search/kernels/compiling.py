"""How every kernel is compiled: kept on disk where possible, without the GIL, unchecked."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled_with(**more: Any) -> Callable[[Function], Function]:
    """`compiled` with further options of `numba.njit`, such as `fastmath`."""
    return lambda function: compiled(function, **more)


def compiled(function: Function, **more: Any) -> Function:
    """Compile a kernel at its first call, and keep the result on disk when a folder allows it.

    numba refuses to define a cached function where neither the source's folder nor the user's
    cache folder can be written; such a kernel is then compiled anew in every process. Under
    `NUMBA_DISABLE_JIT=1` the function stays plain Python.

    Example:
        >>> @compiled
        ... def twice(x):
        ...     return 2 * x
        >>> twice(21)
        42
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", **more}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        return numba.njit(**options)(function)
