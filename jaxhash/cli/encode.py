"""Encode images with a trained network into an index of binary codes.

    jaxhash encode --run runs/photos --data photos/ --out photos.index

Some hundred images a second on two CPU cores with the default network, and any number of them in
the same memory; leaves photos.index with codes, features and paths, for jaxhash query. The data
is a folder of image files, at any depth, or whatever jaxhash train takes for --data.

    jaxhash encode --run runs/uc_merced --data uc_merced --out features.npz

writes the features instead, as data that jaxhash train takes: how a method that learns from
features is trained on top of a network.

    jaxhash encode --run runs/photos --data photos/ --shards 20 --out photos.index/

writes a folder of 20 index files instead. The same command goes on where it was broken off, and
any number of processes and machines that share the folder may run it at once. Here the data can
also be a list of paths (.txt), tar files as photos-{000..099}.tar, array_records, or remote ones
of these (s3://, gs://).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxhash.cli.command import Command


@dataclass(frozen=True)
class Encode:
    """Options of `jaxhash encode`."""

    run: Path
    """Folder of the trained run."""
    data: str
    """What to encode: a folder of images, an .npz file, a folder of .npy files, digits, or a
    tensorflow-datasets name."""
    out: Path
    """The index file to write; or an .npz file, for features with their labels and parts."""
    data_dir: str | None = None
    """Folder that holds prepared tensorflow-datasets or their original archives."""
    part: str | None = None
    """Encode only this part of the data: train, test, database, query, ... Default: all of it."""
    features: Literal["float16", "float32", "none"] | None = None
    """How an index keeps features for coarse-to-fine search; none keeps the codes alone. Default:
    float16."""
    batch_size: int | None = None
    """Images per call of the network. Default: what the network is meant for, mostly 256."""
    max_undecodable: float | None = None
    """Share of a folder's image files that may fail to decode. Default: 0.01."""
    overwrite: bool = False
    """Replace a file that is there."""
    shards: int | None = None
    """Write a folder of so many index files, each whole or not there."""
    workers: int = 1
    """Processes on this machine that encode shards. One uses all its GPUs; several are for CPUs."""


def encode(options: Encode) -> None:
    """Encode as the options say."""
    from tqdm import tqdm

    from jaxhash import encoding, models, retrieval
    from jaxhash.cli.shards import encode_shards, is_for_shards
    from jaxhash.feature_files import write_features

    if is_for_shards(options):
        encode_shards(options)
        return
    if options.out.exists() and not options.overwrite:
        raise FileExistsError(f"{options.out} exists; replace it with --overwrite")
    if options.batch_size is not None and options.batch_size < 1:
        raise ValueError(f"--batch-size is {options.batch_size}; give at least 1")
    if options.out.suffix == ".npz" and options.part is not None:
        raise ValueError("--part is for an index; an .npz file keeps all parts, by their names")
    if options.out.suffix == ".npz" and options.features is not None:
        raise ValueError("--features is for an index; an .npz file keeps them as float32")
    folder = options.out.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder to write {options.out.name} into")
    model = models.load(options.run)
    dataset = retrieval.load_items(
        options.data,
        model,
        data_dir=options.data_dir,
        max_undecodable=options.max_undecodable,
        labelled=options.part is not None or options.out.suffix == ".npz",
    )
    if options.out.suffix == ".npz":
        with tqdm(total=len(dataset), unit="image", unit_scale=True) as bar:
            write_features(
                model, dataset, options.out, batch_size=options.batch_size, on_batch=bar.update
            )
        print(f"{options.out}: features of {len(dataset)} items")
        return
    rows = None
    if options.part is not None:
        if options.part not in dataset.parts:
            raise ValueError(
                f"--part is {options.part!r}: {dataset.name} has {', '.join(dataset.parts)}"
            )
        rows = dataset.parts[options.part]
    total = len(dataset) if rows is None else len(rows)
    with tqdm(total=total, unit="image", unit_scale=True) as bar:
        skipped = encoding.encode_to_index(
            model,
            dataset.items,
            options.out,
            rows=rows,
            batch_size=options.batch_size,
            features=None if options.features == "none" else options.features or "float16",
            attachments=retrieval.attachments(model, dataset, options.data, options.data_dir),
            on_batch=bar.update,
        )
    for path, reason in dataset.skipped:
        print(f"left out {path}: {reason}")
    for row, reason in skipped:
        print(f"left out {dataset.paths[row] if dataset.paths else row}: {reason}")
    size = options.out.stat().st_size / 1e6
    print(f"{options.out}: {total - len(skipped)} codes of {model.bits} bits, {size:.1f} MB")


COMMAND = Command(
    "jaxhash encode",
    __doc__,
    Encode,
    encode,
    common=("run", "data", "out", "part", "features", "overwrite", "shards", "workers"),
    groups={
        "data": ("data", "data_dir", "part", "max_undecodable"),
        "method": ("run",),
        "output and run": ("out", "features", "overwrite", "batch_size", "shards", "workers"),
    },
)
