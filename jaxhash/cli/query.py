"""Find the nearest images of an index.

    jaxhash query --run runs/photos --index photos.index beach.jpg -k 10 --gallery out.png

A few seconds, nearly all of them to start; prints distance, id and path of the ten nearest images,
and draws them. The nearest codes (--pool of them) are put in order by the distance of their
features; with --pool 0 the codes alone decide the order.

    jaxhash query --run runs/photos --index photos.index holiday/ --json > found.json
    find . -name '*.jpg' | jaxhash query --run runs/photos --index photos.index - --csv

take all images of a folder, or of a list; `-` may also be the bytes of one image.

    jaxhash query ... beach.jpg --where "year >= 2020 and folder = 'beach'"

searches only the images that satisfy a condition, written as in SQL's WHERE, on path, folder, label
and the columns that jaxhash encode --columns kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from jaxhash.cli import outputs
from jaxhash.cli.command import Command

if TYPE_CHECKING:
    import numpy as np

    from jaxhash.found import Found
    from jaxhash.items.records import ItemRecords

MOST_DRAWN = 50  # queries in a gallery: more make a picture that no program opens


@dataclass(frozen=True)
class Query:
    """Options of `jaxhash query`."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Query images: files, folders, or - for an image or a list of paths from standard input."""
    run: Path
    """Folder of the trained run that made the index."""
    index: Path
    """The index file, or folder of shards, from jaxhash encode."""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10
    """Results for each image."""
    pool: int | None = None
    """Nearest codes that are re-ranked by their features; 0 for codes alone. Default: 200, or twice
    -k where that is more; 0, or all, where jaxhash evaluate found that to be best."""
    radius: int | None = None
    """Largest Hamming distance of a result. Default: any."""
    where: str | None = None
    """Search only images of which this is true, such as "year >= 2020 and folder = 'beach'"."""
    recall: float | None = None
    """Find only this share of the nearest codes, such as 0.95: quicker for many queries among
    millions of codes, which are first dealt out to cells. Default: all of them."""
    root: Path | None = None
    """Folder of the indexed images, where it has moved."""
    json: bool = False
    """Print the results as JSON."""
    csv: bool = False
    """Print the results as CSV."""
    gallery: Path | None = None
    """Draw the results into this PNG file."""
    verify: bool = False
    """Check the whole index file for damage first; reads all of it."""


def query(options: Query) -> None:
    """Search as the options say."""
    _check(options)
    import sys

    from jaxhash import models, retrieval
    from jaxhash.cli import inputs
    from jaxhash.data.listing import shown
    from jaxhash.found import Found, hits
    from jaxhash.shards.records import open_any

    pictures = inputs.gather(options.images)
    model = models.load(options.run)
    if model.spec.takes != "images":
        raise ValueError(
            f"{options.run} was trained on features, and images cannot be its queries; give a run "
            "that was trained on images"
        )
    index, items = open_any(
        options.index, verify=options.verify, root=options.root, classes=model.spec.classes
    )
    where = None if options.where is None else items.select(options.where, index.ids)
    side, _, channels = model.spec.item_shape
    found: list[Found] = []
    drawn: list[np.ndarray] = []
    lost: list[tuple[str, str]] = []
    for start in range(0, len(pictures), retrieval.BATCH):
        part = pictures[start : start + retrieval.BATCH]
        good, pixels, bad = inputs.decode(part, side, 1 if channels == 1 else 3)
        lost += bad
        if not good:
            continue
        answer = retrieval.query(
            model,
            index,
            pixels,
            options.k,
            pool=options.pool,
            radius=options.radius,
            where=where,
            recall=options.recall,
        )
        for picture, distances, ids in zip(good, *answer, strict=True):
            found.append(Found(picture.title, hits(items, distances, ids)))
        drawn += list(pixels[: MOST_DRAWN - len(drawn)])
    for title, reason in lost:
        print(f"left out {shown(title)}: {reason}", file=sys.stderr)
    if not found:
        raise ValueError("none of the query images can be decoded")
    _print(options, found)
    if options.gallery is not None:
        _draw(options.gallery, items, drawn, found[: len(drawn)])
        if len(drawn) < len(found):
            print(f"the gallery has the first {len(drawn)} queries", file=sys.stderr)


