"""Named splits of a dataset into training, validation, database and query.

"CIFAR-10 mAP" means four different things in the literature, up to 0.3 apart for the same codes.
So a split has a name, and every retrieval figure carries it.
"""

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxhash.data.dataset import Dataset
from jaxhash.data.strata import class_counts, draw_each, draw_share, draw_total, has_any

# Every draw has a generator of its own, so that e.g. the share of validation images does not
# change which images are queries.
_QUERY, _TRAIN, _VALIDATION, _CLASSES = range(4)


@dataclass(frozen=True, eq=False)
class Split:
    """The training, validation, database and query rows; int64 in ascending order.

    Attributes:
        protocol: Name in `PROTOCOLS`.
        description: The split in one line with its numbers, for reports.
        seed: What the draws were made with.
        train: Items the network is trained on.
        validation: Items held out of the training images, for choosing checkpoints and settings.
        database: Items that are searched.
        query: Queries; never used to choose anything.
        exclude_self: Whether a query, which is in the database too, is left out of its own ranking.
        database_has_train: Whether items the network learned from are in the database, which
            flatters the figures.
    """

    protocol: str
    description: str
    seed: int
    train: np.ndarray
    validation: np.ndarray
    database: np.ndarray
    query: np.ndarray
    exclude_self: bool
    database_has_train: bool


class Roles(NamedTuple):
    """The rows that a protocol chooses; `split` then holds out the validation images."""

    train: np.ndarray
    database: np.ndarray
    query: np.ndarray
    exclude_self: bool = False
    validation: np.ndarray | None = None
    """Validation images the dataset comes with; None to take them from the training images."""
    remark: str = ""


def p_all(dataset: Dataset, seed: int, *, queries: int | None = None) -> Roles:
    """`p-all`: queries are the test images; the training images are the database too.

    CIFAR-10: 10,000 queries, a database of 50,000 that is the training set. MNIST: 10,000 and
    60,000. Used by DLBHC (Lin et al., CVPR workshops 2015; mAP of the top 1,000, and 1,000 queries
    on MNIST), SSDH, and as "CIFAR-10 (II)" by DTSH, DSDH, MIHash and TALR.

    Args:
        dataset: With the parts train and test.
        seed: Decides which queries are drawn where `queries` is given.
        queries: Number of queries to draw from the test images, in equal shares of the classes;
            all of them by default.
    """
    train, test = _parts(dataset, "p-all", "train", "test")
    if queries is not None:
        if not 1 <= queries <= test.size:
            raise ValueError(
                f"queries must be from 1 to the {test.size} test images, not {queries}"
            )
        test = draw_total(_labels(dataset), test, queries, _rng(seed, _QUERY))
    return Roles(train, database=train, query=test, validation=dataset.parts.get("validation"))


def p_5k(
    dataset: Dataset,
    seed: int,
    *,
    queries_per_class: int = 100,
    train_per_class: int = 500,
    train_in_database: bool = True,
) -> Roles:
    """`p-5k`: few images train; queries and database come from the pooled dataset.

    CIFAR-10, all 60,000 images pooled: 1,000 queries (100 of each class), the other 59,000 are the
    database, and 5,000 of those (500 of each class) train. Used by CNNH, DNNH, DPSH, DTSH, DSDH,
    MIHash, TALR, GreedyHash and OrthoHash ("CIFAR-10 (I)"); some of them search 54,000, without the
    training images. With several classes an item (NUS-WIDE: 2,100 queries, 10,500 training images)
    items are drawn for one class after the other, the rarest first.

    Args:
        dataset: Any labelled dataset; its parts are pooled.
        seed: Decides the draws.
        queries_per_class: Queries drawn for each class.
        train_per_class: Training images drawn for each class from the rest.
        train_in_database: False leaves the training images out of the database.
    """
    for name, size in (
        ("queries_per_class", queries_per_class),
        ("train_per_class", train_per_class),
    ):
        if not (isinstance(size, (int, np.integer)) and size >= 1):
            raise ValueError(f"{name} must be an integer from 1 up, not {size!r}")
    pool = _pool(dataset)
    needs = f"{queries_per_class} query and {train_per_class} training images of each class"
    _need(dataset, pool, queries_per_class + train_per_class, f"p-5k needs {needs}")
    labels, classes = _labels(dataset), len(dataset.classes)
    try:
        query = draw_each(labels, pool, queries_per_class, classes, _rng(seed, _QUERY))
        rest = np.setdiff1d(pool, query)
        train = draw_each(labels, rest, train_per_class, classes, _rng(seed, _TRAIN))
    except LookupError as error:
        number, left = error.args
        raise ValueError(
            f"{dataset.name}: p-5k draws {needs}; for {dataset.classes[number]!r} only {left} are "
            "left once the images it shares with other classes are drawn; lower the numbers"
        ) from None
    return Roles(train, rest if train_in_database else np.setdiff1d(rest, train), query)


