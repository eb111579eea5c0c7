"""The networks, behind one contract: the only package that knows flax.

A network is a trunk (one file here; the layers up to the features) under the common head (latent
layer and classifier); a row of `NETWORKS` says what it takes.
Every network has the same parameter paths: `params["trunk"]`, `params["head"]["latent"]` and,
with a classifier, `params["head"]["classifier"]["kernel"]` of shape (bits, classes).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxhash.nets import alexnet, dsh, efficientnet_lite, features, mhcln, resnet
from jaxhash.nets.head import ACTIVATIONS, CLASSIFIERS, STARTS, HashNetwork, Head, one_of
from jaxhash.nets.outputs import Outputs

__all__ = [
    "NETWORKS",
    "HashNetwork",
    "Network",
    "Outputs",
    "apply",
    "apply_head",
    "classifier_kernel",
    "features_of",
    "init",
]


@dataclass(frozen=True)
class Network:
    """A network, a row of `NETWORKS`: a trunk and the items that it takes.

    Args:
        name: what a configuration calls it.
        trunk: called with `dtype=`, returns a module mapping `(items, train=)` to (features,
            hidden).
        takes: "images" (n, h, w, c) or "features" (n, d).
        image_size: the side in pixels it is meant for; None means the data's own.
        min_size: the smallest side in pixels that the trunk's pooling leaves anything of.
        source: paper, year.
        batch: items that are encoded at once by default.
        backbone: used as it was released, under a head that reads the trunk's features.
    """

    name: str
    trunk: Callable[..., nn.Module]
    takes: str = "images"
    image_size: int | None = None
    min_size: int = 1
    source: str = "your own"
    batch: int = 256
    backbone: bool = False

    def build(
        self,
        *,
        bits: int,
        classes: int,
        activation: str = "sigmoid",
        classifier: str = "bias",
        start: str = "fan-in",
        hidden: int | None = None,
        dtype: Any = jnp.float32,
    ) -> HashNetwork:
        """Make the module; it holds no parameters yet.

        Args:
            bits: length of a code.
            classes: number of classes, for the classifier.
            activation: of the latent layer: a row of `head.ACTIVATIONS`.
            classifier: above it: "bias", "plain" (no bias) or "none".
            start: how the head is initialised: a row of `head.STARTS`.
            hidden: units of a hidden layer of the head, see `head.Head`.
            dtype: what the trunk computes in; parameters and outputs stay float32.

        Returns:
            The module: items -> `Outputs`.

        Raises:
            ValueError: a number below 1 or an unknown name.

        Example:
            >>> module = NETWORKS["dsh"].build(bits=48, classes=10, activation="linear")
        """
        if bits < 1:
            raise ValueError(f"bits is {bits}; a code needs at least 1")
        if classes < 1 and classifier != "none":
            raise ValueError(f"classes is {classes}; a classifier needs at least 1")
        head = Head(
            bits,
            classes,
            one_of("activation", activation, ACTIVATIONS),
            one_of("classifier", classifier, CLASSIFIERS),
            one_of("start", start, STARTS),
            hidden,
        )
        trunk = self.trunk(dtype=dtype)
        return HashNetwork(trunk, head, self.name, self.takes, self.min_size)


EFFICIENTNET_LITE = (
    "Tan and Le, EfficientNet: rethinking model scaling for convolutional neural networks, ICML "
    "2019, in the Lite form of 2020, with its ImageNet weights"
)
NETWORKS: dict[str, Network] = {
    row.name: row
    for row in (
        Network(
            name="alexnet",
            trunk=alexnet.Trunk,
            takes="images",
            image_size=224,
            min_size=alexnet.MIN_SIZE,
            source="Krizhevsky, One weird trick for parallelizing convolutional neural networks, "
            "2014: the layers of torchvision's pretrained weights",
        ),
        Network(
            name="caffenet",
            trunk=alexnet.caffenet,
            takes="images",
            image_size=227,
            min_size=alexnet.MIN_SIZE,
            source="Krizhevsky et al., ImageNet classification with deep convolutional neural "
            "networks, NIPS 2012, in the order of the Caffe reference model",
        ),
        Network(
            name="dsh",
            trunk=dsh.Trunk,
            takes="images",
            image_size=32,
            min_size=dsh.MIN_SIZE,
            source="Liu et al., Deep supervised hashing for fast image retrieval, CVPR 2016",
        ),
        Network(
            name="efficientnet-lite0",
            trunk=efficientnet_lite.lite0,
            takes="images",
            image_size=224,
            min_size=efficientnet_lite.MIN_SIZE,
            source=EFFICIENTNET_LITE,
            # More are slower on a CPU, and a query is padded to a batch.
            batch=16,
            backbone=True,
        ),
        Network(
            name="efficientnet-lite1",
            trunk=efficientnet_lite.lite1,
            takes="images",
            image_size=240,
            min_size=efficientnet_lite.MIN_SIZE,
            source=EFFICIENTNET_LITE,
            # More are slower on a CPU, and a query is padded to a batch.
            batch=16,
            backbone=True,
        ),
        Network(
            name="efficientnet-lite2",
            trunk=efficientnet_lite.lite2,
            takes="images",
            image_size=260,
            min_size=efficientnet_lite.MIN_SIZE,
            source=EFFICIENTNET_LITE,
            # More are slower on a CPU, and a query is padded to a batch.
            batch=16,
            backbone=True,
        ),
        Network(
            name="features",
            trunk=features.Trunk,
            takes="features",
            image_size=None,
            min_size=1,
            source="features as they are: for a head alone",
        ),
        Network(
            name="mhcln",
            trunk=mhcln.Trunk,
            takes="features",
            image_size=None,
            min_size=1,
            source="Roy et al., Deep metric and hash-code learning for content-based retrieval of "
            "remote sensing images, IGARSS 2018",
        ),
        Network(
            name="resnet",
            trunk=resnet.Trunk,
            takes="images",
            image_size=None,
            min_size=resnet.MIN_SIZE,
            source="this project's, after Jordan, 94% on CIFAR-10 in 3.29 seconds, 2024",
        ),
        Network(
            name="resnet-small",
            trunk=resnet.small,
            takes="images",
            image_size=None,
            min_size=resnet.MIN_SIZE,
            source="`resnet` with a quarter of the products, for digits and first tries",
        ),
        Network(
            name="resnet-tiny",
            trunk=resnet.tiny,
            takes="images",
            image_size=None,
            min_size=resnet.MIN_SIZE,
            source="`resnet` with two narrow blocks on half the pixels, for comparing methods",
        ),
        Network(
            name="resnet-large",
            trunk=resnet.large,
            takes="images",
            image_size=None,
            min_size=resnet.MIN_SIZE,
            source="`resnet` with three times the products, for accelerators",
        ),
    )
}


def features_of(module: HashNetwork, variables: Mapping[str, Any], items: jax.Array) -> jax.Array:
    """The trunk's features alone, float32 (n, d).

    Example:
        >>> features = features_of(module, variables, images)  # doctest: +SKIP
    """
    found: Any = module.apply(dict(variables), items, method="look")
    return found


def apply_head(module: HashNetwork, variables: Mapping[str, Any], features: jax.Array) -> Outputs:
    """Outputs of the head alone, of a network whose head reads the trunk's features.

    Example:
        >>> outputs = apply_head(module, variables, features)  # doctest: +SKIP
    """
    outputs: Any = module.apply(dict(variables), features, method="finish")
    return outputs


def init(module: nn.Module, key: jax.Array, items_shape: tuple[int, ...]) -> dict[str, Any]:
    """Fresh variables {"params": ...} and, for networks that have them, "batch_stats".

    `items_shape` is (n, h, w, c) or (n, d); n may be 1.

    Raises:
        ValueError: the network does not take such items.

    Example:
        >>> module = NETWORKS["dsh"].build(bits=8, classes=10)
        >>> sorted(init(module, jax.random.key(0), (1, 32, 32, 3))["params"])
        ['head', 'trunk']
    """
    # Compiled as one program: run eagerly, the forward pass would compile operation by operation.
    start = jax.jit(lambda key: module.init(key, jnp.zeros(items_shape, jnp.float32), train=False))
    return dict(start(key))


def apply(
    module: nn.Module,
    variables: Mapping[str, Any],
    items: jax.Array,
    *,
    train: bool,
    key: jax.Array | None = None,
) -> tuple[Outputs, Any]:
    """Run the network: Outputs, and the batch statistics after it ({} where it has none).

    items: float32 (n, h, w, c), already normalised, or (n, d). `key` drives dropout, and is
    needed only where `train` is true and the network has some.

    Raises:
        ValueError: the network does not take such items.

    Example:
        >>> outputs, statistics = apply(module, variables, images, train=False)  # doctest: +SKIP
    """
    if not train:
        seen: Any = module.apply(dict(variables), items, train=False)
        return seen, variables.get("batch_stats", {})
    rngs = None if key is None else {"dropout": key}
    result: Any = module.apply(
        dict(variables), items, train=True, rngs=rngs, mutable=["batch_stats"]
    )
    outputs, changed = result
    return outputs, changed.get("batch_stats", {})


def classifier_kernel(params: Mapping[str, Any]) -> jax.Array | None:
    """The class weights (bits, classes) among a network's parameters, or None without any.

    Example:
        >>> classifier_kernel({"head": {"latent": {}}}) is None
        True
    """
    classifier = params["head"].get("classifier")
    return None if classifier is None else classifier["kernel"]
