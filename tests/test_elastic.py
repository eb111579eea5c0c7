"""A run that goes on with another number of devices: the same batches, and the same losses."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import small
from test_steps import FAST, blobs, leaves, pictures

from jaxhash import sharding
from jaxhash.config import Config
from jaxhash.nets import NETWORKS
from jaxhash.training import batches, checkpoints, loop, metrics_log, stopping
from jaxhash.training.batches import Rows
from jaxhash.training.planning import settle

# All that a state has: moments of the optimiser, batch statistics, an average, drawn variations.
RUN = Config(
    network="small",
    bits=12,
    batch_size=16,
    steps=9,
    augment="crop-flip",
    average=0.9,
    log_every=1,
    eval_every=100.0,
    validation=0.0,
)


@pytest.mark.parametrize("resident", ["device", "stream"])
def test_batches_are_the_same_on_any_number_of_devices(resident: str) -> None:
    data = blobs()
    plan = settle(Config(**FAST, steps=4, validation=0.0, resident=resident), data)
    for devices in (8, 2, 4, 1):
        mesh = sharding.mesh_over(16, jax.devices()[:devices])
        for step, batch in enumerate(batches.batches(plan, mesh, 1), start=1):
            if isinstance(batch, Rows):
                items = np.asarray(batch.data.items)[np.asarray(batch.rows)[batch.offset]]
            else:
                assert len(batch.items.sharding.device_set) == devices
                items = np.asarray(batch.items)
            np.testing.assert_array_equal(items, data.items[plan.split.train[plan.rows(step)]])


def test_a_run_goes_on_with_eight_two_and_four_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETWORKS, "small", small.NETWORK)
    data = pictures(side=small.SIDE)
    said: list[str] = []

    def stop_after(step: int) -> None:
        def on_step(progress: loop.Progress) -> None:
            if progress.step == step - 1:  # heard at the next one
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(stopping.Stopped, match=f"after step {step} of 9"):
            go_on({3: 8, 6: 2}[step], on_step)

    def go_on(devices: int, on_step=None, folder: str = "broken") -> loop.Model:
        own = jax.devices()[:devices]
        options = {"dataset": data, "resume": True, "say": said.append}
        return loop.train(RUN, tmp_path / folder, devices=own, on_step=on_step, **options)

    stop_after(3)
    stop_after(6)
    broken = go_on(4)
    assert [line for line in said if line.startswith("resumed")] == [
        "resumed after step 3",
        "resumed after step 6",
    ]
    assert [line.split(",")[0] for line in said if line.startswith("float32")] == [
        f"float32 on {count} x cpu" for count in (8, 2, 4)
    ]
    whole = go_on(8, folder="whole")
    losses = [
        [row["loss"] for row in metrics_log.read(tmp_path / name)] for name in ("broken", "whole")
    ]
    # Sums over a batch are added up in another order on another number of devices: 1e-7 of a loss
    # on the processors tried. One batch that was another would change the next losses by 1e-2.
    assert len(losses[1]) == 9
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for a, b in zip(leaves(broken.variables), leaves(whole.variables), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_state_is_kept_from_one_device() -> None:
    """From all of them Orbax would take a slice each, of every array: operations to be compiled."""
    rows, kept = np.arange(32.0).reshape(16, 2), []
    state = sharding.everywhere({"rows": rows}, sharding.mesh_over(16, jax.devices()))
    manager = SimpleNamespace(save=lambda step, args, metrics: kept.append(args.item["rows"]))
    checkpoints.save(manager, 1, state, score=None)
    assert len(kept[0].sharding.device_set) == 1
    np.testing.assert_array_equal(kept[0], rows)


def test_what_devices_do_not_divide_is_refused_with_the_way_out(tmp_path: Path) -> None:
    config, folder = Config(**FAST | {"batch_size": 12}, steps=2), tmp_path / "run"
    with pytest.raises(
        ValueError, match=r"12 cannot be split over 8 devices; use 6 of them .* example 16"
    ):
        loop.train(config, folder, dataset=blobs(), devices=jax.devices())
    assert not folder.exists()