def p_dsh(dataset: Dataset, seed: int) -> Roles:
    """`p-dsh`: the test images are queries and database, each query itself included.

    CIFAR-10: 50,000 training images; 10,000 test images are queries and database, and every query
    finds itself first. Used by DSH (Liu et al., CVPR 2016; IJCV 127, 2019) for all methods in its
    tables: its released evaluation ranks the test codes against the same test codes.

    Args:
        dataset: With the parts train and test.
        seed: Only recorded; nothing is drawn.
    """
    train, test = _parts(dataset, "p-dsh", "train", "test")
    return Roles(train, database=test, query=test, validation=dataset.parts.get("validation"))


def fraction(dataset: Dataset, seed: int, *, train_share: float = 0.6) -> Roles:
    """`fraction`: trained on a share of every class; the rest is both database and queries.

    MHCLN (Roy et al., IGARSS 2018) trains on 60 % of each class and lets every other image search
    among the others, itself left out: UC Merced 1,260 and 840 images, mAP@20. A share that is not
    a whole number of images is rounded up, as in its released code for AID. Classes of which fewer
    than two images are left (a query and what it could find) train, and ask nothing.

    Args:
        dataset: Any labelled dataset; its parts are pooled.
        seed: Decides the draws.
        train_share: Share of each class that trains, between 0 and 1.
    """
    _check_share("train_share", train_share)
    train, rest = draw_share(
        _labels(dataset), _pool(dataset), train_share, _rng(seed, _TRAIN), round_up=True
    )
    labels, names = _labels(dataset), np.array(dataset.classes)
    enough = class_counts(labels, rest, len(names)) >= 2
    if not enough.any():
        _need(dataset, rest, 2, f"fraction (train_share {train_share:g}) needs 2 images to be left")
    few = names[~enough].tolist()
    remark = f"no queries of classes with fewer than 2 images left: {', '.join(few[:10])}"
    remark += f" and {len(few) - 10} more" if len(few) > 10 else ""
    alone = has_any(labels, ~enough)[rest] & ~has_any(labels, enough)[rest]
    return Roles(train, rest, rest[~alone], exclude_self=True, remark=remark if few else "")


