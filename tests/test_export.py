"""The training step and the encoder of every network and method, lowered for GPU and TPU."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from jax import export
from test_networks import TRUNKS, shape_for

from jaxhash import encoding, nets, sharding
from jaxhash.method import METHODS, Method
from jaxhash.nets import NETWORKS, Network
from jaxhash.spec import ModelSpec
from jaxhash.training.feeding import Batch
from jaxhash.training.steps import initial_state, make_train_step

PLATFORMS = ("cuda", "tpu")
ITEMS = 6


def spec_of(method: Method, network: Network) -> ModelSpec:
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
    )


def lowered(function: Any, *shapes: Any) -> str:
    """The programs of both, without computing anything."""
    done = export.export(function, platforms=PLATFORMS)(*shapes)
    assert done.platforms == PLATFORMS
    return done.mlir_module()


def step_of(method: Method, network: Network) -> str:
    spec = spec_of(method, network)
    optimizer, shape = optax.sgd(0.1, momentum=0.9), (1, *spec.item_shape)

    def begin(key: jax.Array) -> Any:
        return initial_state(nets.init(spec.build(), key, shape), optimizer, key)

    state = jax.eval_shape(begin, jax.random.key(0))
    dtype = jnp.uint8 if network.takes == "images" else jnp.float32
    items = jax.ShapeDtypeStruct((ITEMS, *spec.item_shape), dtype)
    batch = Batch(items, jax.ShapeDtypeStruct((ITEMS,), jnp.int32))
    step = make_train_step(
        spec.build(), method, optimizer, spec.prepare, classes=3, steps=10, options=method.options()
    )
    return lowered(jax.jit(step, donate_argnums=0), state, batch)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_trained_on_gpu_and_tpu(name: str) -> None:
    assert "stablehlo.dot_general" in step_of(METHODS[name], NETWORKS["mhcln"])


@pytest.mark.parametrize("name", TRUNKS)
def test_every_network_is_trained_and_encodes_on_gpu_and_tpu(name: str) -> None:
    method, network = METHODS["dlbhc"], NETWORKS[name]
    convolutions = network.takes == "images"
    if not name.startswith("efficientnet"):  # it is taken as released, and never trained
        assert ("stablehlo.convolution" in step_of(method, network)) == convolutions
    spec = spec_of(method, network)
    encoder = encoding._compiled(
        spec, "float16", ("codes", "features"), sharding.local_mesh(jax.devices()[:1])
    )
    shape = (1, *spec.item_shape)
    variables = jax.eval_shape(lambda key: nets.init(spec.build(), key, shape), jax.random.key(0))
    dtype = jnp.uint8 if network.takes == "images" else jnp.float32
    items = jax.ShapeDtypeStruct((ITEMS, *spec.item_shape), dtype)
    text = lowered(encoder, dict(variables), items)
    assert ("stablehlo.convolution" in text) == convolutions
    assert "ui8" in text  # the codes
