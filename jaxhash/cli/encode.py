"""Encode images with a trained network into an index of binary codes.

    jaxhash encode --run runs/photos --data photos/ --out photos.index

Some hundred images a second on two CPU cores with the default network, and any number of them in
the same memory; leaves photos.index with codes, features and paths, for jaxhash query. The data
is a folder of image files, at any depth, or whatever jaxhash train takes for --data. With --update,
only what is new or changed since is encoded.

    jaxhash encode --run runs/uc_merced --data uc_merced --out features.npz

writes the features instead, as data that jaxhash train takes; at once where the run has kept them.

    jaxhash encode --run runs/photos --data photos/ --shards 20 --out photos.index/

writes a folder of 20 index files instead. The same command goes on where it was broken off, on any
number of machines that share the folder. Here the data can also be a list of paths (.txt), tar
files as photos-{000..099}.tar, array_records, or remote ones of these (s3://, gs://). With
--coordinator several processes share the images, as in jaxhash train.
"""

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from jaxhash.cli import group, outputs
from jaxhash.cli.command import Command
from jaxhash.cli.group import Group

if TYPE_CHECKING:
    from jaxhash.data import Dataset
    from jaxhash.models import Model


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
    """Number type in which an index keeps features, for coarse-to-fine search; none keeps the codes
    alone. Default: float16."""
    batch_size: int | None = None
    """Images per call of the network. Default: what the network is meant for, mostly 256."""
    max_undecodable: float | None = None
    """Share of a folder's image files that may fail to decode. Default: 0.01."""
    overwrite: bool = False
    """Replace a file that is there."""
    shards: int | None = None
    """Number of index files to write, in a folder; each appears only when it is complete."""
    workers: int = 1
    """Processes that encode shards, on this machine or with --ray. One uses all GPUs of its machine
    by itself; several are for CPUs."""
    ray: str | None = None
    """Encode shards on a Ray cluster: its address, or local to start one of this machine alone."""
    ray_resources: dict[str, float] | None = None
    """What each process on the cluster needs, such as GPU 1. Default: CPU 1."""
    update: bool = False
    """Bring the index of a folder up to date, or begin it: encode new and changed files, drop those
    that are gone, keep ids. The same command continues an update that was broken off."""
    columns: Path | None = None
    """CSV file with a column path and others, which queries then give back and filter by."""
    group: Annotated[Group, tyro.conf.arg(name="")] = field(default_factory=Group)


def encode(options: Encode) -> None:
    """Encode as the options say."""
    for name in ("update", "ray"):
        if options.group.coordinator is not None and getattr(options, name):
            raise ValueError(
                f"--{name} is for one process, and --coordinator for several; give one of them"
            )
    first = group.join(options.group)
    from jaxhash import processes
    from jaxhash.cli.shards import encode_shards, is_for_shards

    if processes.of_first(lambda: is_for_shards(options)):
        encode_shards(options, first)
        return
    processes.first(lambda: _check(options))
    if options.out.suffix == ".npz":
        _write_features(options, first)
    elif options.update:
        _update(options)
    else:
        _encode_all(options, first)


def _check(options: Encode) -> None:
    """Refuse, before anything is loaded, options that would fail or contradict each other."""
    index_only = ("part", "features", "columns", "update")
    if options.out.exists() and not options.overwrite and not options.update:
        raise FileExistsError(
            f"{options.out} exists; replace it with --overwrite, or bring an index up to date with "
            "--update"
        )
    if options.batch_size is not None and options.batch_size < 1:
        raise ValueError(f"--batch-size is {options.batch_size}; give at least 1")
    for name in index_only:
        if options.out.suffix == ".npz" and getattr(options, name):
            raise ValueError(
                f"--{name} is for an index; an .npz file keeps all items, with their features as "
                "float32, and with their parts by name"
            )
    for name in ("part", "overwrite", "data_dir"):
        if options.update and getattr(options, name):
            raise ValueError(
                f"--update brings an index up to date with a folder of images; leave out "
                f"--{name.replace('_', '-')}"
            )
    outputs.check(options.out)
    if options.columns is not None and not options.columns.is_file():
        raise FileNotFoundError(f"{options.columns}: no such file of columns")


def _write_features(options: Encode, first: bool) -> None:
    """Write the features of all items, as data to train on."""
    from tqdm import tqdm

    from jaxhash.feature_files import write_features
    from jaxhash.training import kept_features

    model, dataset = _load(options)
    passed = dataset.passed
    kept = kept_features.of_model(options.run, model, dataset)
    if kept is not None and len(kept.rows) == len(dataset):
        if first:
            print("the run has kept features of these images, and they are taken")
        model = kept_features.head_of(model, kept.features.shape[1])
        dataset = dataclasses.replace(dataset, kind="features", items=kept.features)
    with tqdm(total=len(dataset), unit="image", unit_scale=True, disable=not first) as bar:
        write_features(
            model,
            dataset,
            options.out,
            batch_size=options.batch_size,
            together=True,
            on_batch=bar.update,
        )
    if not first:
        return
    _say_passed(passed)
    print(f"{options.out}: features of {len(dataset)} items")


