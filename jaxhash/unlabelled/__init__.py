"""Methods that need no labels: features in, a linear hash layer out.

To add one: a file here with a function of (features, bits, seed=, options with defaults) that
returns a `Layer`, and a row in `FITS`.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxhash.unlabelled.bihalf import bihalf
from jaxhash.unlabelled.itq import itq
from jaxhash.unlabelled.layer import Layer, check_count, check_some
from jaxhash.unlabelled.lsh import lsh
from jaxhash.unlabelled.pca_sign import pca_sign

__all__ = ["FITS", "Fit", "Layer"]


@dataclass(frozen=True)
class Fit:
    """One row of the table.

    Attributes:
        name: What a configuration calls it.
        learn: Called with features float32 (n, d), bits, `seed=` and its options.
        source: Paper, year.
        by_directions: Whether it needs more images than bits.
    """

    name: str
    learn: Callable[..., Layer]
    source: str
    by_directions: bool = False

    def check(self, images: int, bits: int) -> None:
        """Refuse too few images, before anything is computed.

        Raises:
            ValueError: the message says what to do.

        Example:
            >>> FITS["lsh"].check(images=2, bits=64)
        """
        check_some(images)
        if self.by_directions:
            check_count(images, bits, self.name)

    @property
    def takes_labels(self) -> bool:
        """Whether it learns from labels too, where some images have them."""
        return "labels" in inspect.signature(self.learn).parameters

    def options(self, **chosen: Any) -> dict[str, Any]:
        """The options and their values, chosen ones over the defaults.

        Raises:
            ValueError: an option that the method does not take, or of another type.

        Example:
            >>> FITS["itq"].options()
            {'iterations': 50}
        """
        known = {
            name: one.default
            for name, one in inspect.signature(self.learn).parameters.items()
            if name not in ("features", "bits", "seed", "labels")
        }
        for name, value in chosen.items():
            if name not in known:
                raise ValueError(
                    f"unknown option {name!r} for method {self.name!r}; it takes "
                    f"{', '.join(known) or 'no options'}"
                )
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"{name} is {value!r}; give a whole number, such as {known[name]}")
        return known | chosen


FITS: dict[str, Fit] = {
    row.name: row
    for row in (
        Fit(
            "itq",
            itq,
            "Gong and Lazebnik, Iterative quantization: a Procrustean approach to learning binary "
            "codes, CVPR 2011; needs no labels",
            by_directions=True,
        ),
        Fit(
            "bihalf",
            bihalf,
            "Li and van Gemert, Deep unsupervised image hashing by maximizing bit entropy, AAAI "
            "2021; needs no labels",
        ),
        Fit(
            "lsh",
            lsh,
            "Charikar, Similarity estimation techniques from rounding algorithms, STOC 2002; needs "
            "no labels",
        ),
        Fit(
            "pca-sign",
            pca_sign,
            "Wang et al., Semi-supervised hashing for scalable image retrieval, CVPR 2010, its "
            "baseline; needs no labels",
            by_directions=True,
        ),
    )
}
