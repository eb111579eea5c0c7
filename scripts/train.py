"""Train a network whose latent layer is a binary code.

    python scripts/train.py --data digits --method dlbhc --bits 48 --epochs 20

About a minute on two CPU cores; leaves runs/digits-dlbhc-48/ with the log, the checkpoints and
the exported model, and ends with a validation mAP above 0.97. Then, with the same --run:
scripts/evaluate.py for the figures, scripts/encode.py and scripts/query.py to search.

    python scripts/train.py --data photos/ --method dsh --bits 64 --run runs/photos
    python scripts/train.py --resume --run runs/photos

trains on a folder of class-name/image.jpg, and goes on where a run broke off. On several machines,
start the same command on each with --coordinator host:port --processes N --process I, and a --run
that all of them share.

Exit codes: 0 done; 1 a mistake or a failure, as the message says; 2 wrong options; 75 another of
several processes was lost; 143 stopped by SIGTERM, after a checkpoint. After 75 and 143, --resume
goes on.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import jax
import tyro
from command_line import parse, run
from tqdm import tqdm

from jaxhash import processes, runs, sharding, training
from jaxhash.runs import Config
from jaxhash.training import Progress

LIMITED = 0.5  # share of steps that waited for images from which on the bar says so


@dataclass(frozen=True)
class Train:
    """Options of scripts/train.py."""

    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    run: Path | None = None
    """Folder for everything the run leaves. Default: runs/DATA-METHOD-BITS."""
    resume: bool = False
    """Continue the run in that folder, with its own options; where there is none and --data is
    given, begin."""
    overwrite: bool = False
    """Replace the run in that folder."""
    profile_steps: int = 0
    """Trace so many steps into the folder's profile/, for TensorBoard's profiler or XProf."""
    devices: int | None = None
    """Use so many devices. Default: all that divide the batch."""
    coordinator: str | None = None
    """Several processes train together: host:port of the first one, or auto on a cluster that jax
    knows (Slurm, TPU pods)."""
    processes: int | None = None
    """Their number."""
    process: int | None = None
    """The number of this one, from 0."""


def options() -> Train:
    """The options; those of a run to resume are its own unless given again."""
    default = Train()
    folder = _argument("--run")
    if "--resume" in sys.argv and folder and (Path(folder) / runs.CONFIG).is_file():
        default = Train(config=runs.load_config(folder))
    return parse(Train, __doc__, default)


def _argument(name: str) -> str | None:
    """The value of an option before the rest is parsed: the rest depends on it."""
    for at, word in enumerate(sys.argv):
        if word == name and at + 1 < len(sys.argv):
            return sys.argv[at + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def main() -> None:
    """Train as the command line says."""
    chosen = options()
    if chosen.resume and chosen.overwrite:
        raise ValueError("--resume goes on with a run and --overwrite replaces it: keep one")
    processes.join(chosen.coordinator, chosen.processes, chosen.process)
    config = chosen.config
    folder = chosen.run
    if folder is None:
        name = Path(config.data).stem or "data"
        folder = Path("runs") / f"{name}-{config.method}-{config.bits}"
    if chosen.resume and not (folder / runs.CONFIG).is_file() and _argument("--data") is None:
        raise FileNotFoundError(f"no run to resume in {folder}: check --run, or begin with --data")
    devices = None
    if chosen.devices is not None:
        devices = sharding.take(chosen.devices)
    first = jax.process_index() == 0
    with Bar(disable=not first) as bar:
        training.train(
            config,
            folder,
            resume=chosen.resume,
            overwrite=chosen.overwrite,
            devices=devices,
            on_step=bar.show,
            say=bar.say,
            profile_steps=chosen.profile_steps,
        )
    if first:
        print(f"model, log and checkpoints: {folder}")
        print(f"next: python scripts/evaluate.py --run {folder}")


class Bar:
    """A progress bar over steps, with images/s, time left, loss and validation mAP."""

    def __init__(self, *, disable: bool = False) -> None:
        self.disable = disable
        self.bar: tqdm | None = None

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        if not self.disable:
            tqdm.write(message)

    def show(self, progress: Progress) -> None:
        """Move on to where the run is."""
        if self.bar is None:
            self.bar = tqdm(
                total=progress.steps,
                unit="step",
                disable=self.disable,
                bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
                initial=progress.step,
            )
        self.bar.set_postfix_str(describe(progress), refresh=False)
        self.bar.update(progress.step - self.bar.n)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()


def describe(progress: Progress) -> str:
    """The numbers behind the bar.

    Example:
        >>> describe(Progress(1, 10, 0.1, loss=0.5, images_per_second=1234.5))
        '1,234 images/s, loss 0.500'
    """
    parts = []
    if progress.images_per_second is not None:
        parts.append(f"{progress.images_per_second:,.0f} images/s")
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.validation_map is not None:
        parts.append(f"validation mAP {progress.validation_map:.4f}")
    if progress.input_share > LIMITED:
        parts.append("input is the limit")
    return ", ".join(parts)


if __name__ == "__main__":
    run(main)
