"""The configuration of a run, and reading and writing it as JSON."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxhash.recipes import Recipe


@dataclass(frozen=True)
class Config:
    """Everything a training run needs; the fields left at None follow the method's recipe."""

    data: str = "digits"
    """What to learn from: digits, a tensorflow-datasets name (mnist, cifar10, ...), a folder of
    class-name/image.jpg, an .npz file or a folder of .npy files."""
    data_dir: str | None = None
    """Folder that holds prepared tensorflow-datasets or their original archives."""
    download: bool = False
    """Allow the dataset to be downloaded where it is not there."""
    protocol: str | None = None
    """How the images are split into training, database and query: p-all, p-5k, p-dsh, fraction,
    unseen or parts. Default: parts for data with a part query or database, p-all for data with
    parts train and test, else fraction."""
    protocol_options: dict[str, bool | int | float] = field(default_factory=dict)
    """Options of the protocol, by name: train_share 0.8 for fraction, queries_per_class 10 for
    p-5k; a wrong name lists them."""
    validation: float = 0.1
    """Share of the training images held out to choose the best checkpoint; 0 for none."""
    max_undecodable: float = 0.01
    """Share of a folder's images that may fail to decode before the run stops."""

    method: str | None = None
    """The hashing method: orthohash, dhih-r3, csq, dlbhc, dsh and others; or, for images without
    labels, on a frozen network, itq, bihalf, lsh or pca-sign; a wrong name lists them all. Default:
    orthohash; dhih-r3 on a frozen network; itq for a folder of images without sub-folders."""
    network: str | None = None
    """The network below the code, or onnx:FILE. Such files, and without finetune_blocks also
    efficientnet-lite0 to -lite2, stay frozen; only a head above them is trained. Default: resnet
    for images, mhcln for features; efficientnet-lite0 for folders of photographs and for methods
    without labels."""
    network_options: dict[str, bool | int | float | str] = field(default_factory=dict)
    """What an ONNX file does not say, by name: side 224 mean 0.485,0.456,0.406 std 0.5 (pixels in
    [0, 1]), layout nchw or nhwc, output NAME, pool first or mean (of tokens)."""
    hidden: int | None = None
    """Units of a hidden layer between the features of a frozen backbone, or of network features,
    and the code; 0 for none. Default: 512 on a backbone."""
    finetune_blocks: int = 0
    """Last blocks of efficientnet-lite0 to -lite2 that learn too, at a tenth of the head's
    learning_rate, in minutes in place of seconds; 0 leaves the network as it is, and its features
    are computed once."""
    bits: int = 48
    """Length of the code, 1 to 1024."""
    image_size: int | None = None
    """Side in pixels that images are resized to. Default: what the network is meant for, or else
    the images' own, or 64 for a folder with images of several sizes."""
    weights: str | None = None
    """What to start from: pretrained weights (.pth or .safetensors), for the layers they fit, or
    the folder of a finished run, for all but its latent layer and classifier. For a method without
    labels: another such run, whose features are reused if its images are the same."""
    options: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Options of the method's loss, by name: alpha 0.01 margin 96."""

    recipe: Literal["auto", "published", "scratch"] = "auto"
    """Where optimiser, schedule and the like come from when they are not given: published, the
    method's paper; scratch, a short run from random weights. Default: published on the paper's own
    network, scratch on others."""
    epochs: float | None = None
    """Length of the run in passes over the training images."""
    steps: int | None = None
    """Length of the run in batches, in place of epochs."""
    batch_size: int | None = None
    """Images per step, over all devices together."""
    optimizer: str | None = None
    """sgd, adam or adamw; adam and adamw need other learning rates than sgd."""
    learning_rate: float | None = None
    """The highest learning rate of the trunk (the layers below the latent layer), whatever the
    number of devices."""
    schedule: str | None = None
    """constant, step, cosine or one-cycle."""
    drops: tuple[float, ...] | None = None
    """For the schedule step: fractions of the run at which the rate drops, such as 0.5 0.75."""
    drop_factor: float | None = None
    """For the schedule step: what the rate is multiplied by at each drop."""
    warmup: float | None = None
    """For the schedules cosine and one-cycle: fraction of the run over which the rate rises."""
    final_rate: float | None = None
    """For the schedules cosine and one-cycle: the last rate as a fraction of the highest."""
    momentum: float | None = None
    """Momentum of sgd; the first beta of adam and adamw."""
    beta2: float | None = None
    """The second beta of adam and adamw."""
    nesterov: bool | None = None
    """Use Nesterov's momentum."""
    weight_decay: float | None = None
    """Weight decay; it spares biases and the scales of normalisations unless decay_all is set."""
    decay_all: bool | None = None
    """Let weight decay act on biases and the scales of normalisations too."""
    head_rate: float | None = None
    """Learning rate of the latent layer and the classifier, in multiples of the trunk's."""
    latent_rate: float | None = None
    """As head_rate, for the latent layer alone."""
    classifier_rate: float | None = None
    """As head_rate, for the classifier alone."""
    bias_rate: float | None = None
    """Learning rate of biases, in multiples of that of the other weights of their layer."""
    clip_norm: float | None = None
    """Gradients of a larger norm are scaled down to it; 0 for no limit."""
    label_smoothing: float | None = None
    """Share of the target spread over all classes, for losses that classify."""
    batches: Literal["auto", "shuffled", "balanced"] = "auto"
    """How images are drawn into batches: shuffled, or balanced, an equal number of each class.
    Default: the method's own way."""
    start: str | None = None
    """How the latent layer and the classifier are initialised: fan-in, or as in a paper: dlbhc,
    ssdh, xavier (DSH), normal (HashNet, DPN, OrthoHash), he (TALR), he-average (MHCLN), uniform
    (GreedyHash, CSQ)."""
    augment: str | None = None
    """How training images are varied: none, or some of crop, flip, turn, cutout, affine, zoom and
    colour, joined by dashes."""
    average: float = 0.0
    """Decay per step of a running average of the weights, which is then validated and exported in
    their place; 0 for none, 0.999 is usual."""
    mirror: bool = False
    """Encode an image as the mean of the network's outputs for it and for its mirror image, in
    twice the time; for images whose meaning does not change when mirrored."""
    shift: bool = False
    """Encode an image as the weighted mean over it and two copies shifted a little, both ways along
    a diagonal, in three times the time."""

    seed: int = 0
    """Seed of the initial weights, the shuffling, the augmentation and the split."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Number type the network computes in; parameters and losses stay float32."""
    eval_every: float | None = None
    """Epochs between validations, each with a checkpoint; the last step always has one. Default: a
    tenth of the run, and at least one epoch."""
    log_every: int = 50
    """Steps between lines of the metrics log."""
    resident: Literal["auto", "device", "stream"] = "auto"
    """Keep the training images in the device's memory, or stream them to it. Default: by their
    size."""
    tensorboard: bool = False
    """Also write the metrics for TensorBoard (needs the package tensorboardX)."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            ValueError: the message names the field.
        """
        if not 1 <= self.bits <= 1024:
            raise ValueError(f"bits is {self.bits}; give 1 to 1024")
        if self.hidden is not None and not 0 <= self.hidden <= 65536:
            raise ValueError(f"hidden is {self.hidden}; give 0 for no hidden layer, to 65536 units")
        if self.finetune_blocks < 0:
            raise ValueError(
                f"finetune_blocks is {self.finetune_blocks}; give 0 for none, or a number of blocks"
            )
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation is {self.validation}; give a share in [0, 1)")
        if not 0 <= self.average < 1:
            raise ValueError(f"average is {self.average}; give a decay in [0, 1), 0 for none")
        if self.log_every < 1:
            raise ValueError(f"log_every is {self.log_every}; give at least 1 step")
        if self.eval_every is not None and not self.eval_every > 0:
            raise ValueError(f"eval_every is {self.eval_every}; give more than 0 epochs")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; give 0 to {2**32 - 1}")
        if not 0 <= self.max_undecodable <= 1:
            raise ValueError(f"max_undecodable is {self.max_undecodable}; give a share in [0, 1]")
        if self.epochs is not None and self.steps is not None:
            raise ValueError("epochs and steps both give the length of the run; keep one")
        for name in ("latent_rate", "classifier_rate"):
            if self.head_rate is not None and getattr(self, name) is not None:
                raise ValueError(f"head_rate and {name} both give a layer's rate; keep one")

    def recipe_over(self, base: Recipe) -> Recipe:
        """The recipe with the fields given here in place of its own.

        Args:
            base: a recipe.

        Returns:
            Another one.

        Raises:
            ValueError: a given field is out of range; the message names it.

        Example:
            >>> Config(epochs=3, batch_size=64).recipe_over(Recipe(steps=1000)).epochs
            3
        """
        names = {recipe_field.name for recipe_field in dataclasses.fields(Recipe)}
        given = {
            config_field.name: getattr(self, config_field.name)
            for config_field in dataclasses.fields(self)
            if config_field.name in names and getattr(self, config_field.name) is not None
        }
        if self.head_rate is not None:
            given["latent_rate"] = given["classifier_rate"] = self.head_rate
        if self.clip_norm == 0:
            given["clip_norm"] = None
        if "epochs" in given:
            given["steps"] = None
        elif "steps" in given:
            given["epochs"] = None
        return dataclasses.replace(base, **given)


