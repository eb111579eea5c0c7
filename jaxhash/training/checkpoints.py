"""Checkpoints of a run, through Orbax: the last state to resume from, and the best one."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

SCORE = "validation_map"


def open_checkpoints(folder: Path | str, *, scored: bool = True) -> ocp.CheckpointManager:
    """The checkpoints in a folder, which is made where absent; `scored` if they come with scores.

    Saving goes on in the background; a save that a crash cut short is ignored. Close the manager to
    wait for the last one.

    Example:
        >>> with open_checkpoints("runs/demo/checkpoints") as checkpoints:  # doctest: +SKIP
        ...     save(checkpoints, 100, state, score=0.9)
    """
    keep = policies.AnyPreservationPolicy(
        [
            policies.LatestN(1),
            policies.BestN(
                get_metric_fn=lambda metrics: metrics[SCORE],
                n=1,
                keep_checkpoints_without_metrics=False,
            ),
        ]
    )
    return ocp.CheckpointManager(
        Path(folder).resolve(),
        options=ocp.CheckpointManagerOptions(
            preservation_policy=keep,
            # Without it Orbax would not write the scores to disk.
            best_fn=(lambda metrics: metrics[SCORE]) if scored else None,
            cleanup_tmp_directories=True,
        ),
    )


def save(checkpoints: ocp.CheckpointManager, step: int, state: Any, *, score: float | None) -> None:
    """Keep a state, of which every device has all, under its step.

    score: decides which one is the best.
    """
    if jax.process_count() == 1:
        # From one device: Orbax would take a slice of each array from each, an operation for each.
        state = jax.tree.map(lambda one: one.addressable_data(0), state)
    metrics = None if score is None else {SCORE: score}
    checkpoints.save(step, args=ocp.args.StandardSave(state), metrics=metrics)


def restore(checkpoints: ocp.CheckpointManager, step: int, like: Any) -> Any:
    """The state saved at a step, on the devices and with the types of `like`.

    Raises:
        ValueError: the checkpoint is damaged or does not fit `like`.
    """
    target = jax.tree.map(
        lambda one: jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=one.sharding), like
    )
    try:
        return checkpoints.restore(step, args=ocp.args.StandardRestore(target))
    except (ValueError, KeyError, OSError) as error:  # as Orbax meets it, in its own words
        raise ValueError(
            f"the checkpoint {checkpoints.directory / str(step)} cannot be read; remove it to go "
            f"on from an earlier one, or start again with overwrite=True ({error})"
        ) from error


def best_step(checkpoints: ocp.CheckpointManager) -> int | None:
    """The step with the highest score, the later one of equals; the last without any scores."""
    scored = [
        (metrics[SCORE], step)
        for step in checkpoints.all_steps()
        if (metrics := checkpoints.metrics(step))
    ]
    return max(scored)[1] if scored else checkpoints.latest_step()
