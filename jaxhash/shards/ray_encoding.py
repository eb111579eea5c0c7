"""Encode the shards of a folder on a Ray cluster, with Ray Data.

One row of the data is one shard: what is done, and what a rerun has to do, is in the folder alone.
"""

import logging
import os
import platform
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxhash.models import Model
from jaxhash.shards import folder as folders
from jaxhash.shards.cluster import joined
from jaxhash.shards.encoding import check_model, check_share, encode_shard
from jaxhash.shards.folder import Manifest
from search.shards import file_name

SHARD, ERROR = "shard", "error"
"""Columns: what to encode, and what is wrong with it; "" for nothing."""
OF_SYSTEM = "system: "
"""What an error of the system, which may be gone another time, begins with on its way."""


class EncodeShards:
    """What a process of the cluster does with a row: the shard that it names, unless it is done.

    Args:
        model: Ray's reference to it, so that no other machine needs its files.
        folder: of the shards, which all machines share.
        batch_size: images per call of the network; its own number by default.
    """

    def __init__(self, model: Any, folder: str, batch_size: int | None = None) -> None:
        import ray

        self.model: Model = ray.get(model)
        self.folder, self.batch_size = folder, batch_size

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Encode; the rows come back, with what is wrong, as Ray would bury it in its own words."""
        errors = [self._encode(shard) for shard in rows[SHARD].tolist()]
        return rows | {ERROR: np.array(errors)}

    def _encode(self, shard: int) -> str:
        where = platform.node()
        try:
            manifest = folders.load(self.folder)
            where += f", {file_name(shard, manifest.shards)}"
            with folders.held(folders.lock_of(self.folder, shard)):
                if not folders.is_done(self.folder, manifest, shard):
                    encode_shard(
                        self.model, self.folder, manifest, shard, batch_size=self.batch_size
                    )
        except FileNotFoundError as error:
            return f"{OF_SYSTEM}{where}: not all machines see the same files; {error}"
        except ValueError as error:
            return str(error)
        except OSError as error:
            return f"{OF_SYSTEM}{where}: {error}"
        return ""


def encode_on_ray(
    model: Model,
    folder: str | os.PathLike[str],
    *,
    address: str = "local",
    workers: int = 1,
    resources: Mapping[str, float] | None = None,
    batch_size: int | None = None,
    max_undecodable: float = 0.01,
    on_shard: Callable[[int], None] | None = None,
) -> Manifest:
    """Encode every shard of a folder that is not done, on the machines of a Ray cluster.

    Bit for bit what one process encodes. A process or machine that is lost costs its shard, which
    Ray gives to another one; where this process is lost, the same call goes on.

    Args:
        model: the one that the folder was begun with.
        folder: of the shards, under the same path on all machines.
        address: of the cluster; "local" starts one of this machine alone, which ends with the
            call, and "auto" takes the one that runs here.
        workers: most processes at a time; Ray starts fewer where the cluster has no room.
        resources: of each of them, such as {"GPU": 1}; {"CPU": 1} by default.
        batch_size: images per call of the network; its own number by default.
        max_undecodable: largest share of all images that may turn out to be unreadable.
        on_shard: called with the number of each shard that is done.

    Returns:
        The manifest.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ConnectionError: there is no such cluster.
        ValueError: the model is another one, or more images than that cannot be decoded.
        OSError: an image cannot be read now, a disk is full, or a machine does not share the
            folder; what is done stays done.

    Example:
        >>> encode_on_ray(model, "photos.index/", address="auto", workers=8)  # doctest: +SKIP
    """
    folder = os.path.abspath(folder)
    manifest = folders.load(folder)
    check_model(manifest, model)
    todo = folders.missing(folder, manifest)
    wanted = dict(resources or {"CPU": 1})
    with joined(address, needs="ray.data"):
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)  # a warning says that bars are off
        ray.data.DataContext.get_current().enable_progress_bars = False
        reference = ray.put(model)  # lives as long as actors may be started again
        if todo:
            rows = ray.data.from_items(
                [{SHARD: shard} for shard in todo], override_num_blocks=len(todo)
            ).map_batches(
                EncodeShards,
                fn_constructor_args=(reference, folder, batch_size),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, workers)),
                num_cpus=wanted.pop("CPU", None),
                num_gpus=wanted.pop("GPU", None),
                resources=wanted or None,
            )
            for row in rows.iter_rows():
                if row[ERROR]:
                    kind = OSError if row[ERROR].startswith(OF_SYSTEM) else ValueError
                    raise kind(row[ERROR].removeprefix(OF_SYSTEM))
                if on_shard is not None:
                    on_shard(int(row[SHARD]))
    check_share(folder, manifest, list(folders.left_out(folder, manifest)), max_undecodable)
    return manifest
