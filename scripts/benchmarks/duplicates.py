"""Recall and precision of `jaxhash duplicates` on variants made here, beside perceptual hashes.

    jaxhash train --data photos/ --method itq --bits 128 --run runs/itq-128
    python scripts/benchmarks/duplicates.py --run runs/itq-128 --photos photos/ --folder work/
    python scripts/benchmarks/duplicates.py ... --imagededup hashes/bin/python

Of some photographs five variants are made (half the size, JPEG quality 40, brightened, mirrored,
four fifths of each side cut out) and put among all. The photographs are dealt to two halves with
their variants: on the first a threshold is chosen, the one with the best F1; on the second it is
reported. A pair counts as found where both are in one group. Perceptual hashes are those of
imagededup, by the Python of an environment that has it; pairs within a Hamming distance, grouped
likewise. What takes long, the index and the hashes, is kept in --folder.
"""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from scipy.sparse import coo_array, csgraph

import jaxhash
from jaxhash.duplicates import looks, pairs
from jaxhash.duplicates.pairs import Pairs
from search import HashIndex

KINDS = ("half", "quality 40", "brighter", "mirrored", "cropped")
HASHES = ("PHash", "DHash", "WHash", "AHash")
HASHING = """
import json, sys, warnings
warnings.simplefilter("ignore")
from imagededup import methods
found = {
    name: getattr(methods, name)(verbose=False).encode_images(image_dir=sys.argv[1])
    for name in sys.argv[2:]
}
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Config:
    """What to measure on what."""

    run: Path
    """Folder of the run that encodes."""
    photos: Path
    """Folder of photographs, at any depth."""
    folder: Path
    """Where variants, index and hashes go, and are taken from when they are there."""
    originals: int = 200
    """Photographs of which variants are made."""
    imagededup: Path | None = None
    """Python of an environment that has imagededup."""
    seed: int = 0
    """Of the choice of photographs, of what is cut out, and of the halves."""


def main() -> None:
    """Measure as the command line says."""
    report(tyro.cli(Config, description=__doc__))


def report(config: Config) -> None:
    """Make what is not there yet, and print a line for each way."""
    images = config.folder / "images"
    if not images.is_dir():
        make(config, images)
    path = config.folder / "images.index"
    if not path.exists():
        jaxhash.index(jaxhash.load(config.run), images, path)
    index = jaxhash.open_index(path, jaxhash.load(config.run))
    names = [Path(path).name for path in index.items.titles(index.codes.ids.tolist())]
    chosen, reported = halves(names, config.seed)
    print(f"{len(names)} images, {config.originals} with {len(KINDS)} variants each")
    found = pairs.find(index.codes, similarity=0.5)
    line("features", names, chosen, reported, found, np.arange(0.5, 1, 0.01))
    for threshold in (pairs.SIMILARITY, 0.9, 0.95):
        line("features", names, chosen, reported, found, [threshold])
    seen = looked_at(index, found)
    line("features, then pictures", names, chosen, reported, seen, np.arange(0.9, 1, 0.005))
    line("the default", names, chosen, reported, seen, [looks.SAME])
    for name, hashes in hashed(config, images).items():
        codes = np.array([list(bytes.fromhex(hashes[one])) for one in names], np.uint8)
        near = within(codes, 24)
        line(f"imagededup {name}", names, chosen, reported, near, -np.arange(0.0, 25.0))
        line(f"imagededup {name}, by default", names, chosen, reported, near, [-10.0])


def make(config: Config, images: Path) -> None:
    """Photographs and variants in one folder, under flat names; 'kind@photograph' for a variant."""
    files = sorted(
        path
        for path in config.photos.rglob("*")
        if path.suffix.lower() in (".jpg", ".jpeg", ".png")
    )
    rng = np.random.default_rng(config.seed)
    chosen = set(rng.choice(len(files), config.originals, replace=False).tolist())
    images.mkdir(parents=True)
    for at, path in enumerate(files):
        name = f"{at:05}{path.suffix.lower()}"
        (images / name).write_bytes(path.read_bytes())
        if at in chosen:
            with Image.open(path) as file:
                picture = file.convert("RGB")
            for kind, (variant, quality) in zip(KINDS, variants(picture, rng), strict=True):
                variant.save(images / f"{kind}@{at:05}.jpg", quality=quality)


def variants(picture: Image.Image, rng: np.random.Generator) -> Iterator[tuple[Image.Image, int]]:
    """The variants of a photograph, in the order of `KINDS`, and the JPEG quality of each."""
    width, height = picture.size
    wide, high = round(0.8 * width), round(0.8 * height)
    left, top = (rng.random(2) * (width - wide + 1, height - high + 1)).astype(int).tolist()
    yield picture.resize((width // 2, height // 2), Image.Resampling.BICUBIC), 90
    yield picture, 40
    yield ImageEnhance.Brightness(picture).enhance(1.3), 90
    yield ImageOps.mirror(picture), 90
    yield picture.crop((left, top, left + wide, top + high)), 90


def looked_at(index: jaxhash.ImageIndex, found: Pairs) -> Pairs:
    """Pairs that are alike by their features, as if equal, and others as alike as they look."""
    maybe = found.similarity >= looks.MAYBE
    first, second = found.first[maybe], found.second[maybe]
    alike = np.ones(len(first), np.float32)
    doubt = found.similarity[maybe] < pairs.SIMILARITY - 1e-6
    alike[doubt] = looks.correlations(first[doubt], second[doubt], index.items.path)
    return Pairs(first, second, alike)


def hashed(config: Config, images: Path) -> dict[str, dict[str, str]]:
    """imagededup's hashes of the images, by method and name."""
    kept = config.folder / "hashes.json"
    if not kept.exists():
        if config.imagededup is None:
            return {}
        done = subprocess.run(
            [config.imagededup, "-c", HASHING, images, *HASHES],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        kept.write_text(done.stdout.splitlines()[-1])
    return json.loads(kept.read_text())


def halves(names: list[str], seed: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which images are in the first and in the second half; variants go with their photograph."""
    originals = sorted({original(name) for name in names})
    first = set(np.random.default_rng(seed).permutation(originals)[: len(originals) // 2].tolist())
    chosen = np.array([original(name) in first for name in names])
    return chosen, ~chosen


def original(name: str) -> str:
    """The photograph that an image is, or is made from."""
    return name.rpartition("@")[2].partition(".")[0]


def within(codes: NDArray[np.uint8], radius: int) -> Pairs:
    """Pairs of hashes within a Hamming distance, the nearer the more alike."""
    index = HashIndex(codes)
    ends, distances, others = index.within(codes, radius)
    rows = np.repeat(np.arange(len(codes)), np.diff(ends))
    good = rows < others
    alike = -distances[good].astype(np.float32)
    return Pairs(rows[good], others[good], alike)


def line(
    title: str,
    names: list[str],
    chosen: NDArray[np.bool_],
    reported: NDArray[np.bool_],
    found: Pairs,
    thresholds: NDArray[np.floating] | list[float],
) -> None:
    """Choose a threshold on the first half, and print what it gives on the second."""
    best = max(thresholds, key=lambda one: measures(names, chosen, found, one)["f1"])
    got = measures(names, reported, found, best)
    kinds = ", ".join(f"{kind} {got[kind]:.3f}" for kind in KINDS)
    print(
        f"{title}: at {best:g} precision {got['precision']:.3f}, recall {got['recall']:.3f} "
        f"({kinds}), wrong pairs {got['wrong']:.0f}, largest group {got['largest']:.0f}",
        flush=True,
    )


def measures(
    names: list[str], part: NDArray[np.bool_], found: Pairs, threshold: float
) -> dict[str, float]:
    """Precision and recall of pairs in one group, among the images of a half."""
    good = (found.similarity >= threshold - 1e-6) & part[found.first] & part[found.second]
    ends = (found.first[good], found.second[good])
    shape = (len(names), len(names))
    graph = coo_array((np.ones(good.sum(), bool), ends), shape)
    _, group_of = csgraph.connected_components(graph, directed=False)
    rows = np.flatnonzero(part)
    sizes = np.bincount(group_of[rows])
    together = (sizes * (sizes - 1) // 2).sum()
    keys = [original(names[row]) for row in rows]
    both = np.unique(np.array(keys), return_inverse=True)[1] * shape[0] + group_of[rows]
    _, alike = np.unique(both, return_counts=True)
    true = (alike * (alike - 1) // 2).sum()
    _, families = np.unique(np.array(keys), return_counts=True)
    asked = (families * (families - 1) // 2).sum()
    by_name = dict(zip(names, group_of.tolist(), strict=True))
    result = {
        "precision": true / max(together, 1),
        "recall": true / max(asked, 1),
        "wrong": float(together - true),
        "largest": float(sizes.max()),
    }
    result["f1"] = 2 * true / max(together + asked, 1)
    firsts = {original(name): by_name[name] for name in names if "@" not in name}
    for kind in KINDS:
        made = [names[row] for row in rows if names[row].startswith(f"{kind}@")]
        hits = [by_name[name] == firsts[original(name)] for name in made]
        result[kind] = float(np.mean(hits)) if hits else 0.0
    return result


if __name__ == "__main__":
    main()
