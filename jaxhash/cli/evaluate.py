"""Say how good a trained run's codes are, under its own protocol or another.

    jaxhash evaluate --run runs/digits-orthohash-48

Seconds for digits, about a minute for 70,000 small images on two CPU cores; prints mAP and
precision for codes, features and coarse-to-fine search (0.97 and more on digits), and leaves
results.json, precision_recall.png, precision_at_k.png and training.png in the run's folder. All
figures are tie-aware, and results.json names protocol, bits, cut-offs, queries and seeds. For
images without labels it prints the share of the features' nearest neighbours that the codes find,
the balance of the bits and the number of distinct codes. Several processes share the images with
--coordinator, as in jaxhash train.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from jaxhash.cli import group
from jaxhash.cli.command import Command
from jaxhash.cli.group import Group


@dataclass(frozen=True)
class Evaluate:
    """Options of `jaxhash evaluate`."""

    run: Path
    """Folder of the trained run."""
    protocol: str | None = None
    """Which images are queries and which the database: p-all, p-5k, p-dsh, fraction, unseen or
    parts. Default: the protocol of the run."""
    protocol_options: dict[str, bool | int | float] = field(default_factory=dict)
    """Options of that protocol, by name: train_share 0.8 for fraction, queries_per_class 10 for
    p-5k; a wrong name lists them."""
    data_dir: str | None = None
    """Folder of the datasets, where it is not the one the run was trained from."""
    top: int = 1000
    """Cut-off of the mean average precision at the top."""
    pool: int = 1000
    """Candidates of the coarse search."""
    batch_size: int | None = None
    """Images per call of the network. Default: what the network is meant for, mostly 256."""
    group: Annotated[Group, tyro.conf.arg(name="")] = field(default_factory=Group)


def evaluate(options: Evaluate) -> None:
    """Evaluate as the options say."""
    first = group.join(options.group)
    from tqdm import tqdm

    from jaxhash.evaluation import measures, order, without_labels
    from jaxhash.evaluation import run as evaluation_run

    with tqdm(unit="image", unit_scale=True, leave=False, disable=not first) as bar:
        found = evaluation_run.evaluate(
            options.run,
            data_dir=options.data_dir,
            protocol=options.protocol,
            protocol_options=options.protocol_options,
            top=options.top,
            pool=options.pool,
            batch_size=options.batch_size,
            say=tqdm.write if first else lambda message: None,
            on_batch=bar.update,
        )
    if not first:
        return
    print((measures if found.get("labels", True) else without_labels).report(found))
    if "order" in found:
        print(order.said(found))
    for path in evaluation_run.write_results(options.run, found):
        print(path)


COMMAND = Command("jaxhash evaluate", __doc__, Evaluate, evaluate)
