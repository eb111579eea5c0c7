"""Batches for the compiled training step, from items on the device or streamed to it."""

import contextlib
import functools
from collections.abc import Callable, Generator
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxhash import sharding
from jaxhash.training import feeding
from jaxhash.training.feeding import Batch
from jaxhash.training.plan import Plan
from jaxhash.training.steps import Metrics, TrainState, TrainStep


class Rows(NamedTuple):
    """The batches of `length` steps, as rows of training items that live on the devices.

    data: all training items and labels. rows: int32 (m, batch_size), of which the steps take those
    from `offset` on.
    """

    data: Batch
    rows: jax.Array
    offset: np.int32
    length: int


CompiledStep = Callable[[TrainState, Batch | Rows], tuple[TrainState, Metrics]]
"""(state, batch) -> (state, metrics); the state is donated, metrics have the shape (steps,)."""


def batches(plan: Plan, mesh: Mesh, start: int = 0) -> Generator[Batch | Rows, None, None]:
    """The batches of a run from step `start` on: one at a time, or several where that is faster.

    Example:
        >>> for batch in batches(plan, mesh):  # doctest: +SKIP
        ...     state, metrics = train_step(state, batch)
    """
    if is_resident(plan, mesh):
        yield from _resident(plan, mesh, start)
        return
    steps = range(start, plan.steps)
    ready = feeding.stream(
        plan.dataset.items, plan.split.train, plan.labels, plan.rows, steps, mesh
    )
    with contextlib.closing(ready):
        yield from ready


def compiled(train_step: TrainStep, mesh: Mesh) -> CompiledStep:
    """The pure step compiled for whatever `batches` gives.

    Example:
        >>> state, metrics = compiled(train_step, mesh)(state, batch)  # doctest: +SKIP
    """
    streaming = compile_streaming(train_step, mesh)
    resident = functools.cache(functools.partial(compile_resident, train_step, mesh))

    def step(state: TrainState, batch: Batch | Rows) -> tuple[TrainState, Metrics]:
        if isinstance(batch, Rows):
            return resident(batch.length)(state, batch.data, batch.rows, batch.offset)
        return streaming(state, batch)

    return step


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


def _resident(plan: Plan, mesh: Mesh, start: int) -> Generator[Rows, None, None]:
    chunk = chunk_length(plan, mesh)
    items = np.ascontiguousarray(plan.dataset.items[plan.split.train])
    data = sharding.everywhere(Batch(items, plan.labels), mesh)
    # Row numbers are sent for about an epoch at a time, while the device is still busy.
    span = max(plan.epoch_steps // chunk, 1) * chunk
    rows = None
    for step in range(start, plan.steps, chunk):
        if rows is None or step % span == 0:
            first = step - step % span
            table = np.stack([plan.rows(one) for one in range(first, first + span)])
            rows = sharding.everywhere(table, mesh)
        yield Rows(data, rows, np.int32(step % span), min(chunk, plan.steps - step))
