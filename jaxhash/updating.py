"""Bring an index up to date with a folder: encode what is new or changed, drop what is gone."""

import copy
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxhash import encoding, known_features
from jaxhash.data import Images, folders
from jaxhash.data.listing import Aside, no_image, shown, walk
from jaxhash.items import files
from jaxhash.items.files import Differences, Stat
from jaxhash.items.records import ItemRecords, relative_to
from jaxhash.models import Model
from search import HashIndex

CHECKPOINT = 60.0
"""Seconds between the states that a long update saves; more where saving takes long."""
_SHARE = 20  # saving takes at most one part in so many of the time


class Changes(NamedTuple):
    """What an update did: numbers of files.

    added: new in the index. changed: encoded again under their ids. moved: known under another
    name. removed: gone, and dropped. unchanged: as they were. left_out: could not be decoded.
    passed: files that are no images, by kind.
    """

    added: int = 0
    changed: int = 0
    moved: int = 0
    removed: int = 0
    unchanged: int = 0
    left_out: int = 0
    passed: Mapping[str, int] = MappingProxyType({})

    def __str__(self) -> str:
        counts = zip((name.replace("_", " ") for name in self._fields), self[:6], strict=False)
        return ", ".join(f"{count:,} {name}" for name, count in counts if count) or "nothing there"


class Folder(NamedTuple):
    """The image files of a folder: path from the folder -> stat, and what else there is."""

    root: str
    files: dict[str, Stat]
    aside: Aside


def look(root: str | os.PathLike[str]) -> Folder:
    """List the image files below a folder, with their sizes and times.

    Raises:
        ValueError: there is no such folder, or no image in it.

    Example:
        >>> look("photos").files["beach.jpg"].size  # doctest: +SKIP
        3145728
    """
    real = os.path.realpath(root)
    if not os.path.isdir(real):
        raise ValueError(f"{shown(root)}: no such folder")
    aside = Aside()
    there = {}
    begins = len(os.path.join(real, ""))
    for path in walk(real, aside):
        now = files.stat(path)
        if now is None:
            aside.skipped.append((shown(path), "cannot be looked at"))
        else:
            there[path[begins:].replace(os.sep, "/")] = now
    if not there:
        raise ValueError(no_image(root, aside))
    return Folder(real, there, aside)


def compare(records: ItemRecords, ids: np.ndarray, folder: Folder) -> Differences:
    """What became of the files of an index's items, see `items.files.compare`.

    Files below a folder that cannot be listed are taken to be as they were.

    Raises:
        ValueError: none of the index's files is there.
    """
    known = records.ids_by_path(ids)
    hidden = tuple(
        relative_to(path, folder.root, folder.root) + "/" for path in folder.aside.unread
    )
    unseen = [item for path, item in known.items() if hidden and path.startswith(hidden)]
    known = {path: item for path, item in known.items() if not path.startswith(hidden or "\0")}
    states = np.zeros(int(ids.max(initial=-1)) + 1, files.STATE)
    states[: len(records.files)] = records.files[: len(states)]

    def digests(paths: Sequence[str]) -> Iterator[bytes | None]:
        if not paths:
            return iter(())
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            whole = [os.path.join(folder.root, path) for path in paths]
            return iter(list(pool.map(files.digest, whole)))

    # Files from elsewhere, which were added one by one, are looked for where they were.
    elsewhere = {path: files.stat(path) for path in known if os.path.isabs(path)}
    there = folder.files | {path: now for path, now in elsewhere.items() if now is not None}
    found = files.compare(known, states, there, digests)
    if known and len(found.gone) == len(known):
        raise ValueError(
            f"{shown(folder.root)}: none of the {len(known):,} images of the index is here; give "
            "the folder that it was made of, or make another index"
        )
    found.same += unseen
    return found


class Work(NamedTuple):
    """A file to encode: its path from the folder, its state, and its id if it has one already."""

    path: str
    now: Stat
    item: int | None


Save = Callable[[HashIndex, ItemRecords], HashIndex]
"""Writes a state of an index, and returns the codes to go on with."""
Failed = list[tuple[Work, str]]


