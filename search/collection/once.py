"""A property that is computed once."""

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

Value = TypeVar("Value")


class once(Generic[Value]):
    """`functools.cached_property` without the lock that it has in Python 3.11.

    All instances share that lock, so that one index would wait for another, and a forked child
    for a thread that it does not have. Two threads may both compute the value here: it must come
    out the same, and the one that is stored first stays.

    Example:
        >>> class Number:
        ...     @once
        ...     def square(self):
        ...         print("computed")
        ...         return 49
        >>> seven = Number()
        >>> seven.square + seven.square
        computed
        98
    """

    def __init__(self, function: Callable[[Any], Value]) -> None:
        self._function = function
        self._name = function.__name__
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Value: ...
    def __get__(self, instance: object | None, owner: type) -> Self | Value:
        if instance is None:
            return self
        value: Value = instance.__dict__.setdefault(self._name, self._function(instance))
        return value
