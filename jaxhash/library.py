"""What `import jaxhash` offers: train, load, index, evaluate, and lists of what there is.

Thin: each function checks its arguments and calls the package that does the work.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxhash import data as sources
from jaxhash import models, retrieval
from jaxhash.config import Config
from jaxhash.data import Dataset, archives
from jaxhash.evaluation import run as evaluation_run
from jaxhash.evaluation.result import Result, ResultWithoutLabels
from jaxhash.method import METHODS, Method
from jaxhash.models import Model
from jaxhash.nets import NETWORKS, Network
from jaxhash.training import loop
from jaxhash.training.loop import Progress
from jaxhash.unlabelled import FITS

Data = Dataset | str | os.PathLike[str] | tuple[Any, Any]
"""A dataset, the name or path of one, or arrays (items, labels)."""


def train(
    data: Data,
    run: str | os.PathLike[str] | None = None,
    *,
    method: str | Method | None = None,
    network: str | Network | None = None,
    bits: int = 48,
    resume: bool = False,
    overwrite: bool = False,
    devices: Sequence[jax.Device] | None = None,
    on_step: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] = lambda message: None,
    **options: Any,
) -> Model:
    """Train a network whose latent layer is a binary code.

    Args:
        data: a folder with one sub-folder of images for each class, or of images alone, without
            labels; the name of a dataset (see `datasets`), a `Dataset`, or arrays (items, labels):
            uint8 (n, height, width, channels) or float (n, d), and int (n,) or bool (n, classes).
        run: folder for log, checkpoints and model; None keeps nothing.
        method: a name of `methods`, or a `Method` of your own; "orthohash" by default,
            "dhih-r3" on a frozen network, and "itq" where there are no labels.
        network: a name of `networks`, "onnx:FILE", or a `Network` of your own; by default
            "efficientnet-lite0", frozen, for folders of photographs, "resnet" for small images.
        bits: length of a code.
        resume: continue the run in that folder.
        overwrite: replace the run in that folder.
        devices: to train on; all by default.
        on_step: called with the progress after each compiled call.
        say: told what was decided, a line at a time.
        options: further fields of `Config`, such as `epochs=10` or `protocol="p-all"`.

    Returns:
        The model with the best mean average precision on held-out training images.

    Raises:
        ValueError: the data, or an option, cannot be used; the message says why.
        TypeError: an option that `Config` does not have.
        FileExistsError: the folder holds a run, and neither resume nor overwrite was given.

    Example:
        >>> model = train("photos/", "runs/photos", method="orthohash", bits=64)  # doctest: +SKIP
    """
    known = {field.name for field in dataclasses.fields(Config)}
    for name in options:
        if name not in known:
            raise TypeError(f"unknown option {name!r}; choose among {', '.join(sorted(known))}")
    dataset = _dataset(data)
    config = Config(
        data=os.fspath(data) if dataset is None else dataset.name,  # type: ignore[arg-type]
        method=None if method is None else _name(method),
        network=None if network is None else _name(network),
        bits=bits,
        **options,
    )
    return loop.train(
        config,
        None if run is None else Path(run),
        dataset=dataset,
        resume=resume,
        overwrite=overwrite,
        devices=devices,
        on_step=on_step,
        say=say,
    )


def load(run: str | os.PathLike[str]) -> Model:
    """Load the model of a finished run, or of any folder with model.json and model.safetensors.

    Args:
        run: the folder.

    Returns:
        The model.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: its files are damaged, or name a network that was not registered.

    Example:
        >>> model = load("runs/photos")  # doctest: +SKIP
    """
    return models.load(Path(run))


def evaluate(
    run: str | os.PathLike[str],
    *,
    data: Data | None = None,
    protocol: str | None = None,
    protocol_options: dict[str, bool | int | float] | None = None,
    top: int = 1000,
    pool: int = 1000,
    save: bool = False,
    say: Callable[[str], None] = lambda message: None,
) -> Result | ResultWithoutLabels:
    """Measure how well the codes of a finished run retrieve.

    Where its images have no labels: how many of the features' nearest neighbours the codes find.

    Args:
        run: folder of the run.
        data: the data that it was trained on, where that was given as arrays or a `Dataset`, or
            has another place now; that of the run by default.
        protocol: which images are queries and which the database; that of the run by default.
        protocol_options: numbers of the protocol, such as `queries_per_class=10`.
        top: cut-off of the mean average precision at the top.
        pool: candidates of the coarse search that are re-ranked.
        save: write results.json and figures into the folder of the run.
        say: told what is being done.

    Returns:
        `Result`, or `ResultWithoutLabels` where the images have none.

    Raises:
        FileNotFoundError: the folder holds no finished run.
        ValueError: a number is below 1, or the protocol does not fit the data.

    Example:
        >>> evaluate("runs/photos", protocol="p-all").codes.map  # doctest: +SKIP
        0.9823
    """
    dataset = None if data is None else _dataset(data)
    if dataset is None and data is not None:
        model = models.load(Path(run))
        dataset = retrieval.load_items(os.fspath(data), model, labelled=True)  # type: ignore[arg-type]
    document = evaluation_run.evaluate(
        Path(run),
        dataset=dataset,
        protocol=protocol,
        protocol_options=protocol_options,
        top=top,
        pool=pool,
        say=say,
    )
    if save:
        evaluation_run.write_results(Path(run), document)
    if not document.get("labels", True):
        return ResultWithoutLabels.from_dict(document)
    return Result.from_dict(document)


def methods() -> dict[str, str]:
    """The names of the methods that `train` knows, each with its source.

    Example:
        >>> methods()["csq"][:11]
        'Yuan et al.'
    """
    return {name: row.source for name, row in (METHODS | FITS).items()}


def networks() -> dict[str, str]:
    """The names of the networks that `train` knows, each with its source.

    Example:
        >>> "resnet" in networks()
        True
    """
    return {name: row.source for name, row in NETWORKS.items()}


def datasets() -> dict[str, str]:
    """The names of datasets that can be read, each with where its files come from.

    Besides these, every dataset that tensorflow-datasets has prepared, and one's own folders.

    Example:
        >>> sorted(datasets())[:2]
        ['cifar10', 'digits']
    """
    return dict.fromkeys(sources.EMBEDDED, "embedded, or registered here") | {
        name: archive.source for name, archive in archives.ARCHIVES.items()
    }


def register(row: Method | Network) -> None:
    """Make a method or a network of your own known by its name, to `train` and to `load`.

    A method or network that is given to `train` itself is registered there. A model of a network
    of your own can be loaded once the network is registered in that process.

    Args:
        row: the method or network.

    Raises:
        ValueError: the name is taken by another row.
        TypeError: neither a `Method` nor a `Network`.

    Example:
        >>> register(Method("mine", my_loss))  # doctest: +SKIP
    """
    if isinstance(row, Method):
        table: dict[str, Any] = METHODS
    elif isinstance(row, Network):
        table = NETWORKS
    else:
        raise TypeError(f"give a Method or a Network, not {type(row).__name__}")
    if row.name in FITS or table.setdefault(row.name, row) != row:
        raise ValueError(f"the name {row.name!r} is taken; give yours another")


def register_dataset(name: str, load: Callable[[int | None], Dataset]) -> None:
    """Make a dataset of your own known by its name.

    Args:
        name: what `train` is given for its data.
        load: called with the side in pixels that images are wanted in, or None for their own.

    Raises:
        ValueError: the name is taken.

    Example:
        >>> register_dataset("photos-2024", lambda size: my_dataset(size))  # doctest: +SKIP
    """
    if name in datasets():
        raise ValueError(f"the name {name!r} is taken; give yours another")
    sources.EMBEDDED[name] = load


def _name(row: str | Method | Network) -> str:
    """The name of a row, which is registered if it is one's own."""
    if isinstance(row, str):
        return row
    register(row)
    return row.name


