"""How the steps of a run are called: compiled, several at a time where that is faster, and fed."""

import contextlib
import functools
from collections.abc import Callable, Generator

import jax
import numpy as np
from jax.sharding import Mesh

from jaxhash import sharding
from jaxhash.training import feeding
from jaxhash.training.feeding import Batch
from jaxhash.training.planning import Plan
from jaxhash.training.steps import Metrics, TrainState, TrainStep

Call = Callable[[TrainState], tuple[TrainState, Metrics]]
"""Some steps of a run on data of their own; metrics have the shape (steps,)."""


def calls(
    plan: Plan, train_step: TrainStep, mesh: Mesh, start: int = 0
) -> Generator[Call, None, None]:
    """The calls that do the steps of a run from `start` on; each donates the state it is given.

    Example:
        >>> for call in calls(plan, train_step, mesh):  # doctest: +SKIP
        ...     state, metrics = call(state)
    """
    if is_resident(plan, mesh):
        return _resident(plan, train_step, mesh, start)
    return _streaming(plan, train_step, mesh, start)


def is_resident(plan: Plan, mesh: Mesh) -> bool:
    """Whether the training items live on the devices, or are streamed to them.

    Several processes always stream: each then reads nothing but its own part of the batches.
    """
    if plan.config.resident != "auto" and jax.process_count() == 1:
        return plan.config.resident == "device"
    return jax.process_count() == 1 and feeding.fits(plan.dataset.items, mesh.devices.flat[0])


def chunk_length(plan: Plan, mesh: Mesh) -> int:
    """Steps in one compiled call over items that live on the devices.

    A compiled loop keeps Python out of the way of a fast device. On CPU, XLA runs convolutions
    inside a loop some 25 times slower, without its library, and a call costs next to nothing.
    """
    return 1 if mesh.devices.flat[0].platform == "cpu" else plan.log_steps


def compile_resident(train_step: TrainStep, mesh: Mesh, length: int) -> Callable[..., tuple]:
    """run(state, data, rows, offset) -> (state, metrics): `length` steps as one compiled call.

    data: a `Batch` of all training items, on every device. rows: int32 (m, batch_size), of which
    the steps take those from `offset` on.
    """
    parts = sharding.split(mesh)

    def one(data: Batch, state: TrainState, rows: jax.Array) -> tuple[TrainState, Metrics]:
        # Each device looks up its own part of the batch in its own copy of the items.
        rows = jax.lax.with_sharding_constraint(rows, parts)
        batch = Batch(data.items[rows], data.labels[rows])
        return train_step(state, jax.lax.with_sharding_constraint(batch, parts))

    def run(
        state: TrainState, data: Batch, rows: jax.Array, offset: jax.Array
    ) -> tuple[TrainState, Metrics]:
        if length == 1:
            state, metrics = one(data, state, rows[offset])
            return state, jax.tree.map(lambda value: value[None], metrics)
        taken = jax.lax.dynamic_slice_in_dim(rows, offset, length)
        return jax.lax.scan(functools.partial(one, data), state, taken)

    return jax.jit(run, donate_argnums=0, out_shardings=sharding.replicated(mesh))


def compile_streaming(train_step: TrainStep, mesh: Mesh) -> Callable[..., tuple]:
    """run(state, batch) -> (state, metrics): one step as a compiled call."""

    def run(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        state, metrics = train_step(state, batch)
        return state, jax.tree.map(lambda value: value[None], metrics)

    return jax.jit(run, donate_argnums=0, out_shardings=sharding.replicated(mesh))


def _resident(
    plan: Plan, train_step: TrainStep, mesh: Mesh, start: int
) -> Generator[Call, None, None]:
    chunk = chunk_length(plan, mesh)
    items = np.ascontiguousarray(plan.dataset.items[plan.split.train])
    data = sharding.everywhere(Batch(items, plan.labels), mesh)
    compiled: dict[int, Callable[..., tuple]] = {}
    # Row numbers are sent for about an epoch at a time, while the device is still busy.
    span = max(plan.epoch_steps // chunk, 1) * chunk
    rows = None
    for step in range(start, plan.steps, chunk):
        if rows is None or step % span == 0:
            first = step - step % span
            table = np.stack([plan.rows(one) for one in range(first, first + span)])
            rows = sharding.everywhere(table, mesh)
        length = min(chunk, plan.steps - step)
        if length not in compiled:
            compiled[length] = compile_resident(train_step, mesh, length)
        yield _bind(compiled[length], data, rows, np.int32(step % span))


def _streaming(
    plan: Plan, train_step: TrainStep, mesh: Mesh, start: int
) -> Generator[Call, None, None]:
    run = compile_streaming(train_step, mesh)
    steps = range(start, plan.steps)
    ready = feeding.stream(
        plan.dataset.items, plan.split.train, plan.labels, plan.rows, steps, mesh
    )
    with contextlib.closing(ready):
        for batch in ready:
            yield _bind(run, batch)


def _bind(run: Callable[..., tuple], *arguments: object) -> Call:
    return lambda state: run(state, *arguments)