def _check(options: Query) -> None:
    """Refuse, before anything is loaded, options that would fail or contradict each other."""
    if not options.images:
        raise ValueError("give at least one image file as the query")
    if options.k < 1:
        raise ValueError(f"-k is {options.k}; give at least 1")
    if options.pool is not None and options.pool < 0:
        raise ValueError(f"--pool is {options.pool}; give 0 for codes alone, or more")
    if options.pool and options.pool < options.k:
        raise ValueError(
            f"--pool is {options.pool} and -k {options.k}; results are taken from the pool, so "
            "give at least as many"
        )
    if options.radius is not None and options.radius < 0:
        raise ValueError(f"--radius is {options.radius}; give 0 or more")
    if options.recall is not None:
        if not 0 < options.recall <= 1:
            raise ValueError(f"--recall is {options.recall}; give a share above 0, at most 1")
        for name, value in (("--where", options.where), ("--radius", options.radius)):
            if value is not None:
                raise ValueError(f"--recall does not combine with {name}; leave one of them out")
    if options.json and options.csv:
        raise ValueError("--json and --csv are two forms of the same output; give one")
    if options.root is not None and not options.root.is_dir():
        raise FileNotFoundError(f"{options.root}: no such folder")
    if options.gallery is not None:
        if options.gallery.suffix.lower() != ".png":
            raise ValueError(f"--gallery is {options.gallery}; give the name of a .png file")
        outputs.check(options.gallery)


def _print(options: Query, found: "Sequence[Found]") -> None:
    """The results in the form that was asked for, on standard output."""
    import csv
    import io
    import json
    import sys

    from jaxhash.found import rows

    if options.json:
        print(json.dumps([one.to_dict() for one in found], indent=2))
    elif options.csv:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(rows(found))
        sys.stdout.flush()
        sys.stdout.buffer.write(text.getvalue().encode("utf-8", "surrogateescape"))
    else:
        for one in found:
            print("\n".join(_table(one)))


def _table(found: "Found") -> list[str]:
    """The results of one query as lines of text, in columns."""
    from jaxhash.data.listing import shown

    if not len(found):
        return [f"{shown(found.query)}: nothing found"]
    names = list(found.hits[0].columns)
    lines = [["distance", "id", *names, "path"]]
    for hit in found:
        apart = f"{hit.distance} bits" if isinstance(hit.distance, int) else f"{hit.distance:.3f}"
        values = (
            "" if hit.columns[name] is None else shown(str(hit.columns[name])) for name in names
        )
        title = hit.path or (str(hit.id) if hit.label is None else f"{hit.label} ({hit.id})")
        lines.append([apart, str(hit.id), *values, shown(title)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    made = [
        "  ".join(
            [
                *(cell.rjust(width) for cell, width in zip(line[:2], widths[:2], strict=True)),
                *(cell.ljust(width) for cell, width in zip(line[2:-1], widths[2:-1], strict=True)),
                line[-1],
            ]
        )
        for line in lines
    ]
    return [f"{shown(found.query)}:", *(f"  {line}" for line in made)]


def _draw(
    path: Path, items: "ItemRecords", drawn: "Sequence[np.ndarray]", found: "Sequence[Found]"
) -> None:
    """Draw the gallery; its name goes to standard error, as standard output may be JSON."""
    import sys

    import numpy as np

    from jaxhash import plots, retrieval  # only now: drawing takes a second to import
    from jaxhash.data.listing import shown

    most = max(map(len, found))
    ids = np.array([[*one.ids, *[-1] * (most - len(one))] for one in found], np.int64)
    distances = np.array([[*one.distances, *[0] * (most - len(one))] for one in found])
    titles = [shown(Path(one.query).name) for one in found]
    answer = retrieval.Neighbours(distances, ids)
    plots.save(retrieval.gallery(items, drawn, answer, titles), path)
    print(f"gallery: {path}", file=sys.stderr)


COMMAND = Command(
    "jaxhash query",
    __doc__,
    Query,
    query,
    positional="images",
    common=("run", "index", "k", "pool", "where", "json", "csv", "gallery"),
    groups={
        "queries and results": ("k", "pool", "radius", "where", "recall", "json", "csv", "gallery"),
        "model and index": ("run", "index", "root", "verify"),
    },
)
