"""Typed results of an evaluation, read from and written to results.json."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Curve:
    """Precision and recall after the first `ranks` results, means over the queries."""

    ranks: tuple[int, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]


@dataclass(frozen=True)
class RadiusLookup:
    """Lookup within a Hamming radius: means over the queries, and how many of them find nothing."""

    precision: float
    recall: float
    empty: int


@dataclass(frozen=True)
class Ranking:
    """The measures of one ranking of the database, means over the queries.

    Attributes:
        map: mean average precision over the whole ranking; None where only its top is known.
        map_at_top: mean average precision of the first `top` results.
        precision_at: precision of the first k results, by k.
        precision_recall: the curve over the ranks.
        within_radius: lookup by Hamming radius, by radius; empty for rankings without one.
        pool: candidates that were re-ranked; None where the whole database was ranked.
    """

    map: float | None
    map_at_top: float
    top: int
    precision_at: dict[int, float]
    precision_recall: Curve
    within_radius: dict[int, RadiusLookup] = field(default_factory=dict)
    pool: int | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The ranking that a document of `results.json` describes."""
        curve = values["precision_recall"]
        return cls(
            map=values["mAP"],
            map_at_top=values["mAP_at_top"],
            top=values["top"],
            precision_at={int(k): value for k, value in values["precision_at"].items()},
            precision_recall=Curve(
                *(tuple(curve[name]) for name in ("ranks", "precision", "recall"))
            ),
            within_radius={
                int(radius): RadiusLookup(**one)
                for radius, one in values.get("within_radius", {}).items()
            },
            pool=values.get("pool"),
        )


@dataclass(frozen=True)
class ResultWithoutLabels:
    """Measures of the codes of images without labels.

    Attributes:
        bits: length of a code.
        images, queries: number of images, and of those that are queries to the others.
        neighbours: of each query, by Euclidean distance of features: those to be found.
        recall: share of them among as many nearest codes, ties at their expected value.
        recall_of_pool: share of them among the `pool` nearest codes, which features re-rank.
        pool: candidates that would be re-ranked.
        seed: of the run.
        share_of_ones: the least and the largest share of images that a bit is 1 for.
        bit_entropy: mean entropy of a bit, 0 to 1.
        distinct_codes: number of different codes.
        document: everything as plain JSON values, as `results.json` holds it.

    Example:
        >>> result = jaxhash.evaluate("runs/photos")  # doctest: +SKIP
        >>> result.recall, result.recall_of_pool  # doctest: +SKIP
        (0.62, 0.99)
    """

    bits: int
    images: int
    queries: int
    neighbours: int
    recall: float
    recall_of_pool: float
    pool: int
    seed: int
    share_of_ones: tuple[float, float]
    bit_entropy: float
    distinct_codes: int
    document: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """The result that a document of `results.json` describes.

        Args:
            document: the parsed JSON.

        Returns:
            The result, with names and types.

        Raises:
            ValueError: the document is no result of an evaluation without labels.

        Example:
            >>> ResultWithoutLabels.from_dict(json.loads(path.read_text()))  # doctest: +SKIP
        """
        same = ("bits", "images", "queries", "neighbours", "pool", "seed", "bit_entropy")
        try:
            return cls(
                **{name: document[name] for name in same},
                distinct_codes=document["distinct_codes"],
                recall=document["recall"]["codes"],
                recall_of_pool=document["recall"]["pool"],
                share_of_ones=(
                    document["share_of_ones"]["least"],
                    document["share_of_ones"]["largest"],
                ),
                document=dict(document),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"no result of an evaluation without labels: {error} is missing or wrong"
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values, as `results.json` holds it."""
        return self.document


@dataclass(frozen=True)
class Result:
    """The retrieval figures of a model under a protocol.

    Attributes:
        protocol, split: name of the protocol, and how it split the data, in words.
        bits: length of a code.
        queries, database: number of queries, and of items that are searched.
        seed: of the training.
        codes: the ranking by Hamming distance, ties at their expected value.
        features: the ranking of all items by Euclidean distance; None without features.
        coarse_to_fine: the nearest codes re-ranked by features; None without features.
        predicted_class: the ranking by predicted class; None without a classifier.
        accuracy: share of the queries that are classified right; None without a classifier.
        distinct_codes: number of different codes in the database.
        bit_entropy: mean entropy of a bit over the database, 0 to 1.
        document: everything as plain JSON values, as `results.json` holds it.

    Example:
        >>> result = jaxhash.evaluate("runs/photos")  # doctest: +SKIP
        >>> result.codes.map, result.codes.precision_at[10]  # doctest: +SKIP
        (0.9823, 0.9791)
    """

    protocol: str
    split: str
    bits: int
    queries: int
    database: int
    seed: int
    codes: Ranking
    features: Ranking | None
    coarse_to_fine: Ranking | None
    predicted_class: Ranking | None
    accuracy: float | None
    distinct_codes: int
    bit_entropy: float
    document: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """The result that a document of `results.json` describes.

        Args:
            document: the parsed JSON.

        Returns:
            The result, with names and types.

        Raises:
            ValueError: the document is no result of an evaluation.

        Example:
            >>> Result.from_dict(json.loads(path.read_text()))  # doctest: +SKIP
        """
        try:
            found = {
                name: Ranking.from_dict(ranking)
                for name, ranking in document["rankings"].items()
                if name in ("codes", "features", "coarse_to_fine", "predicted_class")
            }
            accuracy = document["accuracy"]
            return cls(
                protocol=document["protocol"],
                split=document["split"],
                bits=document["bits"],
                queries=document["queries"],
                database=document["database"],
                seed=document["seed"],
                codes=found["codes"],
                features=found.get("features"),
                coarse_to_fine=found.get("coarse_to_fine"),
                predicted_class=found.get("predicted_class"),
                accuracy=None if accuracy is None else accuracy["query"],
                distinct_codes=document["distinct_codes"]["database"],
                bit_entropy=document["bit_entropy"],
                document=dict(document),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no result of an evaluation: {error} is missing or wrong") from None

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values, as `results.json` holds it."""
        return self.document