def _update(options: Encode) -> None:
    """Encode only what is new or changed."""
    from tqdm import tqdm

    from jaxhash import index_files
    from jaxhash.data.listing import shown

    index = index_files.open_or_begin(options.out, options.run, options.data)
    kept = index.codes.get([])[1]
    if len(index) and options.features not in (None, "none" if kept is None else str(kept.dtype)):
        raise ValueError(
            f"--features is {options.features}, and the index keeps "
            f"{'codes alone' if kept is None else kept.dtype}; leave it out, or make another index"
        )
    left_out: list[tuple[str, str]] = []
    with tqdm(unit="image", unit_scale=True, leave=False) as bar:
        changes = index.update(
            options.data,
            columns=options.columns,
            features=_features(options),
            batch_size=options.batch_size,
            max_undecodable=0.01 if options.max_undecodable is None else options.max_undecodable,
            on_start=bar.reset,
            on_batch=bar.update,
            on_skipped=lambda path, reason: left_out.append((path, reason)),
        )
    for path, reason in left_out:
        print(f"left out {shown(path)}: {reason}")
    _say_passed(changes.passed)
    print(f"{options.out}: {changes}")
    _say_size(options.out, len(index), index.codes.bits)


def _encode_all(options: Encode, first: bool) -> None:
    """Encode everything into a new index."""
    import jax
    from tqdm import tqdm

    from jaxhash import encoding, image_index, known_features, processes, retrieval
    from jaxhash.data.listing import shown
    from search.files.locking import alone

    model, dataset = _load(options)
    rows = None
    if options.part is not None:
        if options.part not in dataset.parts:
            raise ValueError(
                f"--part is {options.part!r}: {dataset.name} has {', '.join(dataset.parts)}"
            )
        rows = dataset.parts[options.part]
    total = len(dataset) if rows is None else len(rows)
    records = retrieval.records(model, dataset, options.data, options.data_dir)

    def take_columns() -> None:
        if options.columns is None:
            return
        unknown = image_index.take_columns(records, options.columns)
        for path in unknown[:5]:
            print(f"{options.columns}: there is no image {shown(path)}")
        if len(unknown) > 5:
            print(f"{options.columns}: and none of {len(unknown) - 5} others")

    processes.first(take_columns)
    known = None if jax.process_count() > 1 else known_features.find(model)
    if known is not None:
        print("features that the run has kept are taken, of files with the same bytes")
    with contextlib.ExitStack() as stack:
        if first:
            stack.enter_context(alone(options.out))
        bar = stack.enter_context(
            tqdm(total=total, unit="image", unit_scale=True, disable=not first)
        )
        skipped = encoding.encode_to_index(
            model,
            dataset.items,
            options.out,
            rows=rows,
            batch_size=options.batch_size,
            features=_features(options),
            attachments=retrieval.once_encoded(records, dataset),
            together=True,
            known=known,
            on_batch=bar.update,
        )
    if not first:
        return
    for path, reason in dataset.skipped:
        print(f"left out {path}: {reason}")
    for row, reason in skipped:
        print(f"left out {shown(dataset.paths[row]) if dataset.paths else row}: {reason}")
    _say_passed(dataset.passed)
    _say_size(options.out, total - len(skipped), model.bits)


def _load(options: Encode) -> "tuple[Model, Dataset]":
    import jax

    from jaxhash import models, processes, retrieval

    def load() -> "tuple[Model, Dataset]":
        model = models.load(options.run)
        dataset = retrieval.load_items(
            options.data,
            model,
            data_dir=options.data_dir,
            max_undecodable=options.max_undecodable,
            labelled=options.part is not None or options.out.suffix == ".npz",
        )
        return model, dataset

    model, dataset = processes.every(load)
    if jax.process_count() > 1:
        names = None if dataset.paths is None else [Path(one).name for one in dataset.paths]
        # Batches and numbers of images are compared where they are encoded.
        processes.check_same({"model": models.fingerprint(model), "order of the images": names})
    return model, dataset


def _features(options: Encode) -> str | None:
    return None if options.features == "none" else options.features or "float16"


def _say_passed(passed: Mapping[str, int]) -> None:
    from jaxhash.data.listing import counted

    if passed:
        print(f"passed over, as they are no images: {counted(passed.items())}")


def _say_size(path: Path, count: int, bits: int) -> None:
    size = path.stat().st_size
    shown = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
    print(f"{path}: {count} codes of {bits} bits, {shown}")


COMMAND = Command(
    "jaxhash encode",
    __doc__,
    Encode,
    encode,
    common=(
        *("run", "data", "out", "update", "columns", "features", "overwrite"),
        "shards",
    ),
    groups={
        "data": ("data", "data_dir", "part", "columns", "max_undecodable"),
        "method": ("run",),
        "output and run": ("out", "update", "features", "overwrite", "batch_size"),
        "shards": ("shards", "workers", "ray", "ray_resources"),
        "several processes": ("coordinator", "processes", "process"),
    },
)
