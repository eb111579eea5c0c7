"""Give every reader of foreign files thousands of damaged ones: each has to be read or refused.

    python scripts/benchmarks/fuzz_readers.py --files 10000
    python scripts/benchmarks/fuzz_readers.py --readers pth npz --files 200 --seed 1
    python scripts/benchmarks/fuzz_readers.py --readers pth --only 4711  # one file, with traceback

Small sound files are made here (fuzz_seeds.py) and damaged: bits flipped, bytes replaced, cut
short, made longer, blocks swapped, extreme numbers put in, emptied. Each is read in a child process
with limited memory and time. A reader may accept a file or refuse it, by a ValueError that names
the file or an OSError; anything else is unexpected, as is a child that dies or hangs. Prints a line
for each reader and each unexpected file, by its number; exits with 1 if there is one. `changed`
counts accepted files that gave another result than the sound one.
"""

import json
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import tyro
from fuzz_seeds import READERS, Pack, Seed, digest

START_SECONDS = 300.0
"""What a child may take until it has read the sound files: imports and compilation."""


@dataclass(frozen=True)
class Options:
    """What is tried; every damaged file follows from --seed, its reader and its number alone."""

    readers: tuple[str, ...] = tuple(READERS)
    """Readers to try."""
    files: int = 1000
    """Damaged files for each reader."""
    seed: int = 0
    """Decides the damage."""
    memory: int = 1024
    """MiB a child may take beyond what it has after reading the sound files."""
    seconds: float = 20.0
    """What a reader may take for one file."""
    only: int | None = None
    """Read the file of this number alone, in this process, and show what is raised."""
    child: int | None = None
    """Used by the script itself: go on from this number and report each file on a line."""


# ---------------------------------------------------------------- damage


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """The content, damaged in one to three ways."""
    for _ in range(rng.integers(1, 4)):
        ways = (_flip, _replace, _cut, _extend, _swap, _number, _number, _repeat, _drop)
        content = ways[rng.integers(len(ways))](content, rng)
    return b"" if rng.random() < 0.003 else content


def _block(content: bytes, rng: np.random.Generator) -> tuple[int, int]:
    size = int(rng.integers(1, 65))
    start = int(rng.integers(0, max(len(content) - size, 0) + 1))
    return start, start + size


def _flip(content: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(content)
    for at in rng.integers(0, len(data), int(rng.integers(1, 5))) if data else ():
        data[at] ^= 1 << int(rng.integers(8))
    return bytes(data)


def _replace(content: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(content)
    for at in rng.integers(0, len(data), int(rng.integers(1, 9))) if data else ():
        data[at] = int(rng.integers(256))
    return bytes(data)


def _cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(len(content) + 1))]


def _extend(content: bytes, rng: np.random.Generator) -> bytes:
    size = int(rng.integers(1, 300))
    return content + (bytes(size) if rng.random() < 0.5 else rng.bytes(size))


def _swap(content: bytes, rng: np.random.Generator) -> bytes:
    start, end = _block(content, rng)
    to, until = _block(content, rng)
    data = bytearray(content)
    data[start:end], data[to:until] = content[to:until], content[start:end]
    return bytes(data)


def _number(content: bytes, rng: np.random.Generator) -> bytes:
    size = int(rng.choice([1, 2, 4, 8]))
    half = 1 << (8 * size - 1)
    small = (1 << int(rng.integers(8 * size))) - int(rng.integers(2))
    value = [0, 2 * half - 1, half, half - 1, small][rng.integers(5)]
    at = int(rng.integers(0, max(len(content) - size, 0) + 1))
    order: Any = "little" if rng.random() < 0.5 else "big"
    return content[:at] + value.to_bytes(size, order) + content[at + size :]


def _repeat(content: bytes, rng: np.random.Generator) -> bytes:
    start, end = _block(content, rng)
    return content[:end] + content[start:end] * int(rng.integers(1, 4)) + content[end:]


def _drop(content: bytes, rng: np.random.Generator) -> bytes:
    start, end = _block(content, rng)
    return content[:start] + content[end:]


# ---------------------------------------------------------------- in the child


