"""Record the environment of a measurement."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any


def environment() -> dict[str, Any]:
    """The environment of a measurement: versions, devices and commit.

    Example:
        >>> sorted(environment())
        ['commit', 'devices', 'machine', 'python', 'versions']
    """
    import jax

    versions = {}
    for name in ("jaxhash", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "numba"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "versions": versions,
        "commit": _commit(),
    }


def _commit() -> str | None:
    # Only of a checkout of this project: an installed copy may lie inside someone else's.
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() or None
