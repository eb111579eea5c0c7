"""SIGTERM during training: the notice that a machine is about to be taken away.

Slurm, Kubernetes and preemptible machines send it, and wait some seconds before they kill. A run
then ends at the next step that all its processes reach, with a checkpoint of it.
"""

import signal
import threading
from types import TracebackType

import jax
from jax.experimental import multihost_utils

STOPPED = 128 + 15
"""Exit code of a run that SIGTERM ended: what a shell reports of a process that it kills."""


class Stopped(Exception):
    """A run was asked to end; what it had done is in its last checkpoint."""


class Notice:
    """Whether a run has been asked to end; asked after each step.

    In one process it is SIGTERM's handler, between `with` and its end, unless the program has
    one of its own or trains outside its main thread. In a group of processes (`jax.distributed`)
    jax catches the signal, whichever of them it is sent to, and names a step soon to come to all.

    Example:
        >>> with Notice() as notice:
        ...     notice.reached(1)
        False
    """

    def __init__(self) -> None:
        self.asked = False
        self.step = 0
        self.handles = False

    def __enter__(self) -> "Notice":
        in_main = threading.current_thread() is threading.main_thread()
        free = in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        if free and not self._in_group():
            signal.signal(signal.SIGTERM, self._handle)
            self.handles = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.handles:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self.handles = False

    def reached(self, step: int) -> bool:
        """Whether to end after so many steps: the same in every process.

        All processes have to ask after the same steps.
        """
        if self._in_group():
            # jax names one step, and tells of it only who asks for that one: none is left out,
            # not even those that a resumed run had done before.
            for one in range(self.step + 1, step + 1):
                self.asked |= multihost_utils.reached_preemption_sync_point(one)
            self.step = step
        return self.asked

    def _handle(self, number: int, frame: object) -> None:
        self.asked = True

    @staticmethod
    def _in_group() -> bool:
        return (
            jax.distributed.is_initialized() and jax.config.values["jax_enable_preemption_service"]
        )
