"""Train a network whose latent layer is a binary code.

    jaxhash train --data digits --bits 48 --epochs 20

About a minute on two CPU cores; leaves runs/digits-orthohash-48/ with the log, the checkpoints and
the exported model. Then, with the same --run: jaxhash evaluate, jaxhash encode, jaxhash query.

    jaxhash train --data photos/ --bits 64 --run runs/photos
    jaxhash train --data camera/ --bits 128 --run runs/camera
    jaxhash train --resume --run runs/photos
    jaxhash train --config configs/mnist-dlbhc.toml --run runs/mnist

train on a folder of class-name/image.jpg; on one of images without sub-folders, so without labels
(both on a network pretrained on ImageNet); continue a run that was broken off; follow a recipe. On
several machines, start the same command on each with --coordinator, --processes and --process.
--backbone is another spelling of --network.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from jaxhash import runs
from jaxhash.cli import group, options
from jaxhash.cli.command import Command
from jaxhash.cli.group import Group
from jaxhash.config import Config

if TYPE_CHECKING:
    from tqdm import tqdm

    from jaxhash.training.loop import Progress

LIMITED = 0.5  # the bar says so where more than this share of the steps waited for images


@dataclass(frozen=True)
class Train:
    """Options of `jaxhash train`."""

    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    run: Path | None = None
    """Folder for everything the run leaves. Default: runs/DATA-METHOD-BITS."""
    resume: bool = False
    """Continue the run in that folder, with its own options; where there is none, begin one if
    --data is given."""
    overwrite: bool = False
    """Replace the run in that folder."""
    profile_steps: int = 0
    """Number of steps to trace into the folder's profile/, for TensorBoard's profiler or XProf."""
    devices: int | None = None
    """Number of devices to use, of all processes together. Default: all; or, of one process, as
    many as divide the batch."""
    group: Annotated[Group, tyro.conf.arg(name="")] = field(default_factory=Group)


COMMON = (
    *("data", "data_dir", "run", "method", "bits", "network", "epochs", "weights"),
    *("resume", "overwrite"),
)

GROUPS = {
    "data": (
        *("data", "data_dir", "download", "protocol", "protocol_options", "validation"),
        *("max_undecodable", "image_size"),
    ),
    "method": ("method", "bits", "options", "mirror", "shift"),
    "network": (
        *("network", "network_options", "hidden", "finetune_blocks", "weights", "precision"),
    ),
    "optimisation": (
        *("recipe", "epochs", "steps", "batch_size", "batches", "augment", "average", "seed"),
        *("optimizer", "learning_rate", "momentum", "nesterov", "beta2", "clip_norm"),
        *("schedule", "drops", "drop_factor", "warmup", "final_rate"),
        *("weight_decay", "decay_all", "label_smoothing"),
        *("head_rate", "latent_rate", "classifier_rate", "bias_rate", "start"),
    ),
    "output and run": (
        *("run", "resume", "overwrite", "eval_every", "log_every", "tensorboard"),
        *("profile_steps", "resident", "devices", "coordinator", "processes", "process"),
    ),
}


def defaults(words: Sequence[str]) -> Train | None:
    """The options that a resumed run was begun with; those given again override them."""
    folder = options.value_of(words, "run")
    if "--resume" not in words or not folder:
        return None
    if (Path(folder) / runs.CONFIG).is_file():
        return Train(config=runs.load_config(folder))
    if options.value_of(words, "data") is None and options.value_of(words, "config") is None:
        raise FileNotFoundError(f"no run to resume in {folder}; check --run, or begin with --data")
    return None


def train(chosen: Train) -> None:
    """Train as the options say."""
    from jaxhash import sharding
    from jaxhash.training import defaults, loop

    if chosen.resume and chosen.overwrite:
        raise ValueError("--resume goes on with a run and --overwrite replaces it; keep one")
    first = group.join(chosen.group, notices=True)
    config = chosen.config
    folder = chosen.run
    if folder is None:
        config = defaults.with_defaults(config)
        name = Path(config.data).stem or "data"
        folder = Path("runs") / f"{name}-{config.method}-{config.bits}"
    devices = None if chosen.devices is None else sharding.take(chosen.devices)
    with Bar(disable=not first) as bar:
        loop.train(
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
        print(f"next: jaxhash evaluate --run {folder}")


class Bar:
    """A progress bar over steps, with images/s, time left, loss and validation mAP."""

    def __init__(self, *, disable: bool = False) -> None:
        self.disable = disable
        self.bar: tqdm | None = None

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        from tqdm import tqdm

        if not self.disable:
            tqdm.write(message)

    def show(self, progress: "Progress") -> None:
        """Move the bar to where the run is."""
        from tqdm import tqdm

        if self.bar is not None and self.bar.total != progress.steps:
            self.bar.close()  # it counted the images whose features a backbone computed
            self.bar = None
        if self.bar is None:
            self.bar = tqdm(
                total=progress.steps,
                unit=progress.unit,
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


def describe(progress: "Progress") -> str:
    """The numbers that stand beside the bar.

    Example:
        >>> from jaxhash.training.loop import Progress
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


COMMAND = Command(
    "jaxhash train",
    __doc__,
    Train,
    train,
    common=COMMON,
    groups=GROUPS,
    default=defaults,
    either=(("epochs", "steps"),),
    spellings={"backbone": "network"},
)
