"""What is measured of the steps while they run: means, speed, and a profile of some of them."""

import time
from pathlib import Path

import jax
import numpy as np

from jaxhash.training.plan import Plan
from jaxhash.training.steps import Metrics


class Meter:
    """Turns the metrics of some steps into a row of the log, with the speed they ran at."""

    def __init__(self, plan: Plan, step: int) -> None:
        self.plan, self.step = plan, step
        self.since: float | None = None
        self.calls = self.starved = 0

    def before_call(self, waiting: bool) -> None:
        """A call is about to start; `waiting` says that the device has nothing to do."""
        self.calls += 1
        self.starved += waiting

    def after_call(self) -> None:
        """The call has started, so compilation, whose time does not count, is done."""
        if self.since is None:
            self.since = time.perf_counter()

    def restart(self, step: int) -> None:
        """Go on from `step`, leaving out the time since the last summary."""
        self.step, self.since = step, time.perf_counter()

    def summary(self, step: int, metrics: list[Metrics]) -> dict[str, float]:
        """The row of the steps up to `step`; waits until they are done.

        Raises:
            FloatingPointError: one of them was not finite.
        """
        means = fetch_means(metrics, step)
        assert self.since is not None
        seconds = time.perf_counter() - self.since
        images = (step - self.step) * self.plan.recipe.batch_size
        row = {"step": step, "epoch": round(step / self.plan.epoch_steps, 4), **means}
        row["images_per_second"] = round(images / seconds, 1)
        row["input_share"] = round(self.starved / max(self.calls, 1), 3)
        self.calls = self.starved = 0
        self.restart(step)
        return row


def fetch_means(metrics: list[Metrics], step: int) -> dict[str, float]:
    """Means over the steps up to `step`, fetched in one go.

    Raises:
        FloatingPointError: a loss or a gradient was not finite; the message names the step.
    """
    fetched = jax.device_get(metrics)
    columns = {name: np.concatenate([one[name] for one in fetched]) for name in fetched[0]}
    broken = ~np.isfinite(columns["loss"]) | ~np.isfinite(columns["gradient_norm"])
    if broken.any():
        first = step - len(broken) + 1 + int(broken.argmax())
        what = "gradient" if np.isfinite(columns["loss"][broken.argmax()]) else "loss"
        raise FloatingPointError(
            f"the {what} of step {first} is not finite, so training stopped; the checkpoints "
            f"before it are kept; lower learning_rate, or set clip_norm"
        )
    return {name: float(column.mean()) for name, column in columns.items()}


class Trace:
    """A profile of some steps, from the third call on, so that compilation is not in it."""

    def __init__(self, folder: Path | None, steps: int) -> None:
        self.folder, self.left, self.calls, self.on = folder, steps, 0, False

    def follow(self, metrics: Metrics) -> None:
        """Called after each call with what it returned."""
        self.calls += 1
        if self.on:
            self.left -= len(metrics["loss"])
            if self.left <= 0:
                jax.block_until_ready(metrics)
                self.close()
        elif self.calls == 2 and self.left > 0 and self.folder is not None:
            jax.block_until_ready(metrics)
            jax.profiler.start_trace(self.folder / "profile")
            self.on = True

    def close(self) -> None:
        """End the profile, where one is taken."""
        if self.on:
            jax.profiler.stop_trace()
        self.on, self.left = False, 0
