"""Find the nearest images of an index.

    python scripts/query.py --run runs/photos --index photos.index beach.jpg -k 10 --gallery out.png

A few seconds, nearly all of them to start; prints distance and path of the ten nearest images, and
draws them. The nearest codes (--pool of them) are put in order by the distance of their features;
with --pool 0 the codes alone decide.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from command_line import parse, run

from jaxhash import datasets, models, plots, retrieval
from search import HashIndex


@dataclass(frozen=True)
class Query:
    """Options of scripts/query.py."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files to ask with, one or more."""
    run: Path
    """Folder of the trained run that made the index."""
    index: Path
    """The index file, from scripts/encode.py."""
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


def main() -> None:
    """Search as the command line says."""
    options = parse(Query, __doc__)
    if not options.images:
        raise ValueError("name at least one image to ask with")
    for path in options.images:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such image file")
    if options.k < 1:
        raise ValueError(f"-k is {options.k}: give at least 1")
    if options.pool < 0:
        raise ValueError(f"--pool is {options.pool}: give 0 for codes alone, or more")
    if options.radius is not None and options.radius < 0:
        raise ValueError(f"--radius is {options.radius}: give 0 or more")
    if options.gallery is not None:
        if options.gallery.suffix.lower() != ".png":
            raise ValueError(f"--gallery is {options.gallery}: give the name of a .png file")
        if not options.gallery.absolute().parent.is_dir():
            raise FileNotFoundError(f"{options.gallery}: no such folder to draw it into")
    model = models.load(options.run)
    if model.takes != "images":
        raise ValueError(f"{options.run} was trained on features: it cannot be asked with images")
    index = HashIndex.open(options.index, verify=options.verify)
    channels = 1 if model.item_shape[2] == 1 else 3
    asked = datasets.load_images(
        list(options.images),
        image_size=model.item_shape[0],
        channels=channels,
        max_undecodable=0,
    )
    images = asked.items[np.arange(len(asked))]
    found = retrieval.ask(
        model, index, images, options.k, pool=options.pool or None, radius=options.radius
    )
    items = retrieval.Items(index)
    for query, distances, ids in zip(options.images, *found, strict=True):
        known = ids >= 0
        print(f"{query}:{'' if known.any() else ' nothing found'}")
        for distance, title in zip(distances[known], items.titles(ids[known]), strict=True):
            apart = f"{distance} bits" if options.pool == 0 else f"{distance:.3f}"
            print(f"  {apart:>8} apart  {title}")
    if options.gallery is not None:
        figure = retrieval.gallery(items, images, found, [path.name for path in options.images])
        plots.save(figure, options.gallery)
        print(f"gallery: {options.gallery}")


if __name__ == "__main__":
    run(main)
