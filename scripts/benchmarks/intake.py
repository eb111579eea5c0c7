"""Seconds to index photographs of 12 megapixels, and the share of decoding.

    python scripts/benchmarks/intake.py --run runs/photos --photos photos/ --files 1000

Makes JPEG files of 4000 x 3000 pixels, quality 92, from photographs: enlarged, with noise as of a
camera, so that they have its size. `--distinct` of them, under `--files` names (hard links). Then
times `jaxhash encode` on all of them, and the decoding of as many alone, with as many threads.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from jaxhash.data import folders

SIZE = (4000, 3000)
NOISE = 5.0  # standard deviation, of 255


def make(files: list[Path], folder: Path, count: int) -> None:
    """One large JPEG of each photograph, under names up to a count."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, NOISE, (*SIZE[::-1], 1)).astype(np.float32)
    for at, path in enumerate(files):
        with Image.open(path) as file:
            large = file.convert("RGB").resize(SIZE, Image.Resampling.BICUBIC)
        pixels = np.asarray(large, np.float32) + np.roll(noise, at * 997)
        noisy = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        noisy.save(folder / f"{at:05}.jpg", quality=92)
    for at in range(len(files), count):
        os.link(folder / f"{at % len(files):05}.jpg", folder / f"{at:05}.jpg")


def main(run: Path, photos: Path, files: int = 1000, distinct: int = 100) -> None:
    """Time it.

    Args:
        run: folder of the run that encodes.
        photos: folder of photographs to make large ones of.
        files: how many to index.
        distinct: how many of them differ.
    """
    found = sorted(photos.rglob("*.jp*g")) + sorted(photos.rglob("*.JP*G"))
    chosen = np.linspace(0, len(found) - 1, min(distinct, files)).astype(int)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "large"
        folder.mkdir()
        make([found[at] for at in chosen], folder, files)
        size = np.mean([path.stat().st_size for path in folder.iterdir()]) / 1e6
        print(f"{files:,} files, {len(chosen)} differ, {size:.1f} MB on average", flush=True)
        words = ("encode", "--run", run, "--data", folder, "--out", Path(temporary) / "large.index")
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "jaxhash", *map(str, words)], check=True, capture_output=True
        )
        whole, used = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        worked = used.ru_utime + used.ru_stime
        print(f"jaxhash encode: {whole:.1f} s, {worked:.1f} s of CPU", flush=True)
        items = folders.load_images(folder, image_size=224).items
        begun, before = time.perf_counter(), time.process_time()
        for start in range(0, files, 64):
            items[np.arange(start, min(start + 64, files))]
        alone, own = time.perf_counter() - begun, time.process_time() - before
        share = own / max(worked, 1e-9)
        print(f"decoding alone: {alone:.1f} s, {own:.1f} s of CPU, {share:.2f} of that")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
