"""The whole path on real handwritten digits: images in, neighbours out.

    jaxhash demo

About a minute on two CPU cores. Trains DLBHC at 48 bits on scikit-learn's 1,797 digits, evaluates
it (expected: mAP above 0.97 by codes alone), builds the index, searches it with a few queries
from coarse to fine, and leaves runs/demo/ with results.json, the training log, a precision-recall
curve, a gallery of answers, the exported model and the index.
"""

from dataclasses import dataclass
from pathlib import Path

from jaxhash.cli.command import Command

ASKING = 5
POOL = 100
"""Candidates of the coarse search, and the cut-off that all rankings are compared at: 7% of the
database."""


@dataclass(frozen=True)
class Demo:
    """Options of `jaxhash demo`."""

    run: Path = Path("runs/demo")
    """Folder for everything the demo leaves."""
    overwrite: bool = False
    """Replace what an earlier demo left there."""
    seed: int = 0
    """Of the weights, the shuffling, the augmentation and the choice of queries."""


def demo(options: Demo) -> None:
    """Run the demo."""
    import time

    import numpy as np

    from jaxhash import encoding, plots, retrieval, runs
    from jaxhash.cli.train import Bar
    from jaxhash.config import Config
    from jaxhash.evaluation import measures
    from jaxhash.evaluation import run as evaluation_run
    from jaxhash.training import loop
    from jaxhash.training.run_data import load_data, split_data
    from search import HashIndex

    start = time.perf_counter()
    config = Config(
        data="digits",
        method="dlbhc",
        bits=48,
        network="resnet-small",
        epochs=10,
        batch_size=64,
        augment="affine",
        eval_every=2,
        seed=options.seed,
    )
    dataset = load_data(config)
    with Bar() as bar:
        model = loop.train(
            config,
            options.run,
            dataset=dataset,
            overwrite=options.overwrite,
            on_step=bar.show,
            say=bar.say,
        )
    trained = time.perf_counter() - start

    found = evaluation_run.evaluate(options.run, dataset=dataset, top=POOL, pool=POOL)
    split = split_data(config, dataset)
    path = options.run / "digits.index"
    encoding.encode_to_index(
        model,
        dataset.items,
        path,
        rows=split.database,
        attachments=retrieval.attachments(model, dataset, "digits", None),
    )
    index = HashIndex.open(path)
    asking = np.random.default_rng(options.seed).choice(split.query, ASKING, replace=False)
    images = dataset.items[asking]
    answers = retrieval.query(model, index, images, 10, pool=POOL)
    assert dataset.labels is not None
    names = [dataset.classes[label] for label in dataset.labels[asking]]
    figure = retrieval.gallery(retrieval.ItemRecords(index), images, answers, names, names)
    plots.save(figure, options.run / "gallery.png")

    found["seconds"] |= {"training": round(trained, 1)}
    found["seconds"]["everything"] = round(time.perf_counter() - start, 1)
    evaluation_run.write_results(options.run, found)
    print(measures.report(found))
    print(f"\n{found['seconds']['everything']:.0f} seconds in all. See:")
    for name, what in (
        ("gallery.png", "queries and their neighbours, right and wrong marked"),
        ("precision_recall.png", "the precision-recall curves"),
        (runs.RESULTS, "every number"),
        (runs.METRICS, "the training log"),
        (runs.WEIGHTS, "the model, for jaxhash encode and for others"),
        ("digits.index", "the index, for jaxhash query"),
    ):
        print(f"  {options.run / name}  {what}")


COMMAND = Command("jaxhash demo", __doc__, Demo, demo)
