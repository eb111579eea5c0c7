"""The compiled programs of a model: the whole network, its backbone alone, its head alone."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxhash import nets, sharding
from jaxhash.nets import Outputs
from jaxhash.spec import ModelSpec
from jaxhash.views import views


class Encoded(NamedTuple):
    """Outputs of a network for n items.

    codes: uint8 (n, ceil(bits / 8)), most significant bit first, pad bits zero.
    features: float16 or float32 (n, D), for re-ranking: the network's; or, of a head that was
    trained on a frozen backbone, the latent minus the threshold, scaled to length 1, because the
    backbone's features have not learned the classes.
    latent: float32 (n, bits). logits: float32 (n, classes), or None without a classifier. NumPy
    arrays; None where not asked for.
    """

    codes: Any
    features: Any
    latent: Any
    logits: Any


def pack_bits(bits: jax.Array) -> jax.Array:
    """Truth values (n, b) -> codes uint8 (n, ceil(b / 8)), as `search.pack` has them; for jit.

    Example:
        >>> pack_bits(jnp.array([[True, False, False, True, False, False, False, False, True]]))
        Array([[144, 128]], dtype=uint8)
    """
    n, b = bits.shape
    padded = jnp.pad(bits.astype(bool), ((0, 0), (0, -b % 8))).reshape(n, -(-b // 8), 8)
    weights = jnp.array([128, 64, 32, 16, 8, 4, 2, 1], jnp.uint8)
    return jnp.where(padded, weights[None, None], jnp.uint8(0)).sum(axis=2, dtype=jnp.uint8)


def unit(rows: jax.Array) -> jax.Array:
    """Each row divided by its length.

    Example:
        >>> unit(jnp.array([[3.0, 0.0]])).tolist()
        [[1.0, 0.0]]
    """
    length = jnp.sqrt(jnp.square(rows).sum(axis=1, keepdims=True))
    return rows / jnp.maximum(length, 1e-12)


@functools.lru_cache(maxsize=8)
def whole(
    spec: ModelSpec, features: str, keep: tuple[str, ...], mesh: Mesh
) -> Callable[[Mapping[str, Any], Any], Encoded]:
    """A network: its variables and items as they are stored -> what is asked for of its outputs.

    features: dtype of the features. keep: fields of `Encoded`; the others are None.

    Raises:
        ValueError: keep names no field.
    """
    for name in keep:
        if name not in Encoded._fields:
            raise ValueError(f"keep names {name!r}; choose among {', '.join(Encoded._fields)}")
    if spec.on_backbone:
        # Two programs, so that features that were kept make the same as those just computed.
        look, finish = backbone(spec.of_backbone(), mesh), head(spec, features, keep, mesh)
        return lambda variables, items: finish(variables, look(variables, items))
    module = spec.build()

    def encode_batch(variables: Mapping[str, Any], items: jax.Array) -> Encoded:
        each = [
            (weight, nets.apply(module, variables, view, train=False)[0])
            for weight, view in _views(spec, items)
        ]
        return _chosen(spec, features, keep, _mean(each))

    return jax.jit(encode_batch, out_shardings=sharding.split(mesh))


@functools.lru_cache(maxsize=8)
def backbone(spec: ModelSpec, mesh: Mesh) -> Callable[[Mapping[str, Any], Any], jax.Array]:
    """A backbone: variables and items as they are stored -> its features float32 (n, d).

    spec: of the backbone alone, so that all models on it share the program.
    """
    if spec.onnx is not None:
        run, see = spec.onnx.run, jax.jit(lambda items: _views(spec, items))

        # Not one compiled program: onnxruntime has its own threads and memory.
        def look_by_onnx(variables: Mapping[str, Any], items: jax.Array) -> jax.Array:
            return _mean([(weight, run(np.asarray(view))) for weight, view in see(items)])

        return look_by_onnx
    module = spec.build()

    @functools.partial(jax.jit, out_shardings=sharding.split(mesh))
    def look(variables: Mapping[str, Any], items: jax.Array) -> jax.Array:
        return _mean(
            [
                (weight, nets.features_of(module, variables, view))
                for weight, view in _views(spec, items)
            ]
        )

    return lambda variables, items: look(_only("trunk", variables), items)


@functools.lru_cache(maxsize=8)
def head(
    spec: ModelSpec, features: str, keep: tuple[str, ...], mesh: Mesh
) -> Callable[[Mapping[str, Any], Any], Encoded]:
    """A head: variables and its backbone's features -> as `whole`."""
    module = spec.build()

    @functools.partial(jax.jit, out_shardings=sharding.split(mesh))
    def finish(variables: Mapping[str, Any], found: jax.Array) -> Encoded:
        if spec == spec.of_backbone():  # there is no head
            return _chosen(spec, features, keep, Outputs(found, found, None))
        return _chosen(spec, features, keep, nets.apply_head(module, variables, found))

    return lambda variables, found: finish(_only("head", variables), found)


def _only(part: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of the trunk or of the head."""
    return {name: {part: tree[part]} for name, tree in variables.items() if part in tree}


def _views(spec: ModelSpec, items: jax.Array) -> list[tuple[float, jax.Array]]:
    """What the network reads of stored items: them, or weighted views of them."""
    return views(spec.prepare(items), mirror=spec.mirror, shift=spec.shift)


def _chosen(spec: ModelSpec, features: str, keep: tuple[str, ...], outputs: Outputs) -> Encoded:
    """Those of a network's outputs that were asked for."""
    compared = outputs.features
    if spec.hidden is not None:
        compared = unit(outputs.latent - spec.threshold)
    return Encoded(
        codes=pack_bits(outputs.latent > spec.threshold) if "codes" in keep else None,
        features=compared.astype(features) if "features" in keep else None,
        latent=outputs.latent if "latent" in keep else None,
        logits=outputs.logits if "logits" in keep else None,
    )


def _mean(each: list[tuple[float, Any]]) -> Any:
    """The weighted mean of the network's outputs for the views."""

    def mean(*ones: Any) -> Any:
        return sum(weight * one for (weight, _), one in zip(each, ones, strict=True))

    return jax.tree.map(mean, *(outputs for _, outputs in each))