def write(files: dict[str, bytes], folder: Path) -> None:
    """A folder that holds these files and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def damaged(
    seeds: list[Seed], options: Options, reader: str, number: int
) -> tuple[int, dict[str, bytes]]:
    """Which seed the file of this number comes from, and its files with the damage in one."""
    rng = np.random.default_rng([options.seed, zlib.crc32(reader.encode()), number])
    chosen = int(rng.integers(len(seeds)))
    targets: list[tuple[str, bytes, Pack]] = seeds[chosen].targets()
    name, content, pack = targets[rng.integers(len(targets))]
    return chosen, seeds[chosen].files | {name: pack(damage(content, rng))}


def outcome(seed: Seed, folder: Path, reader: str, sound: int) -> tuple[str, str]:
    """How reading a folder ended, and what was wrong with that."""
    try:
        return ("same" if digest(seed.read(folder)) == sound else "changed"), ""
    except OSError:
        return "refused", ""
    except BaseException as error:
        from jaxhash.data import Undecodable

        parts = {part for name in seed.files for part in name.split("/")}
        known = {str(folder), reader, *parts}
        named = isinstance(error, Undecodable) or any(word in str(error) for word in known)
        if isinstance(error, ValueError) and named:
            return "refused", ""
        return "unexpected", f"{type(error).__name__}: {str(error)[:300]}"


def child(options: Options, reader: str, first: int) -> None:
    """Read the damaged files from the first on, and report each with a line of JSON."""
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no report
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "files"
        seeds = list(READERS[reader]())
        sound = []
        for seed in seeds:
            write(seed.files, folder)
            sound.append(digest(seed.read(folder)))
        limit = _taken() + (options.memory << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        print("ready", file=report, flush=True)
        for number in range(first, options.files):
            chosen, files = damaged(seeds, options, reader, number)
            write(files, folder)
            result = outcome(seeds[chosen], folder, reader, sound[chosen])
            print(json.dumps([number, *result]), file=report, flush=True)


def _taken() -> int:
    """Bytes of address space this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def again(options: Options, reader: str) -> None:
    """Read one damaged file in this process, and show what is raised."""
    assert options.only is not None
    seeds = list(READERS[reader]())
    chosen, files = damaged(seeds, options, reader, options.only)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "files"
        write(files, folder)
        for name, content in files.items():
            if content != seeds[chosen].files[name]:
                print(f"{name}: {len(seeds[chosen].files[name])} -> {len(content)} bytes")
        try:
            print(f"accepted: {seeds[chosen].read(folder)!r:.1000}")
        except BaseException:
            traceback.print_exc()


# ---------------------------------------------------------------- in the parent


def fuzz(options: Options, reader: str, scratch: str) -> tuple[Counter[str], list[str]]:
    """Counts of how the files of one reader ended, and a line for each unexpected one.

    scratch: a folder for temporary files, which a child that is killed leaves behind.
    """
    counts: Counter[str] = Counter()
    found: list[str] = []
    number = 0
    while number < options.files:
        command = [sys.executable, __file__, "--readers", reader, "--files", str(options.files)]
        command += ["--seed", str(options.seed), "--memory", str(options.memory)]
        command += ["--child", str(number)]
        # One heap: each further one would take 64 MiB of the address space that is limited.
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"MALLOC_ARENA_MAX": "1", "TMPDIR": scratch},
        )
        assert process.stdout is not None
        try:
            if _line(process.stdout, START_SECONDS) != "ready":
                raise RuntimeError(f"{reader}: its sound files could not be read")
            while number < options.files:
                line = _line(process.stdout, options.seconds)
                if not line:
                    hung = line is None
                    process.kill()
                    code = process.wait()
                    kind = "hangs" if hung else "kills"
                    counts[kind] += 1
                    found.append(f"{reader} {number}: {kind}" + ("" if hung else f" ({code})"))
                    number += 1
                    break
                number, kind, detail = json.loads(line)
                counts[kind] += 1
                if detail:
                    found.append(f"{reader} {number}: {detail}")
                number += 1
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
    return counts, found


def _line(stream: IO[bytes], seconds: float) -> str | None:
    """The next line of a child; "" if it has ended, None if it took longer."""
    line = b""
    until = time.monotonic() + seconds
    while not line.endswith(b"\n"):
        left = until - time.monotonic()
        if left < 0 or not select.select([stream], [], [], left)[0]:
            return None
        piece = os.read(stream.fileno(), 1)
        if not piece:
            return ""
        line += piece
    return line.decode().rstrip("\n")


def main() -> None:
    """Fuzz the chosen readers and print what came of it."""
    options = tyro.cli(Options, description=__doc__)
    unknown = [reader for reader in options.readers if reader not in READERS]
    if unknown:
        sys.exit(f"--readers: no {', '.join(unknown)}; there are {', '.join(READERS)}")
    if options.child is not None:
        child(options, options.readers[0], options.child)
        return
    if options.only is not None:
        again(options, options.readers[0])
        return
    columns = ("files", "same", "changed", "refused", "unexpected", "kills", "hangs", "seconds")
    print(f"{'reader':14}" + "".join(f"{name:>11}" for name in columns), flush=True)
    wrong = 0
    for reader in options.readers:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            counts, found = fuzz(options, reader, scratch)
        seconds = round(time.monotonic() - start)
        numbers = [sum(counts.values()), *(counts[name] for name in columns[1:-1]), seconds]
        print(f"{reader:14}" + "".join(f"{number:11}" for number in numbers), flush=True)
        for line in found:
            print(f"    {line}", flush=True)
        wrong += len(found)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
