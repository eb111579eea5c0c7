"""How long each stage of a piece of work takes."""

import time
from collections.abc import Callable


class Stopwatch:
    """Seconds of stages that follow each other; call it with the name of the one that begins.

    Args:
        on_stage: told the name as well.

    Example:
        >>> watch = Stopwatch()
        >>> watch("first")
        >>> watch("second")
        >>> list(watch.stop())
        ['first', 'second']
    """

    def __init__(self, on_stage: Callable[[str], None] = lambda name: None) -> None:
        self.seconds: dict[str, float] = {}
        self._on_stage = on_stage
        self._since: tuple[str, float] | None = None

    def __call__(self, name: str) -> None:
        """End the stage before, if any, and begin another."""
        self.stop()
        self._on_stage(name)
        self._since = name, time.perf_counter()

    def stop(self) -> dict[str, float]:
        """End the last stage; the seconds of all of them."""
        if self._since is not None:
            name, start = self._since
            self.seconds[name] = round(time.perf_counter() - start, 3)
            self._since = None
        return self.seconds
