"""All images of folders, lists, tar files and array_records, each as a `Place`, in order."""

import os
import re
import tarfile
from collections.abc import Iterator
from typing import Any

from jaxhash.data import listing
from jaxhash.data.places import Place, count_records, is_remote, remote

LISTS = (".txt", ".list")
"""Endings of files that hold a path, or a URL, on each line."""
IMAGES = frozenset(
    f".{ending}"
    for ending in (
        *("bmp", "dib", "gif", "img", "jpe", "jpeg", "jpg", "pbm"),
        *("pgm", "png", "pnm", "ppm", "tif", "tiff", "webp"),
    )
)
"""Endings of a tar file's members that are images; the others are beside them, as labels are."""
ARCHIVES = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst")
"""Endings of files in a folder that are no images, and are looked into or refused."""
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_RECORDS = re.compile(r"\.array_record(-\d+-of-\d+)?$")

Skipped = list[tuple[str, str]]


def places(source: str, skipped: Skipped) -> Iterator[Place]:
    """Every image that `source` names, in a fixed order, without holding them all.

    A folder is searched to any depth, in the order of names. Tar files, as WebDataset writes
    them, and array_records are looked into, in a folder too. No image is opened here.

    Args:
        source: a folder; a file of one of the endings in `LISTS`, with a path on each line; a tar
            file or array_record, `photos-{000..099}.tar` standing for a hundred of them; a remote
            one of these; or one image.
        skipped: (path, reason) of what is left out is appended here.

    Raises:
        ValueError: there is nothing of that name, or it cannot be looked into.

    Example:
        >>> [place.name for place in places("photos", [])]  # doctest: +SKIP
        ['/data/photos/beach/1.jpg', '/data/photos/beach/2.jpg']
    """
    for each in _spelled_out(source):
        if is_remote(each):
            yield from _remote(each)
            continue
        path = os.path.abspath(os.path.expanduser(each))
        if os.path.isdir(path):
            aside = listing.Aside(skipped)
            for file in listing.walk(path, aside, also=ARCHIVES):
                yield from _inside(file)
        elif not os.path.exists(path):
            raise ValueError(f"{listing.shown(each)}: no such file or folder")
        elif path.lower().endswith(LISTS):
            with open(path, encoding="utf-8", errors="surrogateescape") as lines:
                yield from _listed(lines, each)
        else:
            yield from _inside(path)


def _spelled_out(source: str) -> Iterator[str]:
    """Each of the names that {000..099} stands for.

    Example:
        >>> list(_spelled_out("a-{08..10}.tar"))
        ['a-08.tar', 'a-09.tar', 'a-10.tar']
    """
    found = _RANGE.search(source)
    if found is None:
        yield source
        return
    first, last = found.groups()
    for number in range(int(first), int(last) + 1):
        rest = source[: found.start()] + str(number).zfill(len(first)) + source[found.end() :]
        yield from _spelled_out(rest)


def _listed(lines: Any, name: str) -> Iterator[Place]:
    for line in lines:
        path = line.rstrip("\r\n")
        if path:
            if path.lower().endswith(LISTS):
                raise ValueError(f"{name} names a list, {path}; give the paths of images in it")
            yield from _inside(path if is_remote(path) else os.path.abspath(path))


def _remote(url: str) -> Iterator[Place]:
    system, path = remote(url)
    if not system.exists(path):
        raise ValueError(f"{url}: no such file or folder")
    if system.isfile(path):
        if url.lower().endswith(LISTS):
            with system.open(path, "rt", encoding="utf-8") as lines:
                yield from _listed(lines, url)
        else:
            yield from _inside(url)
        return
    scheme = url.partition("://")[0]
    for file in sorted(system.find(path)):
        hidden = any(part.startswith(".") for part in file[len(path) :].split("/"))
        if not hidden and listing.is_image(file, also=ARCHIVES):
            yield from _inside(file if is_remote(file) else f"{scheme}://{file}")


def _inside(path: str) -> Iterator[Place]:
    """The image that a file is, or those in it."""
    lower = path.lower()
    if lower.endswith(".tar"):
        yield from _members(path)
    elif _RECORDS.search(lower):
        yield from (Place(path, record=record) for record in range(count_records(path)))
    elif lower.endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        raise ValueError(f"{path}: a compressed tar file has no places to read at; unpack it first")
    else:
        yield Place(path)


def _members(path: str) -> Iterator[Place]:
    try:
        if is_remote(path):
            system, inner = remote(path)
            opened = system.open(inner, "rb")
        else:
            opened = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        raise ValueError(f"{path}: no such tar file") from None
    with opened as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    tar.members = []  # type: ignore[attr-defined]  # or it would hold them all
                    name = os.path.basename(member.name)
                    image = os.path.splitext(name)[1].lower() in IMAGES and name[0] != "."
                    if member.isreg() and not member.issparse() and image:
                        yield Place(path, member.name, member.offset_data, member.size)
                end = tar.offset
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                # tarfile takes any other end for one, and members behind it would be lost.
                raise tarfile.ReadError("it is cut short, or damaged")
        except tarfile.TarError as error:
            raise ValueError(f"{path}: not a whole tar file ({error})") from error
