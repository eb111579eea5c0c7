"""How long the commands take from the shell's prompt to their answer, in wall-clock and CPU time.

    python scripts/benchmarks/startup.py   # after `make demo`
    python scripts/benchmarks/startup.py --run runs/photos --index photos.index --image beach.jpg

Each command runs in a fresh process, `--runs` times; the first run of each, which may compile, is
printed apart. Prints the least and the median of wall-clock and of user and system seconds.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Options:
    """What is started."""

    run: Path = Path("runs/demo")
    """Folder of a finished run of images."""
    index: Path = Path("runs/demo/digits.index")
    """An index that it made."""
    image: Path | None = None
    """The query image; a grey square by default."""
    runs: int = 5
    """Measured starts of each command, after a first one."""


def seconds_of(command: list[str]) -> tuple[float, float]:
    """Wall-clock seconds, and user plus system seconds, of one process and its children."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def measure(options: Options) -> None:
    """Start each command and print its times."""
    jaxhash = [sys.executable, "-m", "jaxhash"]
    with tempfile.TemporaryDirectory() as folder:
        image = options.image
        if image is None:
            from PIL import Image

            image = Path(folder) / "grey.png"
            Image.new("L", (32, 32), 128).save(image)
        query = ["query", "--run", options.run, "--index", options.index, image]
        commands = {
            "import jaxhash": [sys.executable, "-c", "import jaxhash"],
            "import search": [sys.executable, "-c", "import search"],
            "jaxhash --help": [*jaxhash, "--help"],
            "jaxhash train --help": [*jaxhash, "train", "--help"],
        }
        if options.run.is_dir() and options.index.is_file():
            commands["jaxhash query, one image"] = [*jaxhash, *map(str, query)]
        else:
            print(f"no query: {options.run} or {options.index} is not there")
        print(f"{'':26}{'first':>12}{'least':>12}{'median':>12}   wall / processor seconds")
        for name, command in commands.items():
            first = seconds_of(command)
            rest = list(zip(*(seconds_of(command) for _ in range(options.runs)), strict=True))
            cells = [first, tuple(map(min, rest)), tuple(map(statistics.median, rest))]
            row = "".join(f"{f'{wall:.2f} / {cpu:.2f}':>14}" for wall, cpu in cells)
            print(f"{name:24}{row}")


if __name__ == "__main__":
    measure(tyro.cli(Options, description=__doc__))
