"""The training step and the encoder of every network and method, lowered for GPU and TPU."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from jax import export
from test_networks import TRUNKS, shape_for

from jaxhash import nets, programs, sharding
from jaxhash.method import METHODS, Method
from jaxhash.nets import NETWORKS, Network
from jaxhash.spec import ModelSpec
from jaxhash.training import finetuning
from jaxhash.training.feeding import Batch
from jaxhash.training.steps import initial_state, make_train_step

PLATFORMS = ("cuda", "tpu")
ITEMS = 6


def spec_of(method: Method, network: Network, **others: Any) -> ModelSpec:
    shape = shape_for(network)[1:]
    colours = (0.5,) * 3 if network.takes == "images" else ()
    return ModelSpec(
        network=network.name,
        method=method.name,
        bits=8,
        classes=("cat", "dog", "owl"),
        item_shape=shape,
        mean=colours,
        std=colours,
        activation=method.activation,
        classifier=method.classifier,
        threshold=method.threshold,
        precision="bfloat16",
        **others,
    )


def lowered(function: Any, *shapes: Any) -> str:
    """The programs of both, without computing anything."""
    done = export.export(function, platforms=PLATFORMS)(*shapes)
    assert done.platforms == PLATFORMS
    return done.mlir_module()


def items_of(spec: ModelSpec, network: Network) -> jax.ShapeDtypeStruct:
    dtype = jnp.uint8 if network.takes == "images" else jnp.float32
    return jax.ShapeDtypeStruct((ITEMS, *spec.item_shape), dtype)


def step_of(
    method: Method, network: Network, *, blocks: int = 0, average: float = 0.0, **others: Any
) -> str:
    """blocks: of the trunk that learn, where the others are frozen. others: of the spec."""
    spec = spec_of(method, network, **others)
    optimizer, shape = optax.sgd(0.1, momentum=0.9), (1, *spec.item_shape)

    def begin(key: jax.Array) -> Any:
        return initial_state(
            nets.init(spec.build(), key, shape), optimizer, key, average=average > 0
        )

    state = jax.eval_shape(begin, jax.random.key(0))
    batch = Batch(items_of(spec, network), jax.ShapeDtypeStruct((ITEMS,), jnp.int32))
    step = make_train_step(
        spec.build(),
        method,
        optimizer,
        spec.prepare,
        classes=3,
        steps=10,
        options=method.options(),
        average=average,
        trunk_rates=finetuning.rates(state.params["trunk"], blocks) if blocks else None,
    )
    return lowered(jax.jit(step, donate_argnums=0), state, batch)


def encoder_of(spec: ModelSpec, network: Network) -> str:
    encoder = programs.whole(
        spec, "float16", ("codes", "features"), sharding.local_mesh(jax.devices()[:1])
    )
    shape = (1, *spec.item_shape)
    variables = jax.eval_shape(lambda key: nets.init(spec.build(), key, shape), jax.random.key(0))
    return lowered(jax.jit(encoder), dict(variables), items_of(spec, network))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_trained_on_gpu_and_tpu(name: str) -> None:
    assert "stablehlo.dot_general" in step_of(METHODS[name], NETWORKS["mhcln"])


@pytest.mark.parametrize("name", TRUNKS)
def test_every_network_is_trained_and_encodes_on_gpu_and_tpu(name: str) -> None:
    method, network = METHODS["dlbhc"], NETWORKS[name]
    convolutions = network.takes == "images"
    if not name.startswith("efficientnet"):  # it is taken as released, and never trained
        assert ("stablehlo.convolution" in step_of(method, network)) == convolutions
    text = encoder_of(spec_of(method, network), network)
    assert ("stablehlo.convolution" in text) == convolutions
    assert "ui8" in text  # the codes


def test_a_head_with_a_hidden_layer_and_averaged_weights_is_trained() -> None:
    """On features of a frozen backbone, as `jaxhash train` does it."""
    method, network = METHODS["csq"], NETWORKS["features"]
    for hidden, average in ((0, 0.0), (16, 0.9)):
        text = step_of(method, network, hidden=hidden, average=average)
        assert (f"tensor<{ITEMS}x16xf32>" in text) == (hidden > 0)
        assert ("stablehlo.minimum" in text) == (average > 0)  # of the average's decay


def test_the_last_blocks_of_a_backbone_are_trained() -> None:
    network = NETWORKS["efficientnet-lite0"]
    text = step_of(METHODS["csq"], network, blocks=1, hidden=0)
    trunk = jax.eval_shape(
        lambda key: network.trunk(dtype=jnp.float32).init(
            key, jnp.zeros(shape_for(network)), train=False
        ),
        jax.random.key(0),
    )
    forward = sum(leaf.ndim == 4 for leaf in jax.tree.leaves(trunk))
    # Of all blocks the gradient would take two more for each.
    assert forward < text.count("stablehlo.convolution") < 1.5 * forward


def test_the_mean_of_views_is_encoded() -> None:
    """With a hidden layer the features' mean is taken, and without one the outputs'."""
    network = NETWORKS["dsh"]
    for hidden in (None, 16):
        one, several = (
            encoder_of(
                spec_of(METHODS["dlbhc"], network, hidden=hidden, mirror=views, shift=views),
                network,
            ).count("stablehlo.convolution")
            for views in (False, True)
        )
        assert several > one > 0
