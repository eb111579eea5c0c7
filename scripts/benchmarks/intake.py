"""Seconds to index photographs of 12 megapixels, their share of decoding, and the memory.

    python scripts/benchmarks/intake.py --run runs/photos --photos photos/ --files 1000

Makes JPEG files of 4000 x 3000 pixels, quality 92, from at most 500 photographs: enlarged, with
noise as of a camera, so that they have its size, and cut out, each file elsewhere. They are made
in a folder that goes again, or in `--folder`, which stays, and in which those that are there are
taken. Then times `jaxhash encode` on all of them, and the decoding alone of a thousand, evenly
among them, with as many threads.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageChops

from jaxhash.data import folders

SIZE = (4000, 3000)
NOISE = 5.0  # standard deviation, of 255
DECODED = 1000  # files that are decoded alone
MARGIN = 512  # pixels by which what is cut out of is larger
PHOTOS = 500  # that are enlarged, which takes longest


def make(photos: list[Path], folder: Path, files: int) -> None:
    """So many large JPEGs, under their numbers."""
    sides = tuple(side + MARGIN for side in reversed(SIZE))
    noise = np.random.default_rng(0).normal(128, NOISE, sides).round().clip(0, 255)
    grain = Image.fromarray(noise.astype(np.uint8)).convert("RGB")
    numbers = [range(at, files, len(photos)) for at in range(len(photos))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(cut, photos, numbers, repeat(grain), repeat(folder)):
            pass


def cut(photo: Path, numbers: range, grain: Image.Image, folder: Path) -> None:
    """A photograph's large JPEGs that are not there yet: a cut-out of it for each number."""
    wanted = [one for one in numbers if not (folder / f"{one:05}.jpg").exists()]
    if not wanted:
        return
    with Image.open(photo) as file:
        large = file.convert("RGB").resize(grain.size, Image.Resampling.BICUBIC)
    large = ImageChops.add(large, grain, 1, -128)
    for number in wanted:
        x, y = np.random.default_rng(number).integers(0, MARGIN + 1, 2).tolist()
        made = folder / f"{number:05}.part"
        large.crop((x, y, x + SIZE[0], y + SIZE[1])).save(made, "JPEG", quality=92)
        made.rename(made.with_suffix(".jpg"))


def measure(run: Path, folder: Path, out: Path) -> None:
    """Index a folder's files, then decode some of them alone, and print both."""
    paths = sorted(folder.glob("*.jpg"))
    size = np.mean([path.stat().st_size for path in paths]) / 1e6
    print(f"{len(paths):,} files, {size:.1f} MB on average; load {os.getloadavg()}", flush=True)
    words = ("encode", "--run", run, "--data", folder, "--out", out)
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "jaxhash", *map(str, words)], check=True, capture_output=True
    )
    whole, used = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    each = (used.ru_utime + used.ru_stime) / len(paths)
    print(
        f"jaxhash encode: {whole:.1f} s, {1e3 * each:.1f} ms of CPU a file, at most "
        f"{used.ru_maxrss / 2**20:.2f} GiB of memory; load {os.getloadavg()}",
        flush=True,
    )
    items = folders.load_images(folder, image_size=224).items
    rows = np.linspace(0, len(paths) - 1, min(DECODED, len(paths))).astype(int)
    begun, before = time.perf_counter(), time.process_time()
    for start in range(0, len(rows), 64):
        items[rows[start : start + 64]]
    alone = (time.perf_counter() - begun) / len(rows)
    own = (time.process_time() - before) / len(rows)
    print(
        f"decoding alone: {1e3 * alone:.1f} ms a file, {1e3 * own:.1f} ms of CPU, "
        f"{own / max(each, 1e-9):.2f} of that"
    )


def main(run: Path, photos: Path, files: int = 1000, folder: Path | None = None) -> None:
    """Time it.

    Args:
        run: folder of the run that encodes.
        photos: folder of photographs to make large ones of.
        files: how many to index.
        folder: where to make them, and let them be; without it they are gone at the end.
    """
    found = sorted(photos.rglob("*.jp*g")) + sorted(photos.rglob("*.JP*G"))
    # Evenly over all of them, as files are sorted by class.
    count = min(files, len(found), PHOTOS)
    chosen = [found[at * len(found) // count] for at in range(count)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "large" if folder is None else folder
        folder.mkdir(exist_ok=True)
        make(chosen, folder, files)
        measure(run, folder, Path(temporary) / "large.index")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
