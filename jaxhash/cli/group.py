"""What the commands that several processes can run together have in common."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """Options of a command that several processes run together."""

    coordinator: str | None = None
    """Several processes work together: host:port of the first one, or auto where jax knows the
    launcher (Slurm, Open MPI, TPU pods)."""
    processes: int | None = None
    """How many processes work together."""
    process: int | None = None
    """The number of this process, from 0."""


def join(group: Group, *, notices: bool = False) -> bool:
    """Find the others; whether this is the process that writes and prints.

    notices: as in `processes.join`.

    Raises:
        ValueError: options are missing, or cannot be.
    """
    import jax

    from jaxhash import processes

    processes.join(group.coordinator, group.processes, group.process, notices=notices)
    return jax.process_index() == 0
