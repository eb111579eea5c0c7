"""A folder of shards: what is to be encoded, by which model, and which of it is done.

    photos.index/
      manifest.json           what all shards share: items, options, the model's fingerprint
      00003-of-00020.lines    the images of shard 3, one a line, see `jaxhash.data.places`
      00003-of-00020.index    their codes and features, once it is done

The ids of images are their lines in the whole manifest, counted from 0: shard s has those from
`s * items // shards` on. So any process can encode any shard, and an image that cannot be read
leaves a gap. A shard's card (an attachment) names manifest and model: it is done when its file
is whole and its card is that of the manifest.
"""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from jaxhash import models, retrieval, runs
from jaxhash.data import inputs
from jaxhash.data.listing import KIND_OF, shown
from jaxhash.data.places import Place, from_line, to_line
from jaxhash.models import Model
from search.files import reading
from search.files.atomic import replacing
from search.files.checksums import DamagedFile
from search.shards import file_name

MANIFEST = "manifest.json"
FORMAT = 1
LEFT_OUT = "shard/left_out"
"""Attachment of a shard: JSON list of (id, reason) for the images that cannot be decoded."""


@dataclass(frozen=True)
class Manifest:
    """What all shards of a folder share.

    Attributes:
        data: what was listed.
        items: number of images.
        shards: number of shards.
        lines: SHA-256 of all lines.
        model: fingerprint of the model.
        features: "float16", "float32", or None for codes alone.
        image_size, channels: what images are decoded to.
        skipped: (path, reason) of what could not be looked into when the data was listed.
    """

    data: str
    items: int
    shards: int
    lines: str
    model: str
    features: str | None
    image_size: int
    channels: int
    skipped: tuple[tuple[str, str], ...] = ()

    def first(self, shard: int) -> int:
        """The first id of a shard; that of the next one ends it."""
        return shard * self.items // self.shards

    def size(self, shard: int) -> int:
        """The number of images of a shard."""
        return self.first(shard + 1) - self.first(shard)

    @property
    def digest(self) -> str:
        """A hash of it all: it tells one generation of a folder from another."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]

    def card(self) -> bytes:
        """What every shard keeps of it, as `retrieval.attachments` has it."""
        card: dict[str, Any] = {
            "model": self.model,
            "data": self.data,
            "data_dir": None,
            "classes": [],
            "manifest": self.digest,
        }
        return json.dumps(card).encode()


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether shards were begun in a folder.

    Example:
        >>> is_folder("photos.index/")  # doctest: +SKIP
        True
    """
    return (Path(path) / MANIFEST).is_file()


