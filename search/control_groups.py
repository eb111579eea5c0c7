"""The control groups of Linux that this process is in, which is how containers set limits."""

from pathlib import Path, PurePosixPath


def folders(root: Path, controller: str) -> list[tuple[int, Path]]:
    """Where the limits of this process's groups, and of those around them, may be read.

    A limit of any of them holds, so the least counts. Source: cgroups(7).

    Args:
        root: the folder that holds `proc` and `sys`.
        controller: of version 1, `cpu` or `memory`; the one group of version 2 has all.

    Returns:
        The version, 1 or 2, with the folder, which need not exist; [] on other systems.

    Example:
        >>> folders(Path("/nothing/here"), "cpu")
        []
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return []
    found: list[tuple[int, Path]] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            version, top = 2, root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            version, top = 1, root / "sys/fs/cgroup" / controller
        else:
            continue
        # Within a container the path may be the host's, with nothing at it: then the top counts.
        own = PurePosixPath(path.lstrip("/"))
        groups = [own, *own.parents] if ".." not in own.parts else [PurePosixPath()]
        found.extend((version, top / group) for group in groups)
    return found
