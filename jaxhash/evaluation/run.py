"""Evaluate a finished run under a protocol, and write results.json and figures."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxhash import models, option_checks, plots, processes, runs
from jaxhash.config import Config
from jaxhash.data import Dataset, Split
from jaxhash.encoding import Encoded, encode
from jaxhash.environment import environment
from jaxhash.evaluation import measures, order, without_labels
from jaxhash.evaluation.plots import pr_curve, precision_at_k, training_curves
from jaxhash.evaluation.stopwatch import Stopwatch
from jaxhash.models import Model
from jaxhash.training import kept_features, metrics_log, run_data
from jaxhash.unlabelled import FITS

STAGES = {"encoding": "encoding images"} | {
    name: f"ranking by {title}" for name, title in measures.RANKINGS.items()
}
"""What is said at each stage of an evaluation."""


def evaluate(
    folder: Path | str,
    *,
    dataset: Dataset | None = None,
    data_dir: str | None = None,
    protocol: str | None = None,
    protocol_options: dict[str, bool | int | float] | None = None,
    top: int = 1000,
    pool: int = 1000,
    batch_size: int | None = None,
    say: Callable[[str], None] = lambda message: None,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate a finished run; the results are those of `measures.evaluate`.

    Where its images have no labels, those of `without_labels.evaluate`.

    dataset: the run's own, where it is loaded already. protocol, protocol_options: the run's own
    unless others are given. top: cut-off of mAP@top. pool: candidates of the coarse search.
    on_batch: called with the number of images of each batch encoded.

    With several processes (`jax.distributed`) all call this with the same arguments; each encodes
    its part of the images, the first one ranks, and all return what it found.

    Raises:
        FileNotFoundError: the folder holds no finished run.
        ValueError: a number is below 1, or the protocol does not fit the data; or several
            processes differ in them.

    Example:
        >>> evaluate("runs/demo")["rankings"]["codes"]["mAP"]  # doctest: +SKIP
        0.98
    """
    for name, value in (("top", top), ("pool", pool), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; give at least 1")
    load = functools.partial(
        _load, Path(folder), dataset, data_dir, protocol, protocol_options, say
    )
    loaded = processes.every(load)
    _check_same(loaded, top=top, pool=pool)
    model, config, dataset, split = loaded
    watch = Stopwatch(lambda name: say(STAGES[name]))
    about = {"data": dataset.name, "method": model.spec.method, "network": model.spec.network}
    watch("encoding")
    encoded, known = _encoded(Path(folder), loaded, batch_size=batch_size, on_batch=on_batch)

    def measure() -> dict[str, Any]:
        numbers: dict[str, Any] = {"bits": model.spec.bits, "seed": config.seed, "pool": pool}
        if split is None:
            results = without_labels.evaluate(encoded, on_stage=watch, **numbers)
        else:
            assert dataset.labels is not None
            parts = [np.searchsorted(known, rows) for rows in (split.query, split.database)]
            query, database = (
                Encoded(*(None if one is None else one[rows] for one in encoded)) for rows in parts
            )
            results = measures.evaluate(
                query, database, dataset.labels, split, top=top, on_stage=watch, **numbers
            )
        found = {"order": order.best(results), "seconds": watch.stop()}
        return about | results | found | {"environment": environment()}

    return processes.of_first(measure)


class _Loaded(NamedTuple):
    """What is to be evaluated. split: None where the images have no labels."""

    model: Model
    config: Config
    dataset: Dataset
    split: Split | None


def _load(
    folder: Path,
    dataset: Dataset | None,
    data_dir: str | None,
    protocol: str | None,
    protocol_options: dict[str, bool | int | float] | None,
    say: Callable[[str], None],
) -> _Loaded:
    model, config = models.load(folder), runs.load_config(folder)
    if data_dir is not None:
        option_checks.check_place(config.data, data_dir=data_dir)
        config = dataclasses.replace(config, data_dir=data_dir)
    if dataset is None and _on_frozen(model, config):
        trunk = model.variables["params"].get("trunk", {})
        dataset = run_data.load_seen(config, model.spec, trunk, [folder])
    elif dataset is None:
        side = model.spec.item_shape[0] if _on_backbone(model) else None
        dataset = run_data.load_data(config, side=side)
    if dataset.labels is None:
        if protocol is not None or protocol_options:
            raise ValueError(f"protocol is given, and {dataset.name} has no labels; leave it out")
        return _Loaded(model, config, dataset, None)
    asked = config
    if protocol is not None:
        asked = dataclasses.replace(config, protocol=protocol, protocol_options={})
    if protocol_options:
        asked = dataclasses.replace(asked, protocol_options=protocol_options)
    split = run_data.split_data(asked, dataset)
    if asked != config:
        _warn_about_training(config, dataset, split, say)
    return _Loaded(model, config, dataset, split)


def _on_backbone(model: Model) -> bool:
    return model.spec.method in FITS or model.spec.hidden is not None


def _on_frozen(model: Model, config: Config) -> bool:
    return _on_backbone(model) and not config.finetune_blocks


def _check_same(loaded: _Loaded, **numbers: int) -> None:
    if jax.process_count() == 1:
        return
    split = loaded.split
    rows = () if split is None else (split.query.tobytes(), split.database.tobytes())
    processes.check_same(
        numbers
        | {
            "model": models.fingerprint(loaded.model),
            "queries or database": rows,
        }
    )


def _encoded(
    folder: Path,
    loaded: _Loaded,
    *,
    batch_size: int | None,
    on_batch: Callable[[int], None] | None,
) -> tuple[Encoded, np.ndarray]:
    """Outputs for the images of the split, or for all, and their rows in ascending order."""
    model, config, dataset, split = loaded
    if split is None or _on_frozen(model, config):
        encoded, kept = kept_features.encoded(
            folder, model, dataset, batch_size=batch_size, together=True
        )
        return encoded, kept.rows
    rows = np.unique(np.concatenate([split.query, split.database]))
    encoded = encode(
        model,
        dataset.items,
        rows=rows,
        batch_size=batch_size,
        together=True,
        on_batch=on_batch,
    )
    return encoded, rows


def _warn_about_training(
    config: Config, dataset: Dataset, split: Split, say: Callable[[str], None]
) -> None:
    trained = run_data.split_data(config, dataset).train
    seen = int(np.isin(split.query, trained).sum())
    if seen:
        say(f"careful: the run was trained on {seen} of these {len(split.query)} queries")


def write_results(folder: Path | str, results: dict[str, Any]) -> list[Path]:
    """Write results.json and the figures into a run directory; returns their paths."""
    folder = Path(folder)
    runs.write_json(folder / runs.RESULTS, results)
    written = [folder / runs.RESULTS]
    if not results.get("labels", True):
        return written
    figures = {
        "precision_recall.png": lambda: pr_curve(results),
        "precision_at_k.png": lambda: precision_at_k(results),
    }
    rows = metrics_log.read(folder)
    if rows:
        figures["training.png"] = lambda: training_curves(rows)
    for name, draw in figures.items():
        plots.save(draw(), folder / name)
        written.append(folder / name)
    return written
