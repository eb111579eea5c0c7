"""DPN: every bit pushed to its side of a margin (Fan et al., 2020)."""

import jax
import jax.numpy as jnp

from jaxhash.losses import Loss, total
from jaxhash.losses.centres import aims
from jaxhash.losses.options import number


def dpn(latent: jax.Array, labels: jax.Array, classes: int, *, margin: float = 1.0) -> Loss:
    """Polarisation: the mean of max(0, margin - u c) over items and bits, c in {-1, 1}.

    It bounds both the distances within a class and the error of taking signs. Items without a
    class add 0.

    Args:
        latent: linear outputs (n, bits).
        labels: int (n,) or bool (n, classes).
        classes: number of classes; c is the item's centre, see `centres.aims`.
        margin: how far beyond 0 a bit costs nothing.

    Raises:
        ValueError: fewer codes of so many bits than classes, or a margin that is not above 0.

    Example:
        >>> float(dpn(jnp.zeros((2, 8)), jnp.array([0, 3]), 4, margin=0.5)[0])
        0.5

    Source:
        Fan et al., Deep polarized network for supervised learning of accurate binary hashing
        codes, IJCAI 2020. Ours: centres that are chosen far apart, where the paper draws them at
        random, and that stay as they are, without its optional update to the classes' means.
    """
    number("margin", margin, above=0)
    u = latent.astype(jnp.float32)
    c = aims(labels, classes, latent.shape[1])
    return total({"polarisation": jnp.where(c == 0, 0, jnp.maximum(margin - u * c, 0)).mean()})