def _dataset(data: Data) -> Dataset | None:
    """The dataset that was given as such or as arrays; None for a name or path."""
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str | os.PathLike):
        return None
    if not isinstance(data, tuple) or len(data) != 2:
        raise TypeError(
            "data must be a path, a name, a Dataset, or two arrays (items, labels), not "
            f"{type(data).__name__}"
        )
    items, labels = np.asarray(data[0]), np.asarray(data[1])
    if items.ndim == 2 and np.issubdtype(items.dtype, np.floating):
        items = items.astype(np.float32)
    elif items.ndim != 4 or items.dtype != np.uint8:
        raise ValueError(
            "items must be images uint8 (n, height, width, channels) or features float (n, d), not "
            f"{items.dtype} {items.shape}"
        )
    if np.issubdtype(labels.dtype, np.integer) and labels.ndim == 1 and labels.size:
        if labels.min() < 0:
            raise ValueError(f"labels must be class numbers from 0, not {labels.min()}")
        labels, classes = labels.astype(np.int32), int(labels.max()) + 1
    elif labels.dtype == np.bool_ and labels.ndim == 2:
        classes = labels.shape[1]
    else:
        raise ValueError(
            f"labels must be int (n,) or bool (n, classes), not {labels.dtype} {labels.shape}"
        )
    return Dataset(
        "arrays",
        "images" if items.ndim == 4 else "features",
        items,
        labels,
        {"all": np.arange(len(items))},
        tuple(map(str, range(classes))),
    )
