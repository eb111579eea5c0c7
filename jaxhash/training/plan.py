"""The plan of a run: every number of it, and whether it is the one that a run was begun with."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxhash import runs
from jaxhash.config import Config, to_json
from jaxhash.data import Dataset, Split
from jaxhash.method import Method
from jaxhash.models import Model
from jaxhash.published import REVISED
from jaxhash.recipes import Recipe
from jaxhash.spec import ModelSpec
from jaxhash.training.backbones import Backbone
from jaxhash.training.feeding import Rows
from jaxhash.training.onnx_backbone import OnnxBackbone


class Plan(NamedTuple):
    """A resolved configuration: every number of the run.

    labels: of the training items. rows: the rows of each step's batch among the training items.
    spec: of the network. source: the finished run whose trunk it starts from, if any.
    published: whether the recipe is based on the published one. log_steps: steps between lines of
    the log. eval_steps: steps between validations, a multiple of `log_steps`. backbone: the one
    that `spec` is a head on, if any; images: its input, where `dataset` has its features. tuned:
    the one whose last blocks are trained too, if any. trunk_rates: see `optimiser.rates`.
    """

    config: Config
    dataset: Dataset
    split: Split
    labels: np.ndarray
    rows: Rows
    method: Method
    recipe: Recipe
    options: dict[str, Any]
    spec: ModelSpec
    source: Model | None
    published: bool
    steps: int
    epoch_steps: int
    log_steps: int
    eval_steps: int
    backbone: Backbone | OnnxBackbone | None = None
    images: Dataset | None = None
    tuned: Backbone | None = None
    trunk_rates: dict[str, float] | None = None

    def __str__(self) -> str:
        """The run in two lines, for a person."""
        shape = self.spec.item_shape
        pixels = f" at {shape[1]} x {shape[0]} pixels" if self.spec.takes == "images" else ""
        network = f"on {self.spec.network}"
        if self.backbone is not None:
            network = f"a head on {self.backbone.network} as it is"
        elif self.tuned is not None:
            network += f", whose last {self.config.finetune_blocks} blocks are fine-tuned"
        return (
            f"{self.method.name}, {self.config.bits} bits, {network}; "
            f"{self.dataset.name}{pixels}, {self.split.description}\n"
            f"{self.steps} steps of {self.recipe.batch_size}, "
            f"{self.steps / self.epoch_steps:.3g} epochs"
        )

    def numbers(self) -> dict[str, Any]:
        """The resolved numbers, for plan.json: runs that agree in them train alike."""
        numbers = {"recipe": to_json(self.recipe), "options": self.options, "steps": self.steps}
        if self.backbone is not None:
            numbers |= {"backbone": self.backbone.about(), "hidden": self.spec.hidden}
        if self.tuned is not None:
            numbers |= {"backbone": self.tuned.about(), "hidden": self.spec.hidden}
            numbers |= {"finetune_blocks": self.config.finetune_blocks}
        return numbers


def check_resumed(folder: Path, plan: Plan) -> None:
    """Refuse to go on with a run under another plan than it was begun with.

    Raises:
        ValueError: the message names what has changed, and what to do.
    """
    changed = runs.differences(plan.config, runs.load_config(folder))
    if changed:
        raise ValueError(
            f"{folder} was started with another {', '.join(changed)}; resume it with the same "
            f"options, or start a new run in another folder"
        )
    way_out = "finish it with that version, or start a new run in another folder"
    if not (folder / runs.PLAN).is_file():
        if plan.published and plan.method.name in REVISED:
            raise ValueError(
                f"{folder} was started by version 0.1.0, whose published recipe of "
                f"{plan.method.name} had other numbers; {way_out}"
            )
        return
    begun = runs.read_json(folder / runs.PLAN)
    ours = plan.numbers()
    # The head of a resumed run is initialised already, so `start` may differ.
    before = begun.get("recipe", {}) | begun.get("options", {}) | {"steps": begun.get("steps")}
    now = ours["recipe"] | ours["options"] | {"steps": ours["steps"]}
    other = [
        f"{name} ({before[name]} then, {now.get(name)} now)"
        for name in before
        if name != "start" and before[name] != now.get(name)
    ]
    if other:
        raise ValueError(
            f"{folder} was started by another version or on other data, with another "
            f"{', '.join(other)}; {way_out}"
        )
