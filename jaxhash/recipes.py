"""Recipes: optimiser, schedule, batches and augmentation of a training run."""

import math
from dataclasses import dataclass, replace

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "step", "cosine", "one-cycle")
STARTS = ("fan-in", "dlbhc", "ssdh", "xavier", "normal", "he", "he-average", "uniform")
"""How a head can be initialised; `nets.head.STARTS` says what each means."""


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(known)}")


@dataclass(frozen=True)
class Recipe:
    """Everything about an optimisation but the loss; `jaxhash.training.optimiser` carries it out.

    Points in time are fractions of the run, so that a recipe keeps its shape when it is made
    longer or shorter. The trunk is the network below the latent layer.
    """

    optimizer: str = "sgd"
    """sgd, adam or adamw."""
    learning_rate: float = 1e-3
    """The trunk's learning rate, at its highest."""
    schedule: str = "constant"
    """constant, step, cosine or one-cycle."""
    drops: tuple[float, ...] = ()
    """step: fractions of the run, in (0, 1), at which the rate is multiplied by drop_factor."""
    drop_factor: float = 0.1
    warmup: float = 0.0
    """cosine, one-cycle: fraction of the run over which the rate rises in a straight line."""
    final_rate: float = 0.0
    """cosine, one-cycle: the last rate as a fraction of the highest."""
    momentum: float = 0.9
    """Momentum of SGD; the first beta of Adam."""
    beta2: float = 0.999
    """The second beta of Adam."""
    nesterov: bool = False
    weight_decay: float = 0.0
    """Weight decay: added to the gradient, or with adamw to the step."""
    decay_all: bool = False
    """Let weight decay act on biases and the scales of normalisations too."""
    latent_rate: float = 1.0
    """Learning rate of the latent layer, in multiples of the trunk's."""
    classifier_rate: float = 1.0
    """Learning rate of the classifier above it, in multiples of the trunk's."""
    bias_rate: float = 1.0
    """Learning rate of biases, in multiples of that of the other weights of their layer."""
    clip_norm: float | None = None
    """Gradients with a larger global norm are scaled down to it."""
    batch_size: int = 128
    steps: int | None = None
    """Length of the run in batches; give either steps or epochs."""
    epochs: float | None = None
    """Length of the run in passes over the training images."""
    augment: str = "none"
    """none, or steps of `jaxhash.training.augment.STEPS` joined by dashes."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes, for losses that take it."""
    start: str = "fan-in"
    """How the head is initialised: one of `STARTS`."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            ValueError: the message names the field.
        """
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("start", self.start, STARTS)
        for name in (
            "learning_rate",
            "batch_size",
            "drop_factor",
            "latent_rate",
            "classifier_rate",
            "bias_rate",
        ):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; give a number above 0")
        for name in ("momentum", "beta2", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give a number in [0, 1)")
        for name in ("warmup", "final_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give a number in [0, 1]")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay is {self.weight_decay}; give 0 or more")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm is {self.clip_norm}; give a number above 0, or none")
        if any(not 0 < drop < 1 for drop in self.drops) or list(self.drops) != sorted(self.drops):
            raise ValueError(f"drops is {self.drops}; give rising fractions of the run, in (0, 1)")
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give the length of the run as either steps or epochs")
        for name in ("steps", "epochs"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; give a number above 0")

    def total_steps(self, images: int) -> int:
        """Batches in the run over this many training images, at least 1.

        An epoch is `images / batch_size` batches, rounded down, as the last part of a batch is
        left to the next shuffle.

        Example:
            >>> Recipe(batch_size=100, epochs=2).total_steps(50_000)
            1000
        """
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(round(self.epochs * max(images // self.batch_size, 1)), 1)


FROM_SCRATCH = Recipe(
    optimizer="sgd",
    learning_rate=0.1,
    schedule="one-cycle",
    warmup=0.2,
    nesterov=True,
    weight_decay=5e-4,
    clip_norm=5.0,
    batch_size=256,
    epochs=10,
    augment="crop-flip",
)
"""A short run from random weights for a trunk with batch normalisation; not from any paper."""
FEWEST_STEPS = 300


def from_scratch(images: int) -> Recipe:
    """`FROM_SCRATCH` for so many training images: of few, smaller batches and more epochs.

    Ten epochs of some hundred images would end after as many steps, with nothing learned. Batches
    are halved, down to 32, until there are ten in an epoch; epochs are added up to 300 steps.

    Example:
        >>> from_scratch(50_000) == FROM_SCRATCH
        True
        >>> few = from_scratch(320)
        >>> few.batch_size, few.epochs
        (32, 30)
    """
    return _for_few(FROM_SCRATCH, images, smallest=32)


def _for_few(recipe: Recipe, images: int, *, smallest: int) -> Recipe:
    """A recipe for so many training images, with ten batches in an epoch and 300 steps at least."""
    size = recipe.batch_size
    while size > smallest and images < 10 * size:
        size //= 2
    assert recipe.epochs is not None
    enough = -(-FEWEST_STEPS // max(images // size, 1))
    return replace(recipe, batch_size=size, epochs=max(recipe.epochs, enough))


FOR_HEAD = replace(FROM_SCRATCH, learning_rate=0.3, batch_size=64, epochs=30, augment="none")
"""For a head on the features of a backbone; seconds, and not from any paper."""


def for_head(images: int) -> Recipe:
    """`FOR_HEAD` for so many training images: of few, smaller batches and up to 300 steps.

    Example:
        >>> for_head(320).batch_size, for_head(320).epochs
        (32, 30)
    """
    return _for_few(FOR_HEAD, images, smallest=16)


FOR_FINETUNING = replace(FOR_HEAD, batch_size=32, epochs=10, augment="crop-flip")
"""For a head together with the last blocks of its backbone, at a tenth of the rate; minutes."""


def for_finetuning(images: int) -> Recipe:
    """`FOR_FINETUNING` for so many training images: of few, smaller batches and up to 300 steps.

    Example:
        >>> for_finetuning(3200).batch_size, for_finetuning(3200).epochs
        (32, 10)
    """
    return _for_few(FOR_FINETUNING, images, smallest=16)
