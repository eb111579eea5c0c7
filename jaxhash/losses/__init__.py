"""The losses: pure functions of arrays, one family a file.

The first parameters of a loss name what it reads: any of `latent` (n, bits), `logits` (n, classes),
`features` (n, d), `labels`, `kernel` (class weights, (bits, classes)), `classes` (number of
classes) and `progress` (from 0 at the first training step to 1 at the last). Its keyword-only
parameters are its options. It returns a float32 scalar and the weighted terms, by name, that the
scalar is the sum of.
"""

import jax

Terms = dict[str, jax.Array]
Loss = tuple[jax.Array, Terms]


def total(terms: Terms) -> Loss:
    """The sum of the terms, and the terms."""
    return sum(terms.values(), start=jax.numpy.float32(0)), terms
