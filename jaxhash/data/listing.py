"""The contents of a folder: files to try as images, and counts of the others by kind."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_ENDINGS = {
    "videos": "3g2 3gp asf avi flv insv lrv m2ts m2v m4v mkv mov mp4 mpeg mpg mts ogv vob webm wmv",
    "raw photographs": (
        "3fr arw cr2 cr3 crw dcr dng erf gpr iiq k25 kdc mef mos mrw nef nrw orf pef raf raw rw2 "
        "rwl sr2 srf srw x3f"
    ),
    "documents": (
        "ai bib doc docx eps epub htm html indd key md numbers odp ods odt pages pdf ppt pptx ps "
        "psd rst rtf svg txt xcf xls xlsx"
    ),
    "sounds": "aac aif aiff amr flac m4a mp3 oga ogg opus wav wma",
    "archives": "7z bz2 dmg exe gz iso jar lrcat lrdata rar tar tgz xz zip zst",
    "side files": (
        "aae bak c cfg cpp css csv dat db db-shm db-wal ds_store gpx h ini ipynb js json jsonl kml "
        "license lnk log npy npz parquet pickle pkl pp3 py sh sqlite srt tmp toml tsv thm url vtt "
        "xml xmp yaml yml"
    ),
}

KIND_OF = {f".{one}": kind for kind, endings in _ENDINGS.items() for one in endings.split()}
"""Ending of a file that is no image -> what it is called where such files are counted."""


@dataclass
class Aside:
    """What a folder holds besides images.

    Attributes:
        skipped: (path, reason) of what would have been taken, and could not be.
        passed: number of files of each kind in `KIND_OF`.
        unread: folders that could not be listed.
    """

    skipped: list[tuple[str, str]] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)
    unread: list[str] = field(default_factory=list)


def is_image(name: str, also: Collection[str] = ()) -> bool:
    """Whether a file may be an image, by its ending, or has one of the endings in `also`.

    Example:
        >>> is_image("cat.JPG"), is_image("film.mov"), is_image("a.tar", also=(".tar",))
        (True, False, True)
    """
    ending = os.path.splitext(name)[1].lower()
    return ending not in KIND_OF or ending in also


def entries(
    folder: str | Path, aside: Aside | None = None, also: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """Names of the visible sub-folders and of the files to try in one folder, sorted.

    aside: where what is passed over is counted. also: endings of other files to take.

    Raises:
        OSError: the folder cannot be listed.
    """
    folders, files = [], []
    with os.scandir(folder) as scan:
        for entry in scan:
            if entry.name[0] == ".":
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif is_image(entry.name, also):
                files.append(entry.name)
            elif aside is not None:
                aside.passed[KIND_OF[os.path.splitext(entry.name)[1].lower()]] += 1
    return sorted(folders), sorted(files)


def walk(
    folder: str | Path,
    aside: Aside,
    also: Collection[str] = (),
    above: frozenset[tuple[int, int]] = frozenset(),
) -> Iterator[str]:
    """Files to try below a folder; links are followed unless they lead back up.

    aside: where what is passed over, and folders that cannot be listed, are noted. also: endings of
    other files to take. above: the folders that lead here.

    Example:
        >>> list(walk("photos", Aside()))  # doctest: +SKIP
        ['photos/beach.jpg', 'photos/2024/cat.png']
    """
    try:
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino)
        if here in above:
            aside.skipped.append((shown(folder), "link to a folder above it"))
            return
        folders, files = entries(folder, aside, also)
    except OSError as error:
        aside.skipped.append((shown(folder), error.strerror or str(error)))
        aside.unread.append(os.fspath(folder))
        return
    for name in files:
        yield os.path.join(folder, name)
    for name in folders:
        yield from walk(os.path.join(folder, name), aside, also, above | {here})


def shown(path: str | os.PathLike[str]) -> str:
    r"""A path as one line of text that can be printed and written.

    Bytes that are not UTF-8 become \xNN, control characters such as a line break \n.

    Example:
        >>> print(shown("two\nlines.jpg"))
        two\nlines.jpg
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def no_image(folder: str | os.PathLike[str], aside: Aside) -> str:
    """What to say of a folder without images.

    Example:
        >>> no_image("clips", Aside(passed=Counter(videos=3)))
        'clips: there is no image in this folder, at any depth, but 3 videos; give a folder that \
holds image files, such as JPEG or PNG'
    """
    others = f", but {counted(aside.passed.items())}" if aside.passed else ""
    return (
        f"{shown(folder)}: there is no image in this folder, at any depth{others}; give a folder "
        "that holds image files, such as JPEG or PNG"
    )


def counted(counts: Iterable[tuple[str, int]]) -> str:
    """Counts of kinds in words, the most first.

    Example:
        >>> counted({"documents": 1, "videos": 21}.items())
        '21 videos, 1 document'
    """
    ordered = sorted(counts, key=lambda one: (-one[1], one[0]))
    return ", ".join(
        f"{count:,} {kind[:-1] if count == 1 and kind.endswith('s') else kind}"
        for kind, count in ordered
    )