# ---------------------------------------------------------------- configurations as JSON


def to_json(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON values.

    Example:
        >>> to_json(Config(bits=12))["bits"]
        12
    """
    fields = dataclasses.asdict(config)
    return {name: list(one) if isinstance(one, tuple) else one for name, one in fields.items()}


def from_json(values: Mapping[str, Any], *, source: str = "the configuration") -> Config:
    """The configuration that `to_json` wrote; absent fields take their defaults.

    Raises:
        ValueError: a field that does not exist or a value of the wrong type, named with the
            `source` it came from.

    Example:
        >>> from_json({"bits": 12}).bits
        12
    """
    check_values(values, typing.get_type_hints(Config), source=source)
    fields: dict[str, Any] = {
        name: tuple(one) if isinstance(one, list) else one for name, one in values.items()
    }
    return Config(**fields)


def check_values(values: Mapping[str, Any], hints: Mapping[str, Any], *, source: str) -> None:
    """Refuse values that do not fit the types of the fields they are named after.

    Raises:
        ValueError: a field that does not exist or a value of the wrong type, named with the
            `source` it came from.
    """
    for name, value in values.items():
        if name not in hints:
            raise ValueError(f"{source} has an unknown field {name!r}{suggestion(name, hints)}")
        if not _fits(value, hints[name]):
            raise ValueError(
                f"{source} has {name} = {value!r}; it has to be {_describe(hints[name])}"
            )


def suggestion(name: str, known: Iterable[str]) -> str:
    """' (did you mean ...?)' when one of the known names is close, else ''.

    Example:
        >>> suggestion("bist", ["bits", "seed"])
        ' (did you mean bits?)'
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def row_of(table: Mapping[str, Any], kind: str, name: str) -> Any:
    """What a table has under a name that a user gave; kind: of thing, for the message.

    Raises:
        ValueError: it has no such row; the message says which there are.

    Example:
        >>> row_of({"dsh": 1}, "method", "dsh")
        1
    """
    if name not in table:
        raise ValueError(
            f"{kind} is {name!r}{suggestion(name, table)}; choose one of {', '.join(table)}"
        )
    return table[name]


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, one) for one in arguments)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_fits(one, arguments[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(name, arguments[0]) and _fits(one, arguments[1]) for name, one in value.items()
        )
    if hint is Path:
        return isinstance(value, str)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(_describe, arguments))
    if origin is tuple:
        return f"a list of {_describe(arguments[0])}"
    if origin is dict:
        return f"{_describe(arguments[1])}, by name"
    if hint is Path:
        return "a path"
    return "null" if hint is type(None) else getattr(hint, "__name__", str(hint))