def unseen(
    dataset: Dataset, seed: int, *, class_share: float = 0.75, query_share: float = 0.2
) -> Roles:
    """`unseen`: trained on 75 % of the classes, searched among the classes it never saw.

    Sablayrolles et al. (ICASSP 2017, arXiv 1609.06753) show that a classifier's output wins every
    protocol in which queries have the classes of training, and ask for held-out classes instead.
    Which classes are held out is drawn by the seed: report several.

    Images of the other classes train. Where the dataset has the parts train and test, training
    images come from train, the database is the held-out classes' images in train and the queries
    those in test; otherwise `query_share` of each held-out class are queries, the rest database.
    With several classes an item, items that have both kinds of classes are left out.

    Args:
        dataset: Any labelled dataset of at least two classes.
        seed: Decides the classes, and the queries where they are drawn.
        class_share: Share of the classes that train, between 0 and 1, rounded; at least one class
            trains and one is held out.
        query_share: Share of each held-out class that are queries, between 0 and 1.
    """
    _check_share("class_share", class_share)
    _check_share("query_share", query_share)
    classes = len(dataset.classes)
    if classes < 2:
        raise ValueError(f"{dataset.name}: unseen needs 2 classes, there is {classes}")
    seen = min(max(round(class_share * classes), 1), classes - 1)
    held_out = np.ones(classes, bool)
    held_out[_rng(seed, _CLASSES).permutation(classes)[:seen]] = False
    labels = _labels(dataset)
    old, new = has_any(labels, ~held_out), has_any(labels, held_out)
    old, new = old & ~new, new & ~old
    if {"train", "test"} <= dataset.parts.keys():
        train, test = dataset.parts["train"], dataset.parts["test"]
        database, query = train[new[train]], test[new[test]]
        train = train[old[train]]
    else:
        pool = _pool(dataset)
        train = pool[old[pool]]
        query, database = draw_share(labels, pool[new[pool]], query_share, _rng(seed, _QUERY))
    for part, rows in (("database", database), ("query", query)):
        missing = np.flatnonzero(held_out & (class_counts(labels, rows, classes) == 0))
        if missing.size:
            raise ValueError(
                f"{dataset.name}: unseen leaves no {part} image of the held-out class "
                f"{dataset.classes[missing[0]]!r}; change query_share ({query_share:g}), or give "
                "the class more images"
            )
    names = [dataset.classes[number] for number in np.flatnonzero(held_out)]
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return Roles(train, database, query, remark=f"held-out classes: {', '.join(names[:20])}{more}")


def parts(dataset: Dataset, seed: int) -> Roles:
    """`parts`: the dataset's own database and query parts, as a folder or file lays them out.

    The part train trains; where there is none the database does. The part database is searched;
    where there is none the training images are. Queries are the part query, or else the part test.

    Args:
        dataset: With a part query or test, and a part train or database.
        seed: Only recorded; nothing is drawn.
    """
    own = dataset.parts
    train = own.get("train", own.get("database"))
    query = own.get("query", own.get("test"))
    if train is None or query is None:
        raise ValueError(
            f"{dataset.name}: parts needs a part query or test, and a part train or database; "
            f"there is {', '.join(own)}; {_advice(dataset)}"
        )
    return Roles(train, own.get("database", train), query, validation=own.get("validation"))


PROTOCOLS: dict[str, Callable[..., Roles]] = {
    "p-all": p_all,
    "p-5k": p_5k,
    "p-dsh": p_dsh,
    "fraction": fraction,
    "unseen": unseen,
    "parts": parts,
}
"""Protocol by name: `protocol(dataset, seed, **options)`."""


