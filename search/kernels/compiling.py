"""How every kernel is compiled: kept on disk where possible, without the GIL, unchecked."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba

from search.kernels.keeping import cache_for

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled_with(**more: Any) -> Callable[[Function], Function]:
    """`compiled` with further options of `numba.njit`, such as `fastmath`."""
    return lambda function: compiled(function, **more)


def compiled(function: Function, **more: Any) -> Function:
    """Compile a kernel at its first call, and keep the result on disk when a folder allows it.

    It is compiled for each of its arguments' types, of which a literal 0 has one of its own: other
    kernels are given `np.int64(0)`, and variables that began as one.

    Where none does, or what lies there is damaged, it is compiled anew, see
    `search.kernels.keeping`. Under `NUMBA_DISABLE_JIT=1` the function stays plain Python.

    Example:
        >>> @compiled
        ... def twice(x):
        ...     return 2 * x
        >>> twice(21)
        42
    """
    kernel = numba.njit(nogil=True, error_model="numpy", **more)(function)
    if kernel is not function:
        kernel._cache = cache_for(function)
    return kernel  # type: ignore[no-any-return]