def update(
    model: Model,
    codes: HashIndex,
    records: ItemRecords,
    folder: Folder,
    save: Save,
    *,
    max_undecodable: float = 1.0,
    on_start: Callable[[int], None] | None = None,
    on_skipped: Callable[[str, str], None] | None = None,
    **options: Any,
) -> tuple[HashIndex, ItemRecords, Changes]:
    """Bring codes and records up to date with a folder; what was given stays as it is.

    Args:
        model: made the codes.
        codes: the index.
        records: what it knows of its items.
        folder: what there is now.
        save: called now and then, and at the end unless there was nothing to do.
        max_undecodable: largest share of the folder's files that may fail, 0..1.
        on_start: told how many files are to be encoded.
        on_skipped: called with path and reason of each file that cannot be decoded.
        options: of `take_in`.

    Raises:
        ValueError: none of the index's files is there, or too many cannot be decoded; nothing has
            been saved then.
    """
    root = records.card.get("root")
    codes, records = copy.copy(codes), records.copy()
    found = compare(records, codes.ids, folder)
    # A file that could not be decoded is not tried again until it changes.
    known = {
        path: (now, reason)
        for path, (now, reason) in records.left_out.items()
        if found.new.get(path) == now
    }
    work = [Work(path, now, item) for item, (path, now) in found.changed.items()]
    work += [Work(path, now, None) for path, now in found.new.items() if path not in known]
    work, failed = _readable(folder.root, work)
    if failed:
        bad = [(path, reason) for path, (_, reason) in known.items()]
        bad = [(one.path, reason) for one, reason in failed] + bad
        folders.refuse_too_many(Path(folder.root), bad, len(folder.files), max_undecodable)
    nothing = not (work or failed or found.touched or found.moved or found.gone)
    nothing &= known == records.left_out and root == folder.root

    records.card |= {"data": folder.root, "root": folder.root}
    records.root = folder.root
    records.left_out = known
    for item, now in found.touched.items():
        records.set_state(item, now)
    for item, (path, now) in found.moved.items():
        records.put(item, path, now, None)
    drop(codes, records, found.gone)
    if on_start is not None:
        on_start(len(work))
    codes, more = take_in(model, codes, records, work, save=save, **options)
    failed += more
    for one, reason in failed:
        records.left_out[one.path] = (one.now, reason)
        if on_skipped is not None:
            on_skipped(os.path.join(folder.root, one.path), reason)
    # The old code of a file that is damaged now stands for pixels that nobody can see any more.
    drop(codes, records, [one.item for one, _ in failed if one.item is not None])
    if not nothing:
        codes = save(codes, records)
    new = sum(one.item is None for one in work) - sum(one.item is None for one, _ in more)
    changes = Changes(
        added=new,
        changed=len(work) - len(more) - new,
        moved=len(found.moved),
        removed=len(found.gone),
        unchanged=len(found.same) + len(found.touched),
        left_out=len(records.left_out),
        passed=dict(folder.aside.passed),
    )
    return codes, records, changes


def drop(codes: HashIndex, records: ItemRecords, ids: Sequence[int]) -> None:
    """Remove items, and what is known of them."""
    if ids:
        codes.remove(ids)
        records.forget(ids)


def take_in(
    model: Model,
    codes: HashIndex,
    records: ItemRecords,
    work: Sequence[Work],
    *,
    features: str | None = "float16",
    batch_size: int | None = None,
    on_batch: Callable[[int], None] | None = None,
    save: Save | None = None,
    checkpoint: float = CHECKPOINT,
) -> tuple[HashIndex, Failed]:
    """Encode files into an index, batch by batch, under their ids or new ones.

    Args:
        model: made the codes.
        codes: the index, which is changed.
        records: what it knows of its items, which is changed with it.
        work: the files.
        features: "float16", "float32" or None for none, where the index has no items yet.
        batch_size: images per call of the network; its own number by default.
        on_batch: called with the number of images of each batch that is done.
        save: called now and then.
        checkpoint: seconds between that, see `CHECKPOINT`; 0 for after every batch.

    Returns:
        The codes, and (work, reason) of files that could not be decoded.
    """
    if not work:
        return codes, []
    if len(codes):
        kept = codes.get([])[1]
        features = None if kept is None else str(kept.dtype)
    images = Images(
        [os.path.join(records.root or "", one.path) for one in work],
        size=model.spec.item_shape[0],
        channels=1 if model.spec.item_shape[2] == 1 else 3,
    )
    images.keep_digests()
    failed: Failed = []
    saved, cost = time.monotonic(), 0.0
    for rows, part in encoding.batches(
        model,
        images,
        batch_size=batch_size,
        features=features or "float16",
        keep=("codes",) if features is None else ("codes", "features"),
        on_undecodable=lambda row, reason: failed.append((work[row], reason)),
        known=known_features.find(model) if len(work) >= model.spec.batch // 2 else None,
    ):
        for old in (True, False):
            here = np.array([(work[row].item is not None) == old for row in rows], bool)
            chosen = [work[row] for row in rows[here]]
            ids = np.array([one.item for one in chosen], np.int64) if old else None
            fine = None if part.features is None else part.features[here]
            given = codes.add(part.codes[here], fine, ids, replace=old)
            for row, one, item in zip(rows[here], chosen, given.tolist(), strict=True):
                assert images.digests is not None
                records.put(item, one.path, one.now, images.digests[row])
        if on_batch is not None:
            on_batch(len(rows))
        pause = max(checkpoint, _SHARE * cost) if checkpoint else 0
        if save is not None and time.monotonic() - saved >= pause:
            begun = time.monotonic()
            codes = save(codes, records)
            saved = time.monotonic()
            cost = saved - begun
    return codes, failed


def _readable(root: str, work: list[Work]) -> tuple[list[Work], Failed]:
    """Files whose headers are sound, in the order of their names, and those whose are not."""
    work = sorted(work, key=lambda one: one.path)
    kept, _, bad = folders.scan([os.path.join(root, one.path) for one in work], None)
    reasons = dict(bad)
    failed = [
        (one, reasons[path])
        for one in work
        if reasons and (path := os.path.join(root, one.path)) in reasons
    ]
    return [work[row] for row in kept], failed