def split(
    dataset: Dataset,
    protocol: str,
    *,
    seed: int = 0,
    validation: float = 0.1,
    **options: int | float | bool | None,
) -> Split:
    """Splits a dataset by a named protocol.

    Validation images are taken out of the training images, the same share of every class but
    never its last image. Protocols that keep a dataset's parts (p-all, p-dsh, parts) take its own
    validation part instead. Images held out here stay in the database where the training images
    are there. Items without a class (possible where items can have several) are in the database,
    but are no queries: there would be nothing to find.

    Args:
        dataset: What to split; labelled.
        protocol: A name in `PROTOCOLS`.
        seed: Decides every draw.
        validation: Share of the training images to hold out, from 0 up to but not including 1.
        options: What the protocol's own function takes, e.g. `queries_per_class=10` for p-5k.

    Raises:
        ValueError: where there is no such protocol or option, or the dataset cannot serve it.

    Example:
        >>> from jaxhash.data import load
        >>> digits = split(load("digits"), "p-all", seed=1)
        >>> digits.train.size, digits.validation.size, digits.query.size
        (1293, 145, 359)
    """
    if protocol not in PROTOCOLS:
        near = difflib.get_close_matches(protocol, PROTOCOLS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"protocol is {protocol!r}{hint}; choose one of {', '.join(PROTOCOLS)}")
    known = list(inspect.signature(PROTOCOLS[protocol]).parameters)[2:]
    for name in options:
        if name not in known:
            has = f"which has {', '.join(known)}" if known else "which has none"
            raise ValueError(f"{name} is no option of {protocol}, {has}")
    if not (isinstance(seed, (int, np.integer)) and seed >= 0):
        raise ValueError(f"seed must be an integer from 0 up, not {seed!r}")
    if not 0 <= validation < 1:
        raise ValueError(f"validation must be a share from 0 up to 1, not {validation}")
    labels = _labels(dataset)
    roles = PROTOCOLS[protocol](dataset, int(seed), **options)

    asks = has_any(labels, np.ones(len(dataset.classes), bool))[roles.query]
    query = roles.query[asks]
    train, held_out = roles.train, roles.validation
    if held_out is None:
        held_out, train = draw_share(labels, train, validation, _rng(seed, _VALIDATION))
    for name, rows in (("training", train), ("database", roles.database), ("query", query)):
        if rows.size == 0:
            raise ValueError(f"{dataset.name}: {protocol} leaves no {name} images")
    has_train = bool(np.isin(train, roles.database).any())
    own = "left out of" if roles.exclude_self else "kept in"
    found = np.isin(query, roles.database).any()
    remarks = [
        f"{train.size} train, {held_out.size} validation",
        f"{roles.database.size} database ({'with' if has_train else 'without'} training images)",
        f"{query.size} queries ({f'{own} their own rankings' if found else 'not in the database'})",
    ]
    if not asks.all():
        remarks.append(f"{np.sum(~asks)} items without a class are no queries")
    if roles.remark:
        remarks.append(roles.remark)
    return Split(
        protocol=protocol,
        description=f"{protocol}: {'; '.join(remarks)}",
        seed=int(seed),
        train=np.sort(train).astype(np.int64),
        validation=np.sort(held_out).astype(np.int64),
        database=np.sort(roles.database).astype(np.int64),
        query=np.sort(query).astype(np.int64),
        exclude_self=roles.exclude_self,
        database_has_train=has_train,
    )


def default_protocol(dataset: Dataset) -> str:
    """The default protocol of a dataset, chosen by the parts that it has.

    Example:
        >>> from jaxhash.data import load
        >>> default_protocol(load("digits"))
        'p-all'
    """
    if {"database", "query"} & dataset.parts.keys():
        return "parts"
    return "p-all" if {"train", "test"} <= dataset.parts.keys() else "fraction"


def _labels(dataset: Dataset) -> np.ndarray:
    """Labels of a dataset that has them."""
    if dataset.labels is None:
        raise ValueError(f"{dataset.name}: has no labels; it can be encoded, but not evaluated")
    return dataset.labels


def _pool(dataset: Dataset) -> np.ndarray:
    """All rows that are in some part."""
    return np.sort(np.concatenate(list(dataset.parts.values())))


def _parts(dataset: Dataset, protocol: str, *names: str) -> tuple[np.ndarray, ...]:
    """Rows of the parts a protocol cannot do without."""
    if not set(names) <= dataset.parts.keys():
        raise ValueError(
            f"{dataset.name}: {protocol} needs the parts {' and '.join(names)}; there is "
            f"{', '.join(dataset.parts)}; {_advice(dataset)}"
        )
    return tuple(dataset.parts[name] for name in names)


def _advice(dataset: Dataset) -> str:
    """Protocols that the dataset can serve."""
    if {"query", "test"} & dataset.parts.keys() and {"train", "database"} & dataset.parts.keys():
        return "the protocol parts takes its parts as they are"
    return "the protocols fraction, unseen and p-5k draw their own"


def _rng(seed: int, stream: int) -> np.random.Generator:
    """The generator of one of the draws."""
    return np.random.default_rng([seed, stream])


def _need(dataset: Dataset, rows: np.ndarray, least: int, needs: str) -> None:
    """Refuses a dataset with too few images of a class, and names the numbers."""
    counts = class_counts(_labels(dataset), rows, len(dataset.classes))
    number = int(np.argmin(counts))
    if counts[number] < least:
        raise ValueError(
            f"{dataset.name}: {needs}, but class {dataset.classes[number]!r} has {counts[number]}; "
            "add images to it, leave it out, or change the protocol's options"
        )


def _check_share(name: str, value: float) -> None:
    """Refuses a share that is not strictly between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name} must be a share between 0 and 1, not {value}")
