"""Speed of encoding images, beside that of the network alone, and the memory that it takes.

    python scripts/benchmarks/encoding.py --out encoding.json
    python scripts/benchmarks/encoding.py --memory-items 0      # the rates alone, a minute

An untrained network, as the rate does not depend on its weights. In turn, round after round: its
forward pass alone, on batches that are already on the device; `encode` from an array of uint8; the
same into an index file with codes and features. Then a folder of JPEG files, made here: decoding
alone, and decoding, computing and writing together; the folder takes at best as long as the slower
of the two, where both have processors of their own, and their sum where they share them. Last, how
the memory in use grows while very many images, made as they are asked for, go into an index.

About four minutes on two cores at the defaults.
"""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from limits import in_turn
from PIL import Image
from tqdm import tqdm

from jaxhash import nets, runs
from jaxhash.cli.command import Command, run
from jaxhash.data import Images
from jaxhash.encoding import encode, encode_to_index
from jaxhash.environment import environment
from jaxhash.models import Model
from jaxhash.spec import ModelSpec

FEATURES = "float16"


@dataclass(frozen=True)
class Benchmark:
    """Options of scripts/benchmarks/encoding.py."""

    network: str = "resnet"
    """A network for images."""
    size: int = 32
    """Side of its images in pixels."""
    bits: int = 48
    """Length of the codes."""
    batch_size: int = 256
    """Images in a batch."""
    items: int = 8192
    """Images in an array, a multiple of the batch."""
    rounds: int = 5
    """Timed rounds, after one that is not counted."""
    files: int = 2000
    """JPEG files in the folder; 0 for none."""
    file_size: int = 256
    """Their side in pixels."""
    memory_items: int = 1_000_000
    """Images whose encoding is watched for memory; 0 for none."""
    memory_size: int = 16
    """Their side in pixels; they go through resnet-small."""
    out: Path | None = None
    """Also write everything as JSON."""


class Made:
    """`count` images of random pixels, made when asked for, the same ones every time."""

    def __init__(self, count: int, size: int) -> None:
        self.shape = (count, size, size, 3)
        self.stock = np.random.default_rng(0).integers(0, 256, (4096, *self.shape[1:]), np.uint8)

    def __len__(self) -> int:
        """Number of images."""
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """The images of some rows."""
        return self.stock[rows % len(self.stock)]


def untrained(options: Benchmark, network: str, size: int) -> Model:
    """A model with the weights that training starts from."""
    spec = ModelSpec(
        network=network,
        method="dlbhc",
        bits=options.bits,
        classes=tuple(map(str, range(10))),
        item_shape=(size, size, 3),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        activation="sigmoid",
        classifier="bias",
        threshold=0.5,
        precision="float32",
    )
    variables = nets.init(spec.build(), jax.random.key(0), (1, *spec.item_shape))
    return Model(spec, jax.device_get(variables))


def forward_alone(model: Model, images: np.ndarray, batch_size: int) -> Callable[[], None]:
    """The network, and nothing else, over the images as float32 batches on the device."""
    module = model.spec.build()
    prepare = jax.jit(model.spec.prepare)
    parts = [
        jax.block_until_ready(prepare(images[start : start + batch_size]))
        for start in range(0, len(images), batch_size)
    ]
    variables = jax.device_put(dict(model.variables))

    @jax.jit
    def forward(variables: Any, part: jax.Array) -> Any:
        return nets.apply(module, variables, part, train=False)[0]

    def once() -> None:
        for part in parts:
            jax.block_until_ready(forward(variables, part))

    return once


def make_files(folder: Path, count: int, size: int) -> list[str]:
    """JPEG files of smooth random pictures, whose size on disk is that of photographs."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (size // 8, size // 8, 3), np.uint8))
        paths.append(str(folder / f"{i:06}.jpg"))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def resident_bytes() -> int:
    """Memory that this process holds, in bytes; Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def memory_while_encoding(options: Benchmark, folder: Path) -> dict[str, float]:
    """Resident memory after a tenth and after all of the images, in MiB, and the rate."""
    model = untrained(options, "resnet-small", options.memory_size)
    images = Made(options.memory_items, options.memory_size)
    held: list[int] = []
    start = time.perf_counter()
    with tqdm(total=len(images), unit="image", desc="memory") as bar:

        def watch(count: int) -> None:
            bar.update(count)
            held.append(resident_bytes())

        encode_to_index(
            model, images, folder / "many.index", batch_size=options.batch_size, on_batch=watch
        )
    seconds = time.perf_counter() - start
    held_mib = np.array(held) / 2**20
    tenth = max(len(held) // 10, 1)
    return {
        "images": len(images),
        "images_per_second": len(images) / seconds,
        "mib_after_a_tenth": float(held_mib[tenth - 1]),
        "mib_most_after_that": float(held_mib[tenth - 1 :].max()),
        "mib_at_the_end": float(held_mib[-1]),
    }


def benchmark(options: Benchmark) -> None:
    """Measure as the options say, and print a table."""
    if options.items % options.batch_size:
        raise ValueError(f"items is {options.items}: give a multiple of {options.batch_size}")
    model = untrained(options, options.network, options.size)
    images = Made(options.items, options.size)[np.arange(options.items)]
    report: dict[str, Any] = {
        "options": dataclasses.asdict(options) | {"out": str(options.out)},
        "environment": environment(),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = options.batch_size
        tasks: dict[str, Callable[[], Any]] = {
            "forward pass alone": forward_alone(model, images, size),
            "array to arrays": lambda: encode(model, images, batch_size=size),
            "array to index file": lambda: encode_to_index(
                model, images, folder / "one.index", batch_size=size, features=FEATURES
            ),
        }
        counts = dict.fromkeys(tasks, options.items)
        times = in_turn(tasks, options.rounds)
        if options.files:
            files = Images(make_files(folder, options.files, options.file_size), size=options.size)
            rows = [np.arange(i, min(i + size, len(files))) for i in range(0, len(files), size)]
            tasks = {
                "JPEG: decoding alone": lambda: [files[part] for part in rows],
                "JPEG: folder to index file": lambda: encode_to_index(
                    model, files, folder / "two.index", batch_size=size, features=FEATURES
                ),
            }
            counts |= dict.fromkeys(tasks, len(files))
            times |= in_turn(tasks, options.rounds)
        rates = {
            name: {
                "best": counts[name] / min(seconds),
                "median": counts[name] / statistics.median(seconds),
            }
            for name, seconds in times.items()
        }
        report |= {"seconds": times, "images_per_second": rates}
        alone = rates["forward pass alone"]
        print(f"{options.network}, {options.size} pixels, batches of {size}, float32")
        print(f"{'images/s':28} {'best':>8} {'median':>8}   share of the forward pass (median)")
        for task, rate in rates.items():
            share = rate["median"] / alone["median"]
            print(f"{task:28} {rate['best']:8.0f} {rate['median']:8.0f}   {share:.3f}")
        if options.memory_items:
            report["memory"] = memory = memory_while_encoding(options, folder)
            print(
                f"{memory['images']:.0f} images of {options.memory_size} pixels, resnet-small: "
                f"{memory['images_per_second']:.0f} images/s; {memory['mib_after_a_tenth']:.0f} MiB"
                f" held after a tenth, at most {memory['mib_most_after_that']:.0f} after that"
            )
    if options.out is not None:
        runs.write_json(options.out, report)


COMMAND = Command("encoding.py", __doc__, Benchmark, benchmark)

if __name__ == "__main__":
    run(COMMAND)
