"""The losses: pure functions of arrays, one family a file.

A loss names what it reads, in its first parameters: any of `latent`, `logits`, `features`,
`labels`, `kernel` (class weights, (bits, classes)), `classes` (their number) and `progress` (from
0 at the first training step to 1 at the last). Its keyword-only parameters are its options. It
returns a float32 scalar and the named, weighted terms that the scalar is the sum of.
"""

import jax

Terms = dict[str, jax.Array]
Loss = tuple[jax.Array, Terms]


def total(terms: Terms) -> Loss:
    """The sum of the terms, and the terms."""
    return sum(terms.values(), start=jax.numpy.float32(0)), terms
