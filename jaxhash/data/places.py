"""Where an image lies: in a file of its own, in a tar file or in an array_record; here or remote.

A remote path is one with a scheme, such as s3://bucket/photos, and is read through fsspec.
"""

import contextlib
import json
import os
import stat
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from jaxhash.data.decoding import Undecodable

GONE = "no such file"
"""Why an image that is not there cannot be decoded."""


class Place(NamedTuple):
    """A whole file; or a member of a tar file, with its first byte and length; or a record."""

    path: str
    member: str | None = None
    start: int = 0
    size: int = 0
    record: int | None = None

    @property
    def name(self) -> str:
        """What to call the image.

        Example:
            >>> Place("a.tar", "beach/1.jpg", 1536, 20480).name
            'a.tar/beach/1.jpg'
        """
        if self.record is not None:
            return f"{self.path}#{self.record}"
        return self.path if self.member is None else f"{self.path}/{self.member}"


def to_line(place: Place) -> str:
    """A place as one line of ASCII, JSON: a path alone, or path and numbers.

    Example:
        >>> to_line(Place("a.jpg")), to_line(Place("a.array_record", record=7))
        ('"a.jpg"', '["a.array_record", 7]')
    """
    if place.record is not None:
        return json.dumps([place.path, place.record])
    if place.member is not None:
        return json.dumps(list(place[:4]))
    return json.dumps(place.path)


def from_line(line: str | bytes) -> Place:
    """The place that `to_line` wrote.

    Example:
        >>> from_line('["a.tar", "1.jpg", 512, 9]')
        Place(path='a.tar', member='1.jpg', start=512, size=9, record=None)
    """
    value = json.loads(line)
    if isinstance(value, str):
        return Place(value)
    return Place(value[0], record=value[1]) if len(value) == 2 else Place(*value)


def is_remote(path: str) -> bool:
    """Whether a path has a scheme, and is read through fsspec.

    Example:
        >>> is_remote("s3://bucket/a.jpg"), is_remote("C:/a.jpg")
        (True, False)
    """
    return "://" in path


def remote(url: str) -> tuple[Any, str]:
    """The file system of a remote path, and the path in it.

    Raises:
        ValueError: fsspec, or what it needs for that scheme, is not installed; or the scheme is
            not known.
    """
    try:
        import fsspec
    except ImportError as error:
        raise ValueError(f"{url}: remote files are read through fsspec; install it") from error
    try:
        return cast("tuple[Any, str]", fsspec.core.url_to_fs(url))
    except (ImportError, ValueError) as error:
        raise ValueError(f"{url}: {error}") from error


def read(place: Place) -> bytes:
    """The bytes of an image file, as they lie there.

    Raises:
        Undecodable: there is no such file, or it is no regular file, or it ends too early.
        OSError: it cannot be read now, but perhaps later.
    """
    try:
        if place.record is not None:
            return _record(place.path, place.record)
        content = _remote_bytes(place) if is_remote(place.path) else _local_bytes(place)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Undecodable(GONE) from error
    except IsADirectoryError as error:
        raise Undecodable("not a regular file") from error
    if place.member is not None and len(content) < place.size:
        raise Undecodable("the tar file ends before it")
    return content


def _local_bytes(place: Place) -> bytes:
    if not stat.S_ISREG(os.stat(place.path).st_mode):  # opening a named pipe would wait for ever
        raise Undecodable("not a regular file")
    with open(place.path, "rb") as file:
        if place.member is None:
            return file.read()
        file.seek(place.start)
        return file.read(place.size)


def _remote_bytes(place: Place) -> bytes:
    system, path = remote(place.path)
    if place.member is None:
        return cast(bytes, system.cat_file(path))
    return cast(bytes, system.cat_file(path, place.start, place.start + place.size))


def _record(path: str, record: int) -> bytes:
    source, image_of = _records(path)
    try:
        return image_of(source[record])
    # ValueError: of a record that is not there.
    except (RuntimeError, IndexError, ValueError) as error:
        raise Undecodable(f"the array_record file is damaged ({error})") from error


def read_records(places: Sequence[Place]) -> dict[int, bytes]:
    """The bytes of those places that are records, by position: what `read` gives, of many at once.

    One call for each file, because array_record takes time in each that grows with the file: 3 ms
    where it has a million records. Of a file that cannot be read all are left out, for `read` to
    say why.
    """
    positions: dict[str, list[int]] = {}
    for at, place in enumerate(places):
        if place.record is not None:
            positions.setdefault(place.path, []).append(at)
    found: dict[int, bytes] = {}
    for path, some in positions.items():
        with contextlib.suppress(OSError, RuntimeError, ImportError, IndexError, ValueError):
            source, image_of = _records(path)
            raw = source.__getitems__([places[at].record for at in some])
            found |= dict(zip(some, map(image_of, raw), strict=True))
    return found


@lru_cache(maxsize=32)
def _records(path: str) -> tuple[Any, Callable[[bytes], bytes]]:
    """An open array_record file, and what takes the image out of a record of it."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    return ArrayRecordDataSource([local_copy(path)]), _image_of(os.path.dirname(path))


def count_records(path: str) -> int:
    """The number of records in an array_record file.

    Raises:
        ValueError: it is damaged, or none.
        FileNotFoundError: there is none.
    """
    if not is_remote(path) and not os.path.isfile(path):
        raise FileNotFoundError(2, "no such file or directory", path)
    try:
        return len(_records(path)[0])
    except RuntimeError as error:
        raise ValueError(f"{path}: not a whole array_record file ({error})") from error


def local_copy(path: str) -> str:
    """The path itself; of a remote file, that of a copy which is kept while the process runs."""
    if not is_remote(path):
        return path
    import fsspec

    remote(path)  # refused here, where fsspec lacks something
    return cast(str, fsspec.open_local(f"simplecache::{path}"))


def _image_of(folder: str) -> Callable[[bytes], bytes]:
    """A record is an image file, but where tensorflow-datasets prepared the folder."""
    if is_remote(folder) or not (Path(folder) / "features.json").is_file():
        return lambda raw: raw
    import tensorflow_datasets as tfds

    from jaxhash.data.prepared import image_key

    features = tfds.features.FeaturesDict.from_config(folder)
    key = image_key(folder, features, tfds)
    alone = tfds.features.FeaturesDict({key: features[key]})
    decoders = {key: tfds.decode.SkipDecoding()}
    return lambda raw: cast(bytes, alone.deserialize_example_np(raw, decoders=decoders)[key])
