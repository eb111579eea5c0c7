"""The table of methods: head, loss, threshold and published recipe of each.

A method is one row of `METHODS`. To add one: a file in `losses/`, a row here.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax

from jaxhash import published
from jaxhash.losses import (
    Loss,
    Terms,
    csq,
    dhih,
    dlbhc,
    dpn,
    dsh,
    greedyhash,
    hashnet,
    mhcln,
    orthohash,
    talr,
)
from jaxhash.nets import Outputs
from jaxhash.recipes import Recipe

__all__ = ["METHODS", "Method", "Recipe"]

_READS = ("latent", "logits", "features", "labels", "kernel", "classes", "progress")


@dataclass(frozen=True)
class Method:
    """A method, a row of `METHODS`: a loss, the head that it needs above the trunk, and its recipe.

    Args:
        name: what a configuration calls it.
        objective: a loss of `jaxhash.losses`, or one of your own: a function of some of `latent`,
            `logits`, `features`, `labels`, `kernel`, `classes` and `progress` (by these names)
            and of options with defaults, that returns the loss and its terms by name.
        activation: of the latent layer: a row of `nets.head.ACTIVATIONS`.
        threshold: a bit is 1 where the latent is above it.
        classifier: above the latent layer: "bias", "plain" (without one) or "none".
        recipe: as published, for the published network.
        network: the published one, a row of `NETWORKS`; "" where there is none.
        source: paper, year.
        batches: "shuffled", or "class-pair", see `jaxhash.training.sampling.class_pair_batch`.
        defaults: values of the objective's options that this method sets.
        interpretation: what the paper leaves open and how it is understood here.
        idle: from all options, those without effect given the others, each with the reason.

    Example:
        >>> def spread(latent):
        ...     return -jax.numpy.square(latent).mean(), {}
        >>> Method("spread", spread).threshold
        0.0
    """

    name: str
    objective: Callable[..., Loss]
    activation: str = "linear"
    threshold: float = 0.0
    classifier: str = "none"
    recipe: Recipe = field(default_factory=lambda: Recipe(epochs=10))
    network: str = ""
    source: str = "your own"
    batches: str = "shuffled"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    interpretation: str = ""
    idle: Callable[[Mapping[str, Any]], Mapping[str, str]] = lambda values: {}

    def loss(
        self,
        outputs: Outputs,
        labels: jax.Array,
        kernel: jax.Array | None = None,
        *,
        classes: int | None = None,
        progress: jax.Array | float = 1.0,
        **options: Any,
    ) -> tuple[jax.Array, Terms]:
        """The loss of a batch: float32 scalar, and the weighted terms it is the sum of.

        Args:
            outputs: of the network: latent (n, bits), features (n, d), logits (n, classes) or None.
            labels: int (n,) or bool (n, classes).
            kernel: the class weights (bits, classes), see `nets.classifier_kernel`.
            classes: number of classes.
            progress: share of the training that is done, in [0, 1], for losses that change
                during it.
            options: of the objective, by name.

        Returns:
            The loss, a float32 scalar, and its terms by name.

        Raises:
            ValueError: an option this loss does not take, or an input it needs is missing.

        Example:
            >>> outputs = Outputs(None, jax.numpy.ones((2, 8)), None)
            >>> loss, terms = METHODS["dsh"].loss(outputs, jax.numpy.array([0, 1]), alpha=0.1)
        """
        given = outputs._asdict() | {
            "labels": labels,
            "kernel": kernel,
            "classes": classes,
            "progress": progress,
        }
        reads = {name: given[name] for name in self._parameters() if name in _READS}
        for name, value in reads.items():
            if value is None:
                raise ValueError(f"method {self.name!r} needs {name}, and got none")
        return self.objective(**reads, **{**self.defaults, **self._known(options)})

    def options(self, recipe: Recipe | None = None, **chosen: Any) -> dict[str, Any]:
        """The loss's options and their values; `chosen` ones over the recipe's over the defaults.

        Args:
            recipe: gives label smoothing, to losses that take it.
            chosen: options by name.

        Returns:
            All options, by name.

        Raises:
            ValueError: an option this loss does not take.

        Example:
            >>> METHODS["dsh"].options(alpha=0.1)
            {'margin': None, 'alpha': 0.1}
        """
        values = {
            name: parameter.default
            for name, parameter in self._parameters().items()
            if name not in _READS
        } | dict(self.defaults)
        if recipe is not None and recipe.label_smoothing and "label_smoothing" in values:
            values["label_smoothing"] = recipe.label_smoothing
        return values | self._known(chosen)

    def takes(self, option: str) -> bool:
        """Whether the loss has an option of this name.

        Args:
            option: the name.

        Returns:
            True or False.

        Example:
            >>> METHODS["dsh"].takes("label_smoothing")
            False
        """
        return option in self._parameters() and option not in _READS

    def check(self, options: Mapping[str, Any], *, labels: Any, bits: int, classes: int) -> None:
        """Refuse values of options that the loss refuses, without computing it.

        Args:
            options: of the loss, by name.
            labels: of one batch, or their shape and dtype.
            bits: length of a code.
            classes: number of classes.

        Raises:
            ValueError: the message names the option and what it can be.

        Example:
            >>> labels = jax.ShapeDtypeStruct((4,), "int32")
            >>> METHODS["dsh"].check({"margin": 2.0}, labels=labels, bits=8, classes=2)
        """

        def loss(latent: jax.Array, logits: jax.Array, kernel: jax.Array, labels: jax.Array) -> Any:
            outputs = Outputs(latent, latent, logits)
            return self.loss(outputs, labels, kernel, classes=classes, progress=0.5, **options)

        n = labels.shape[0]
        shapes = ((n, bits), (n, classes), (bits, classes))
        jax.eval_shape(loss, *(jax.ShapeDtypeStruct(one, "float32") for one in shapes), labels)

    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.objective).parameters

    def _known(self, options: dict[str, Any]) -> dict[str, Any]:
        takes = [name for name in self._parameters() if name not in _READS]
        for name in options:
            if name not in takes:
                raise ValueError(
                    f"unknown option {name!r} for method {self.name!r}; this loss takes "
                    f"{', '.join(takes) or 'no options'}"
                )
        return options


_DLBHC = Method(
    name="dlbhc",
    activation="sigmoid",
    threshold=0.5,
    classifier="bias",
    objective=dlbhc.dlbhc,
    recipe=published.DLBHC,
    network="alexnet",
    source="Lin et al., Deep learning of binary hash codes for fast image retrieval, CVPRW 2015",
)

_DHIH = Method(
    name="dhih",
    activation="tanh",
    threshold=0.0,
    classifier="plain",
    objective=dhih.dhih,
    idle=dhih.idle,
    # None is known: DLBHC's, the nearest published method.
    recipe=published.DLBHC,
    network="alexnet",
    source="He, Feng, Liu and Huang, DHIH, 2020: the abstract",
    interpretation="R1: the right class's logit is scaled down. A reading of the abstract, see "
    "jaxhash.losses.dhih; the paper's own formula and numbers are not known here.",
)

_MHCLN = Method(
    name="mhcln",
    activation="sigmoid",
    threshold=0.5,
    classifier="none",
    objective=mhcln.mhcln,
    recipe=published.MHCLN,
    network="mhcln",
    source="Roy et al., Deep metric and hash-code learning for content-based retrieval of remote "
    "sensing images, IGARSS 2018",
    interpretation="Triplets: every one of a shuffled batch, where the released code draws 30 from "
    "one pair of classes (mhcln-paper).",
)

METHODS: dict[str, Method] = {
    row.name: row
    for row in (
        _DLBHC,
        dataclasses.replace(
            _DLBHC,
            name="ssdh",
            objective=dlbhc.ssdh,
            recipe=published.SSDH,
            source="Yang, Lin and Chen, Supervised learning of semantics-preserving hash via deep "
            "convolutional neural networks, TPAMI 2018",
        ),
        Method(
            name="dsh",
            activation="linear",
            threshold=0.0,
            classifier="none",
            objective=dsh.dsh,
            recipe=published.DSH,
            network="dsh",
            source="Liu et al., Deep supervised hashing for fast image retrieval, CVPR 2016; "
            "schedule of the IJCV 2019 version",
        ),
        _DHIH,
        dataclasses.replace(
            _DHIH,
            name="dhih-r2",
            defaults={"reading": "angular"},
            interpretation="R2: the angle to the right class's weights is multiplied (L-Softmax).",
        ),
        dataclasses.replace(
            _DHIH,
            name="dhih-r3",
            defaults={"reading": "cosine"},
            interpretation="R3: a margin is taken off the cosine to the right class's weights.",
        ),
        dataclasses.replace(
            _DHIH,
            name="dhih-r4",
            defaults={"reading": "temperature"},
            interpretation="R4: only the softmax's temperature changes.",
        ),
        _MHCLN,
        dataclasses.replace(
            _MHCLN,
            name="mhcln-semihard",
            defaults={"triplets": "semi-hard"},
            interpretation="Triplets: each positive pair with its nearest negative farther away.",
        ),
        dataclasses.replace(
            _MHCLN,
            name="mhcln-paper",
            defaults={"triplets": "rows"},
            batches="class-pair",
            interpretation="Triplets: 30 from one pair of classes at each step, as released.",
        ),
        Method(
            name="hashnet",
            activation="normalised",
            threshold=0.0,
            classifier="none",
            objective=hashnet.hashnet,
            recipe=published.HASHNET,
            network="alexnet",
            source="Cao et al., HashNet: deep learning to hash by continuation, ICCV 2017",
            interpretation="The latent is normalised over the batch before its tanh, which is "
            "ours: without, bits that are alike at the start stay saturated when trained from "
            "scratch.",
        ),
        Method(
            name="greedyhash",
            activation="signs",
            threshold=0.0,
            classifier="plain",
            objective=greedyhash.greedyhash,
            recipe=published.GREEDYHASH,
            network="alexnet",
            source="Su et al., Greedy hash: towards fast optimization for accurate hash coding in "
            "CNN, NeurIPS 2018; the released recipe for CIFAR-10",
        ),
        Method(
            name="csq",
            activation="linear",
            threshold=0.0,
            classifier="none",
            objective=csq.csq,
            recipe=published.CSQ,
            network="alexnet",
            source="Yuan et al., Central similarity quantization for efficient image and video "
            "retrieval, CVPR 2020",
        ),
        Method(
            name="dpn",
            activation="linear",
            threshold=0.0,
            classifier="none",
            objective=dpn.dpn,
            recipe=published.DPN,
            network="alexnet",
            source="Fan et al., Deep polarized network for supervised learning of accurate binary "
            "hashing codes, IJCAI 2020",
        ),
        Method(
            name="orthohash",
            activation="normalised",
            threshold=0.0,
            classifier="none",
            objective=orthohash.orthohash,
            recipe=published.ORTHOHASH,
            network="alexnet",
            source="Hoe et al., One loss for all: deep hashing with a single cosine similarity "
            "based learning objective, NeurIPS 2021",
        ),
        Method(
            name="talr",
            activation="linear",
            threshold=0.0,
            classifier="none",
            objective=talr.talr,
            recipe=published.TALR,
            network="alexnet",
            source="He et al., Hashing as tie-aware learning to rank, CVPR 2018",
        ),
    )
}
