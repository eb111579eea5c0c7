"""The files of a run's directory: what a run writes, and what resuming it reads.

runs/mine/
  config.json         everything the run was asked for; resuming starts from it
  plan.json           every number of the training: recipe, options of the loss, steps
  environment.json    versions, devices and the commit it ran on
  metrics.jsonl       one line per logged step, one per validation
  skipped.txt         images that could not be decoded, with the reason
  checkpoints/        the last state and the best one, to resume from
  features.safetensors  of a run on a backbone: the features of all its images
  unlabelled.safetensors  the same, of the folder unlabelled/ beside class folders
  model.safetensors   the weights, for encoding and for others to load ...
  model.json          ... and what they are the weights of
  results.json        written by `evaluation.results`, with the figures beside it
"""

import contextlib
import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxhash.config import Config, from_json, to_json
from jaxhash.environment import environment

CONFIG, PLAN, ENVIRONMENT, METRICS, SKIPPED = (
    "config.json",
    "plan.json",
    "environment.json",
    "metrics.jsonl",
    "skipped.txt",
)
UNLABELLED = "unlabelled.safetensors"
CHECKPOINTS, FEATURES, WEIGHTS, MODEL, RESULTS = (
    "checkpoints",
    "features.safetensors",
    "model.safetensors",
    "model.json",
    "results.json",
)
ORDERS = ("codes", "coarse_to_fine", "features")
"""The orders that results can be put in, cheapest first: by the distance of codes, by that of the
features of a pool of the nearest codes, by that of all features."""


# ---------------------------------------------------------------- the directory


def create(
    folder: Path | str,
    config: Config,
    *,
    plan: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Start a run directory: config.json, environment.json and, of a run that trains, plan.json.

    With `overwrite`, what an earlier run left in the folder is removed first; nothing but a run
    directory is ever removed.

    Raises:
        FileExistsError: the folder holds a run, and `overwrite` was not given; or it holds
            something else.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_config(create(folder + "/run", Config(bits=12))).bits
        12
    """
    folder = Path(folder)
    check_free(folder, overwrite=overwrite)
    if (folder / CONFIG).is_file():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / ENVIRONMENT, environment())
    if plan is not None:
        write_json(folder / PLAN, plan)
    write_json(folder / CONFIG, to_json(config))
    return folder


@contextlib.contextmanager
def undone_if_refused(folder: Path | str | None) -> Iterator[None]:
    """Within it a ValueError removes the run that `create` made; any other error leaves it.

    Its images or options cannot be used, so it could not be resumed, and what is asked for in its
    place finds the folder free.

    Args:
        folder: of the run; None to remove nothing.

    Example:
        >>> with undone_if_refused("runs/photos"):  # doctest: +SKIP
        ...     check(features)
    """
    try:
        yield
    except ValueError:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def check_free(folder: Path | str, *, overwrite: bool = False) -> None:
    """Refuse a folder that `create` would refuse.

    Raises:
        FileExistsError: the folder holds a run, and `overwrite` was not given; or it holds
            something else.
        NotADirectoryError, PermissionError: it cannot be made where it is to be.
    """
    folder = Path(folder)
    above = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if above != folder and not above.is_dir():
        raise NotADirectoryError(f"{folder} cannot be made: {above} is a file")
    if above.is_dir() and not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"{above} may not be written to; name another folder")
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / CONFIG).is_file():
        raise FileExistsError(f"{folder} exists and is not a run directory; name another folder")
    if not overwrite:
        raise FileExistsError(
            f"{folder} already holds a run; continue it with resume=True, replace it with "
            f"overwrite=True, or name another folder"
        )


def load_config(folder: Path | str) -> Config:
    """The configuration a run directory was made with.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: its config.json cannot be read.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"no run in {folder}; train one there, or name the folder of another"
        )
    return from_json(read_json(path), source=str(path))


def best_order(folder: Path | str) -> str | None:
    """The order of results that an evaluation of the run found best; None before there is one.

    Returns:
        One of `ORDERS`, or None.

    Example:
        >>> best_order("runs/photos")  # doctest: +SKIP
        'codes'
    """
    path = Path(folder) / RESULTS
    try:
        status = path.stat()
    except OSError:
        return None
    return _order_in(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=64)  # every query asks, and an evaluation writes another file
def _order_in(path: Path, changed: int, size: int) -> str | None:
    try:
        order = read_json(path).get("order")
    except (ValueError, OSError):
        return None  # damaged: as if there were none, as queries can do without
    return order if order in ORDERS else None


def differences(config: Config, other: Config) -> list[str]:
    """The names of the fields in which two configurations differ.

    Example:
        >>> differences(Config(bits=12), Config(bits=24))
        ['bits']
    """
    return [
        one.name
        for one in dataclasses.fields(Config)
        if getattr(config, one.name) != getattr(other, one.name)
    ]


def write_skipped(folder: Path | str, skipped: Iterable[tuple[Any, str]]) -> None:
    """List the images that could not be decoded, one path and reason a line."""
    lines = [f"{path}\t{reason}\n" for path, reason in skipped]
    if lines:
        write_text(Path(folder) / SKIPPED, "".join(lines))


# ---------------------------------------------------------------- files that are whole or absent


def write_text(path: Path, text: str) -> None:
    """Write a file that is whole or as it was before."""
    from search.files.atomic import replacing  # late: with it comes all of the search

    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, whole or not at all.

    Raises:
        ValueError: a number is not finite, which JSON cannot hold.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: the file is no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object")
    return value
