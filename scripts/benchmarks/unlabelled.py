"""Codes learned without labels, beside exact search of the features that a run has kept.

    python scripts/benchmarks/unlabelled.py --run runs/itq --lengths 64 128 256

Codes are learned from the training images of the run's protocol, whose labels are not looked at,
and its queries ask its database. Of a folder without labels each picture is a class of its own:
codes are learned from all of them, and views made here ask: mirrored, cropped (four fifths of each
side), and hard (half of each side, mirrored, darker, JPEG quality 40). Printed are means and
standard deviations over the seeds, and the share of the ten exact neighbours by features that are
among the ten nearest codes, and in a pool of the nearest ones.

Seconds for each line on two idle CPU cores; BiHalf half a minute. Views of 1,000 pictures take
another minute.
"""

import dataclasses
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from few_labels import load
from PIL import Image, ImageEnhance, ImageOps

from jaxhash import models, runs
from jaxhash.cli.command import Command, run
from jaxhash.config import Config
from jaxhash.data import Dataset, Split
from jaxhash.encoding import Encoded
from jaxhash.evaluation import measures, without_labels
from jaxhash.training import run_data
from jaxhash.unlabelled import FITS

VIEWS = ("mirrored", "cropped", "hard")


@dataclass(frozen=True)
class Unlabelled:
    """Options of scripts/benchmarks/unlabelled.py."""

    run: Path
    """Folder of a run on a backbone, which keeps features."""
    methods: tuple[str, ...] = tuple(FITS)
    """Methods to compare."""
    lengths: tuple[int, ...] = (64, 128, 256)
    """Lengths of code, in bits."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the split, of the methods, and of what is cropped."""
    pool: int = 100
    """Nearest codes in which neighbours are looked for."""


def view(name: str, path: str, rng: np.random.Generator) -> Image.Image:
    """A picture as another sees it."""
    with Image.open(path) as file:
        picture = file.convert("RGB")
    if name == "mirrored":
        return ImageOps.mirror(picture)
    share = 0.8 if name == "cropped" else 0.5
    width, height = (round(share * side) for side in picture.size)
    room = (picture.width - width + 1, picture.height - height + 1)
    left, top = (rng.random(2) * room).astype(int).tolist()
    part = picture.crop((left, top, left + width, top + height))
    if name == "cropped":
        return part
    saved = io.BytesIO()
    ImageEnhance.Brightness(ImageOps.mirror(part)).enhance(0.7).save(saved, "JPEG", quality=40)
    return Image.open(saved)


def with_views(dataset: Dataset, folder: Path, seed: int) -> tuple[Dataset, dict[str, Split]]:
    """Features of pictures and of views of them, each picture a class, and who asks whom."""
    assert dataset.paths is not None
    rng, model, n = np.random.default_rng(seed), models.load(folder), len(dataset)
    items = [np.asarray(dataset.items)]
    for name in VIEWS:
        pictures = [view(name, path, rng) for path in dataset.paths]
        items.append(model.encode(pictures, features="float32", keep=("features",)).features)
    own, none = np.arange(n), np.empty(0, np.int64)
    labels = np.tile(own.astype(np.int32), len(items))
    splits = {
        name: Split("views", name, seed, own, none, own, own + n * (1 + at), False, True)
        for at, name in enumerate(VIEWS)
    }
    whole = dataclasses.replace(
        dataset,
        items=np.concatenate(items),
        labels=labels,
        classes=tuple(dataset.paths),
        parts={"all": np.arange(len(labels))},
        paths=None,
    )
    return whole, splits


def scores(
    encoded: Encoded, labels: np.ndarray, split: Split, by: str, **options: Any
) -> dict[str, float]:
    """P@1, P@10 and mAP of a ranking, by codes or by features."""
    query, database = (
        Encoded(*(None if one is None else one[rows] for one in encoded))
        for rows in (split.query, split.database)
    )
    found = measures.evaluate(query, database, labels, split, radii=(), **options)["rankings"][by]
    precision = found["precision_at"]
    return {"P@1": precision["1"], "P@10": precision["10"], "mAP": found["mAP"] or np.nan}


def lines(
    dataset: Dataset, options: Unlabelled, seed: int
) -> Iterator[tuple[str, dict[str, float]]]:
    """What is measured with one seed: (method and bits, measures by name)."""
    config: Config = runs.load_config(options.run)
    if dataset.labels is None:
        dataset, splits = with_views(dataset, options.run, seed)
    else:
        one = dataclasses.replace(config, seed=seed, validation=0.0)
        splits = {"": run_data.split_data(one, dataset)}
    assert dataset.labels is not None
    x, labels = np.asarray(dataset.items), dataset.labels
    learned, database = (getattr(next(iter(splits.values())), one) for one in ("train", "database"))

    def measured(encoded: Encoded, by: str, bits: int) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, split in splits.items():
            one = scores(encoded, labels, split, by, bits=bits, seed=seed, top=10, pool=10)
            if name:  # one picture a class: there are no ten to be found
                del one["P@10"]
            found |= {f"{key} {name}".strip(): value for key, value in one.items()}
        return found

    for method in options.methods:
        for bits in options.lengths:
            layer = FITS[method].learn(x[learned], bits, seed=seed)
            codes = np.packbits(layer.latent(x) > 0, axis=1)
            row = measured(Encoded(codes, None, None, None), "codes", bits)
            both = Encoded(codes[database], x[database], None, None)
            kept = without_labels.evaluate(both, bits=bits, seed=seed, pool=options.pool)["recall"]
            row |= {"recall@10": kept["codes"], f"recall@{options.pool}": kept["pool"]}
            yield f"{method}, {bits} bits", row
    nothing = np.zeros((len(x), 1), np.uint8)
    yield "exact features", measured(Encoded(nothing, x, None, None), "features", 8)


def compare(options: Unlabelled) -> None:
    """Measure as the options say, and print a table."""
    dataset = load(options.run)
    cells: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        for name, row in lines(dataset, options, seed):
            cells.setdefault(name, []).append(row)
    columns = list(next(iter(cells.values()))[0])
    print(f"| ranked by | {' | '.join(columns)} |\n| --- |{' --- |' * len(columns)}")
    for name, rows in cells.items():
        shown = []
        for column in columns:
            values = np.array([row.get(column, np.nan) for row in rows])
            known = not np.isnan(values).any()
            shown.append(f"{values.mean():.3f} ± {values.std():.3f}" if known else "")
        print(f"| {name} | {' | '.join(shown)} |", flush=True)


COMMAND = Command("unlabelled.py", __doc__, Unlabelled, compare)

if __name__ == "__main__":
    run(COMMAND)