def load(folder: str | os.PathLike[str]) -> Manifest:
    """What `begin` wrote.

    Raises:
        FileNotFoundError: nothing was begun there.
        ValueError: the manifest is damaged, or of another version.

    Example:
        >>> load("photos.index/").items  # doctest: +SKIP
        20000
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{os.fspath(folder)}: no folder of shards, it has no {MANIFEST}")
    try:
        values = runs.read_json(path)
        if values.pop("format") != FORMAT:
            raise ValueError(f"{path} is of another version; encode again, into another folder")
        values["skipped"] = tuple((name, reason) for name, reason in values["skipped"])
        return Manifest(**values)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is no manifest of shards ({error})") from error


def begin(
    folder: str | os.PathLike[str],
    model: Model,
    data: str,
    shards: int,
    *,
    features: str | None = "float16",
    overwrite: bool = False,
    say: Callable[[str], None] = lambda message: None,
) -> Manifest:
    """List the images and deal them out to shards; or find that this was done before.

    Images are listed once: the same call later, or in another process, finds the manifest, and
    refuses to go on with another model, other data or other options.

    Args:
        folder: made if it is not there; its parent must be.
        model: what is to encode.
        data: whatever `jaxhash.data.inputs.places` takes.
        shards: number of shards.
        features: "float16", "float32", or None for codes alone.
        overwrite: begin anew where another manifest is; its shards are removed.
        say: told what is being done, a line at a time.

    Returns:
        The manifest.

    Raises:
        ValueError: there are no images, or fewer than shards; or the model takes no image files;
            or the folder was begun otherwise.
        FileExistsError: the folder holds something else.

    Example:
        >>> begin("photos.index/", model, "photos/", 20).items  # doctest: +SKIP
        20000
    """
    if shards < 1:
        raise ValueError(f"shards is {shards}; give at least 1")
    size, channels = retrieval.file_form(model, data)
    folder = Path(folder)
    name = data if "://" in data else os.path.abspath(os.path.expanduser(data))
    wanted: dict[str, Any] = {
        "data": shown(name),
        "shards": shards,
        "model": models.fingerprint(model),
        "features": features,
        "image_size": size,
        "channels": channels,
    }
    if not is_folder(folder) and folder.exists():
        _check_empty(folder)
    if not folder.absolute().parent.is_dir():
        raise FileNotFoundError(f"{folder.absolute().parent}: no such folder")
    folder.mkdir(exist_ok=True)
    with held(folder / ".begin.lock") as lock:
        assert lock
        if is_folder(folder):
            found = load(folder)
            other = [key for key, value in wanted.items() if getattr(found, key) != value]
            if not other:
                return found
            if not overwrite:
                raise ValueError(
                    f"{folder} was begun with another {' and '.join(other)}; go on with the same, "
                    "give overwrite=True to begin anew, or another folder"
                )
        _clear(folder)
        say(f"listing the images of {shown(data)}")
        skipped: list[tuple[str, str]] = []
        items, digest = _write_lines(folder, inputs.places(data, skipped), shards, shown(data))
        manifest = Manifest(**wanted, items=items, lines=digest, skipped=tuple(skipped))
        runs.write_json(folder / MANIFEST, {"format": FORMAT} | asdict(manifest))
    return manifest


def _check_empty(folder: Path) -> None:
    """Refuse a folder that holds what is not ours; lines of a listing that was broken off are."""
    if not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; give the name of a folder for shards")
    for entry in folder.iterdir():
        if entry.name[0] != "." and entry.suffix != ".lines":
            raise FileExistsError(
                f"{folder} holds other files, such as {shown(entry.name)}; give another folder"
            )


def _clear(folder: Path) -> None:
    """Remove an earlier manifest and its shards."""
    (folder / MANIFEST).unlink(missing_ok=True)  # first: without it nothing of the rest counts
    for entry in folder.iterdir():
        if entry.suffix in (".lines", ".index"):
            entry.unlink()


def _write_lines(folder: Path, places: Iterator[Place], shards: int, data: str) -> tuple[int, str]:
    """Deal places out to the files of shards, in constant memory: their number and digest."""
    digest, count, whole = hashlib.sha256(), 0, folder / ".listing"
    try:
        with open(whole, "wb") as file:
            for place in places:
                line = to_line(place).encode() + b"\n"
                digest.update(line)
                file.write(line)
                count += 1
        if not count:
            raise ValueError(
                f"{data}: there is no image in it, at any depth; files of the endings "
                f"{', '.join(sorted(KIND_OF)[:3])}, ... are passed over"
            )
        if shards > count:
            raise ValueError(f"shards is {shards}, and there are {count} images; give fewer shards")
        with open(whole, "rb") as file:
            for shard in range(shards):
                own = (shard + 1) * count // shards - shard * count // shards
                with replacing(folder / file_name(shard, shards, "lines")) as part:
                    part.writelines(islice(file, own))
    finally:
        whole.unlink(missing_ok=True)
    return count, digest.hexdigest()


def places_of(folder: str | os.PathLike[str], manifest: Manifest, shard: int) -> list[Place]:
    """The images of a shard, in the order of their ids.

    Raises:
        ValueError: their list is not there, or not whole.
    """
    path = Path(folder) / file_name(shard, manifest.shards, "lines")
    try:
        with open(path, "rb") as file:
            places = [from_line(line) for line in file]
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: not there, or damaged; begin the folder anew") from error
    wanted = manifest.size(shard)
    if len(places) != wanted:
        raise ValueError(f"{path}: has {len(places)} lines, not {wanted}; begin the folder anew")
    return places


def is_done(folder: str | os.PathLike[str], manifest: Manifest, shard: int) -> bool:
    """Whether a shard's file is there, whole, and of this manifest."""
    path = Path(folder) / file_name(shard, manifest.shards)
    try:
        kept = reading.read(path).attachments.get(retrieval.CARD, b"")
    except (FileNotFoundError, DamagedFile):
        return False
    return (kept if isinstance(kept, bytes) else kept.bytes()) == manifest.card()


def missing(folder: str | os.PathLike[str], manifest: Manifest) -> list[int]:
    """The shards that are not done.

    Example:
        >>> missing("photos.index/", load("photos.index/"))  # doctest: +SKIP
        [3, 7]
    """
    return [shard for shard in range(manifest.shards) if not is_done(folder, manifest, shard)]


def left_out(folder: str | os.PathLike[str], manifest: Manifest) -> Iterator[tuple[int, str]]:
    """(id, reason) of the images that the shards that are done had to leave out."""
    for shard in range(manifest.shards):
        with contextlib.suppress(FileNotFoundError, DamagedFile):
            path = Path(folder) / file_name(shard, manifest.shards)
            kept: Any = reading.read(path).attachments.get(LEFT_OUT, b"[]")
            rows = json.loads(kept if isinstance(kept, bytes) else kept.bytes())
            yield from ((item, reason) for item, reason in rows)


def lock_of(folder: str | os.PathLike[str], shard: int) -> Path:
    """The file that who encodes a shard holds, see `held`."""
    return Path(folder) / f".{shard:05d}.lock"


@contextlib.contextmanager
def held(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock of one process at a time, which a killed one gives back; whether it was got.

    Where the system has no such locks, everybody gets it: shards are written whole, so two
    processes that encode the same one do work twice, and nothing wrong.
    """
    if sys.platform == "win32":
        yield True
        return
    import fcntl

    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        except OSError:  # a file system without locks
            yield True
            return
        try:
            file.truncate(0)
            file.write(f"{os.getpid()}".encode())  # for whoever wonders
            file.flush()
            yield True
        finally:
            # Before it is given back: who waits for it then finds the shard done.
            path.unlink(missing_ok=True)
