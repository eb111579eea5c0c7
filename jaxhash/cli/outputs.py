"""Files that a command is to write: looked at before the work."""

import os
from pathlib import Path


def check(path: Path) -> None:
    """Refuse a file that cannot be written where it is to be.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: naming what is in the way.

    Example:
        >>> check(Path("nowhere/photos.index"))
        Traceback (most recent call last):
        FileNotFoundError: nowhere: no such folder to write photos.index into
    """
    folder = path.parent
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder to write {path.name} into")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} may not be written to; name another place for {path.name}")
