"""Find the nearest images of an index.

    jaxhash query --run runs/photos --index photos.index beach.jpg -k 10 --gallery out.png

A few seconds, nearly all of them to start; prints distance and path of the ten nearest images, and
draws them. The nearest codes (--pool of them) are put in order by the distance of their features;
with --pool 0 the codes alone decide.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxhash.cli.command import Command


@dataclass(frozen=True)
class Query:
    """Options of `jaxhash query`."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Query images: one or more files."""
    run: Path
    """Folder of the trained run that made the index."""
    index: Path
    """The index file, or folder of shards, from jaxhash encode."""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10
    """Results for each image."""
    pool: int = 200
    """Nearest codes that are put in order by their features; 0 for codes alone."""
    radius: int | None = None
    """Largest Hamming distance of a result. Default: any."""
    gallery: Path | None = None
    """Draw the results into this PNG file."""
    verify: bool = False
    """Check the whole index file for damage first; reads all of it."""


def query(options: Query) -> None:
    """Search as the options say."""
    import numpy as np

    from jaxhash import models, retrieval
    from jaxhash.data import load_images
    from jaxhash.shards.records import open_any

    if not options.images:
        raise ValueError("give at least one image file as the query")
    for path in options.images:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such image file")
    if options.k < 1:
        raise ValueError(f"-k is {options.k}; give at least 1")
    if options.pool < 0:
        raise ValueError(f"--pool is {options.pool}; give 0 for codes alone, or more")
    if options.radius is not None and options.radius < 0:
        raise ValueError(f"--radius is {options.radius}; give 0 or more")
    if options.gallery is not None:
        if options.gallery.suffix.lower() != ".png":
            raise ValueError(f"--gallery is {options.gallery}; give the name of a .png file")
        if not options.gallery.absolute().parent.is_dir():
            raise FileNotFoundError(f"{options.gallery}: no such folder to draw it into")
    model = models.load(options.run)
    if model.spec.takes != "images":
        raise ValueError(
            f"{options.run} was trained on features, and images cannot be its queries; give a run "
            "that was trained on images"
        )
    index, items = open_any(options.index, verify=options.verify)
    channels = 1 if model.spec.item_shape[2] == 1 else 3
    asked = load_images(
        list(options.images),
        image_size=model.spec.item_shape[0],
        channels=channels,
        max_undecodable=0,
    )
    images = asked.items[np.arange(len(asked))]
    found = retrieval.query(
        model, index, images, options.k, pool=options.pool or None, radius=options.radius
    )
    for path, distances, ids in zip(options.images, *found, strict=True):
        known = ids >= 0
        print(f"{path}:{'' if known.any() else ' nothing found'}")
        for distance, title in zip(distances[known], items.titles(ids[known]), strict=True):
            apart = f"{distance} bits" if options.pool == 0 else f"{distance:.3f}"
            print(f"  {apart:>8} apart  {title}")
    if options.gallery is not None:
        from jaxhash import plots  # only now: drawing takes a second to import

        figure = retrieval.gallery(items, images, found, [path.name for path in options.images])
        plots.save(figure, options.gallery)
        print(f"gallery: {options.gallery}")


COMMAND = Command("jaxhash query", __doc__, Query, query, positional="images")
