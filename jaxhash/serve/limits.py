"""What one client may ask of the service, so that the others are served too."""

from dataclasses import dataclass

K = 1000
"""Most results of a query."""
POOL = 10_000
"""Most candidates of a query that are re-ranked."""
QUERIES = 1000
"""Most queries in one request, by ids or paths."""
COMPARED = QUERIES * POOL
"""Most candidates of all queries in one request."""
RESULTS = 100_000
"""Most results of all queries in one request."""
IMAGES = 16
"""Most images in one request."""
IDS = 100_000
"""Most ids in a filter."""
BY_PATH = 10_000_000
"""Most items of an index that is asked by paths: all of them are then kept in a table."""


@dataclass(frozen=True)
class Limits:
    """Limits that an operator may want otherwise.

    Args:
        upload: bytes of a request's body.
        held: bytes of the bodies of all requests at a time.
        pixels: of an image that is uploaded or shown; larger ones are refused by their header.
        seconds: from a request's headers to its answer.
        batch: queries that are searched at once.
        images: images that are encoded at once; its powers of two are compiled at the start.
        waiting: queries that wait for each of the two, and images that wait to be decoded; more
            are told to come back.

    Raises:
        ValueError: one of them is not above 0.
    """

    upload: int = 20 << 20
    held: int = 256 << 20
    pixels: int = 50_000_000
    seconds: float = 30.0
    batch: int = 64
    images: int = 8
    waiting: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} is {value}; give a number above 0")
