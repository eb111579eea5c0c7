"""Methods with labels on a backbone: its features are computed once, and a head is trained on them.

These functions run between planning and the loop, which then trains as on any other features.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxhash import known_features
from jaxhash.models import Model
from jaxhash.spec import ModelSpec
from jaxhash.training import kept_features
from jaxhash.training.kept_features import Kept
from jaxhash.training.plan import Plan
from jaxhash.unlabelled import layer


def find(plan: Plan, trunk: Mapping[str, Any], folder: Path | None) -> Kept | None:
    """The features that the run in the folder, or the one that `weights` names, has kept."""
    assert plan.images is not None
    key = kept_features.key(_eye(plan), trunk, plan.images)
    return kept_features.find(key, kept_features.places(plan.config, folder))


def with_features(
    plan: Plan,
    trunk: Mapping[str, Any],
    kept: Kept | None,
    folder: Path | None,
    *,
    devices: Sequence[jax.Device] | None = None,
    on_images: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Plan:
    """The plan with features in place of images, from `kept` or computed, and kept in the folder.

    Raises:
        ValueError: an image cannot be decoded, or the images to learn from are all alike.
    """
    assert plan.images is not None
    if kept is not None:
        say(f"features of {len(kept.rows):,} images were kept, and are taken")
    else:
        kept, _ = kept_features.compute(
            _eye(plan),
            trunk,
            plan.images,
            max_undecodable=0.0,  # those that cannot be were left out when they were listed
            devices=devices,
            on_images=on_images,
            say=say,
        )
    if folder is not None:
        key = kept_features.key(_eye(plan), trunk, plan.images)
        backbone = known_features.fingerprint(_eye(plan), trunk)
        kept_features.write(folder, kept, key, backbone)
    layer.check(kept.features[plan.split.train])
    return plan._replace(dataset=dataclasses.replace(plan.dataset, items=kept.features))


def whole(plan: Plan, trunk: Mapping[str, Any], head: Model) -> Model:
    """A trained head joined to its backbone; a network without a backbone unchanged."""
    if plan.backbone is None:
        return head
    params = dict(head.variables["params"]) | ({"trunk": trunk} if trunk else {})
    return Model(_eye(plan), dict(head.variables) | {"params": params})


def _eye(plan: Plan) -> ModelSpec:
    """The description of the whole model: the head's, on the backbone."""
    assert plan.backbone is not None
    own = ("network", "item_shape", "mean", "std", "onnx")
    fields = {
        one.name: getattr(plan.spec, one.name)
        for one in dataclasses.fields(plan.spec)
        if one.name not in own
    }
    views = {"mirror": plan.config.mirror, "shift": plan.config.shift}
    return plan.backbone.spec(**fields | views)
