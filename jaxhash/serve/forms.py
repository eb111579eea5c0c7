"""What requests and answers look like: pydantic checks them, and OpenAPI is made from them."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from jaxhash.items.records import Value
from jaxhash.serve import limits

Id = Annotated[int, Field(ge=0, le=2**63 - 1)]
Queries = Annotated[list[Id], Field(min_length=1, max_length=limits.QUERIES)]
Text = Annotated[str, Field(max_length=4096)]


class Form(BaseModel):
    """A request: fields that it does not know are refused."""

    model_config = ConfigDict(extra="forbid")


class Search(Form):
    """Find the nearest items of uploaded images, or of items that are indexed already."""

    ids: Queries | None = Field(None, description="The queries: ids of indexed items.")
    paths: Annotated[list[Text], Field(min_length=1, max_length=limits.QUERIES)] | None = Field(
        None, description="The queries: paths of indexed items, as answers have them."
    )
    k: int = Field(10, ge=1, le=limits.K, description="Results for each query.")
    pool: int | None = Field(
        None,
        ge=0,
        le=limits.POOL,
        description="Nearest codes that are put in order by their features; 0 for codes alone. "
        "By default the order that an evaluation of the run found best, or 200.",
    )
    radius: int | None = Field(
        None, ge=0, le=4096, description="Largest Hamming distance of a result."
    )
    recall: float | None = Field(
        None,
        gt=0,
        le=1,
        multiple_of=0.01,
        description="Share of the k nearest codes, or of the pool, that has to be found on the "
        "average of queries; quicker among millions, after a first time of seconds. All of them "
        "by default. Not with where, where_ids, radius.",
    )
    where: Annotated[str, Field(min_length=1, max_length=10_000)] | None = Field(
        None,
        description="Only items of which this is true: an expression about path, folder, label "
        "and columns, such as label == 'beach'.",
    )
    where_ids: Annotated[list[Id], Field(min_length=1, max_length=limits.IDS)] | None = Field(
        None, description="Only these items."
    )
    names: bool = Field(True, description="Answer with paths and labels too.")
    codes: bool = Field(False, description="Answer with codes too, in hexadecimal.")


class Encode(Form):
    """Encode uploaded images."""

    features: bool = Field(False, description="Answer with the features too.")


class Add(Form):
    """Encode image files of the folder and add them to the index."""

    paths: Annotated[list[Text], Field(min_length=1, max_length=limits.QUERIES)] = Field(
        description="Files in the folder of the images, by their paths in it."
    )


class Answer(BaseModel):
    """What was found for one query, nearest first."""

    query: str = Field(description="Name of the uploaded file, or the id or path asked for.")
    ids: list[int]
    distances: list[float] = Field(
        description="Euclidean where a pool was re-ranked, Hamming otherwise."
    )
    paths: list[str | None] | None = Field(
        None, description="Relative to the folder that was indexed."
    )
    labels: list[str | None] | None = None
    columns: list[dict[str, Value]] | None = Field(
        None, description="What the table beside the images says of each, where there was one."
    )
    code: str | None = Field(None, description="Of the query, if codes were asked for.")
    codes: list[str] | None = None


class Searched(BaseModel):
    """The answers to a request, all from one state of the index."""

    answers: list[Answer]
    order: str = Field(
        description="Of the results: codes, coarse_to_fine (a pool of the nearest codes by their "
        "features), or features (all items are in the pool)."
    )
    version: str = Field(description="Of the index; another one after a change.")
    milliseconds: dict[str, float] = Field(
        description="What took how long: decode and encode (uploads only), wait, search."
    )


class Encoded(BaseModel):
    """What the network made of uploaded images."""

    bits: int
    codes: list[str] = Field(description="In hexadecimal, most significant bit first.")
    features: list[list[float]] | None = None


class Item(BaseModel):
    """One item of the index."""

    id: int
    path: str | None
    label: str | None
    columns: dict[str, Value]
    code: str


class Items(BaseModel):
    """Some items of the index."""

    ids: list[int]
    paths: list[str | None]
    labels: list[str | None]
    version: str


class Changed(BaseModel):
    """What became of a change to the index."""

    ids: list[int] = Field(description="Of the items that were added or removed.")
    items: int = Field(description="In the index now.")


class Info(BaseModel):
    """What is served."""

    items: int
    bits: int
    features: int | None = Field(description="Numbers in a feature; null without features.")
    order: str = Field(description="Of results by default: codes, coarse_to_fine or features.")
    pool: int = Field(description="Candidates by default, for a few results; 0 for codes alone.")
    images: bool = Field(description="Whether images can be uploaded as queries.")
    labels: list[str]
    method: str
    network: str
    writable: bool
    version: str
    limits: dict[str, float]


class Health(BaseModel):
    """Whether queries are answered, and from what."""

    status: str
    items: int
    version: str
    problem: str | None = Field(description="Why a newer index file was not taken up.")


class Problem(BaseModel):
    """Why a request was refused."""

    error: str


def dump(value: Any) -> bytes:
    """An answer as JSON; paths that are no UTF-8 keep their other bytes as \\xNN.

    Example:
        >>> dump({"ids": [1, 2]})
        b'{"ids":[1,2]}'
    """
    from pydantic_core import to_json

    return to_json(value, exclude_none=False)
