"""Fine-tuning: the last blocks of a backbone learn with the head, at a tenth of its rate.

The blocks before them are computed without a gradient and keep their weights. They are computed
anew at every step, as images are varied from step to step. Batch normalisations are folded into the
convolutions, so nothing but weights and biases is learned.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxhash.config import Config
from jaxhash.training import backbones
from jaxhash.training.backbones import Backbone

RATE = 0.1
"""Of what is fine-tuned, in multiples of the head's rate, which starts from random weights."""


def check(config: Config) -> None:
    """Refuse fine-tuning of what has no pretrained blocks, or from weights that do not fit.

    Raises:
        ValueError: the message says why, and what can be fine-tuned.

    Example:
        >>> check(Config(network="efficientnet-lite0", finetune_blocks=5))
    """
    if not config.finetune_blocks:
        return
    if config.network not in backbones.BACKBONES:
        reason = f"network {config.network!r} has no pretrained blocks: all of it is trained"
        if backbones.is_backbone(config.network):
            reason = f"{config.network} is run by onnxruntime, which trains nothing"
        raise ValueError(
            f"finetune_blocks is given, and {reason}; leave it out, or choose network "
            f"{' or '.join(backbones.BACKBONES)}"
        )
    if config.weights is not None and not Path(config.weights).is_dir():
        raise ValueError(
            f"weights is {config.weights}; with finetune_blocks give the folder of a finished run "
            "of the same network, to go on from its blocks; those of the package are found"
        )


def rates(trunk: Iterable[str], blocks: int) -> dict[str, float]:
    """The rate of each layer of a trunk in multiples of the head's: 0 for those that stay frozen.

    Args:
        trunk: the names of its layers; "block1" and so on are the blocks, and what is neither one
            of them nor the stem lies above the last.
        blocks: how many of the last ones are fine-tuned, with what lies above.

    Returns:
        `RATE` or 0.0, by name.

    Raises:
        ValueError: there are not so many.

    Example:
        >>> rates(["stem", "block1", "block2", "head"], 1)
        {'stem': 0.0, 'block1': 0.0, 'block2': 0.1, 'head': 0.1}
    """
    names = list(trunk)
    number = {name: int(name[5:]) for name in names if re.fullmatch(r"block\d+", name)}
    if blocks > len(number):
        raise ValueError(
            f"finetune_blocks is {blocks}, and the network has {len(number)} blocks; give at most "
            "so many"
        )
    first = len(number) - blocks + 1
    return {
        name: 0.0 if name == "stem" or number.get(name, first) < first else RATE for name in names
    }


def with_weights(backbone: Backbone, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Fresh variables with the pretrained trunk in place of a random one.

    Raises:
        ModuleNotFoundError, ValueError: as `Backbone.find`.
    """
    params = dict(variables["params"]) | {"trunk": backbone.params()}
    return dict(variables) | {"params": params}
