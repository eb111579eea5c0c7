"""From a configuration to a trained model: one function, to be read from top to bottom."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxhash import models, processes, runs, sharding
from jaxhash.config import Config
from jaxhash.data import Dataset, folders, summary
from jaxhash.encoding import encode
from jaxhash.models import Model
from jaxhash.training import (
    checkpoints,
    finetuning,
    frozen,
    heads,
    optimiser,
    pretrained,
    transfer,
)
from jaxhash.training.batches import batches, compiled, is_resident
from jaxhash.training.checkpoints import SCORE
from jaxhash.training.defaults import with_defaults
from jaxhash.training.meter import Meter, Trace
from jaxhash.training.metrics_log import MetricsLog
from jaxhash.training.plan import Plan, check_resumed
from jaxhash.training.planning import settle
from jaxhash.training.steps import (
    Metrics,
    TrainState,
    initial_state,
    initial_variables,
    make_train_step,
    variables_of,
)
from jaxhash.training.stopping import Notice, Stopped
from jaxhash.unlabelled import FITS
from search.measures import ranking

__all__ = ["Progress", "TrainState", "make_train_step", "train", "validation_map"]

VALIDATION_ITEMS = 2000
"""Validation images that are looked at; more would take the time of the training itself."""


class Progress(NamedTuple):
    """How far a run is; see `train`.

    step: steps done, of `steps`. loss, images_per_second: means over the steps up to the last
    logged one, None before it; compilation and validation are left out of the time.
    validation_map: the last one. input_share: share of the steps that found the device waiting for
    images; near 1, the input is the limit. unit: what is counted: "step", or "image" while a
    backbone computes their features.
    """

    step: int
    steps: int
    epoch: float
    loss: float | None = None
    images_per_second: float | None = None
    validation_map: float | None = None
    input_share: float = 0.0
    unit: str = "step"

    def after(self, row: dict[str, float]) -> "Progress":
        """The progress after another row of the log."""
        return self._replace(
            loss=row["loss"],
            images_per_second=row["images_per_second"],
            validation_map=row.get(SCORE, self.validation_map),
            input_share=row["input_share"],
        )


def train(
    config: Config,
    folder: Path | str | None,
    *,
    dataset: Dataset | None = None,
    resume: bool = False,
    overwrite: bool = False,
    devices: Sequence[jax.Device] | None = None,
    on_step: Callable[[Progress], None] | None = None,
    on_model: Callable[[int, Model], None] | None = None,
    say: Callable[[str], None] = lambda message: None,
    profile_steps: int = 0,
) -> Model:
    """Train a network and leave a run directory behind; the model returned is in there too.

    That model has the best mean average precision on the validation images, or is the last where
    there are none, or where `folder` is None: then nothing is written, and nothing can be resumed.

    dataset: in place of the one the configuration names. resume: continue the run in `folder`,
    exactly as if it had never stopped; where there is none, begin. overwrite: replace it. devices:
    all, by default. on_step: called after each compiled call. on_model: called with the steps done
    and the model as it then is, whenever a validation is due, and at the end; its time does not
    count in the speed. say: told what was decided, a line at a time. profile_steps: number of steps
    to trace, after the first ones, into `folder`/profile.

    With several processes (`jax.distributed`) all call this with the same arguments, and a folder
    that they share; each reads its own part of every batch, and the first one writes.

    Raises:
        ValueError: the configuration or the data cannot be used, or several processes differ in
            them; the message says why.
        FileExistsError: the folder holds a run, and neither resume nor overwrite was given.
        FloatingPointError: a loss was not finite; the last good checkpoint is kept.
        Stopped: SIGTERM came, and the state after the last step is kept, to be resumed; see
            `stopping.Notice`.

    Example:
        >>> model = train(Config(network="dsh", epochs=2), "runs/short")  # doctest: +SKIP
    """

    # ------------------------------------------------------------ what is to be done
    def on_images(done: int, total: int) -> None:
        if on_step is not None:
            on_step(Progress(done, total, done / total, unit="image"))

    if resume and folder is not None and (Path(folder) / runs.CONFIG).is_file():
        begun = runs.load_config(folder)  # with the defaults of the version that began it
        method, network = config.method or begun.method, config.network or begun.network
        config = dataclasses.replace(config, method=method, network=network)
    else:
        config = with_defaults(config, dataset, say)
    if config.method in FITS:
        return frozen.train(
            config,
            folder,
            dataset=dataset,
            resume=resume,
            overwrite=overwrite,
            devices=devices,
            on_images=on_images,
            say=say,
        )
    if profile_steps < 0:
        raise ValueError(f"profile_steps is {profile_steps}; give 0 for none, or more")
    if folder is None and (resume or overwrite or profile_steps):
        raise ValueError("resume, overwrite and profile_steps need a folder; give one")
    folder = None if folder is None else Path(folder)
    resume = resume and folder is not None and (folder / runs.CONFIG).is_file()
    resume = processes.as_first(resume)
    if folder is not None and not resume:
        processes.first(functools.partial(runs.check_free, folder, overwrite=overwrite))
    plan = processes.every(
        functools.partial(settle, config, dataset, resumed=resume, folder=folder)
    )
    processes.check_same(_what_all_share(plan, resume=resume, overwrite=overwrite))
    mesh = sharding.mesh_over(plan.recipe.batch_size, devices)
    if folder is not None:
        processes.check_shared(folder)
    say(str(plan))
    if jax.process_index() == 0:
        images = plan.images or plan.dataset
        for line in summary.lines(images, plan.split.train, plan.split.query):
            say(line)
    if dataset is None and folders.unlabelled_folder(config.data) is not None:
        say("images without labels beside them are left out; method itq learns from both")
    if devices is None and mesh.size < jax.device_count():
        say(f"{jax.device_count() - mesh.size} devices stay idle: they do not divide a batch")

    # ------------------------------------------------------------ the backbone, if it has one
    trunk, kept = {}, None
    if plan.backbone is not None:
        trunk = plan.backbone.params()
        kept = heads.find(plan, trunk, folder)  # before a run in the folder is replaced

    # ------------------------------------------------------------ the network
    start_key, step_key = jax.random.split(jax.random.key(config.seed))
    module = plan.spec.build(start=plan.recipe.start)
    variables = initial_variables(module, start_key, plan.spec.item_shape)
    if plan.source is not None:
        variables = transfer.with_trunk(plan.source, variables)
        say(f"{config.weights}: its trunk is taken, under a new latent layer")
    elif plan.tuned is not None:
        variables = finetuning.with_weights(plan.tuned, variables)
    elif config.weights is not None and plan.backbone is None:
        load = functools.partial(pretrained.load, config.weights, plan.spec.network)
        params, loaded = processes.every(functools.partial(load, variables["params"]))
        variables |= {"params": params}
        say(f"{config.weights}: {loaded}")

    # ------------------------------------------------------------ the run directory
    if folder is not None:
        processes.first(
            functools.partial(_prepare, folder, plan, resume=resume, overwrite=overwrite)
        )
    if folder is not None and plan.dataset.skipped:
        say(f"files that were left out: {folder}/{runs.SKIPPED}")
    if plan.backbone is not None:
        made_here = folder if not resume and jax.process_index() == 0 else None
        with runs.undone_if_refused(made_here):
            plan = heads.with_features(
                plan, trunk, kept, folder, devices=devices, on_images=on_images, say=say
            )

    # ------------------------------------------------------------ optimiser and state
    optimizer = optimiser.build(plan.recipe, plan.steps, plan.trunk_rates)
    state = initial_state(variables, optimizer, step_key, average=config.average > 0)
    state = sharding.everywhere(state, mesh)
    keeper = None
    if folder is not None:
        keeper = checkpoints.open_checkpoints(
            folder / runs.CHECKPOINTS, scored=len(plan.split.validation) > 0
        )
    step = (keeper.latest_step() or 0) if keeper is not None and resume else 0
    if keeper is not None and step:
        state = checkpoints.restore(keeper, step, state)
        say(f"resumed after step {step}")

    # ------------------------------------------------------------ the step, compiled
    pure_step = make_train_step(
        module,
        plan.method,
        optimizer,
        plan.spec.prepare,
        classes=len(plan.dataset.classes),
        steps=plan.steps,
        policy=plan.recipe.augment,
        options=plan.options,
        average=config.average,
        trunk_rates=plan.trunk_rates,
    )
    train_step = compiled(pure_step, mesh)
    say(
        f"{config.precision} on {mesh.size} x {mesh.devices.flat[0].device_kind}, "
        f"training images {'kept there' if is_resident(plan, mesh) else 'streamed'}"
    )

    # ------------------------------------------------------------ the loop
    with contextlib.ExitStack() as stack:
        if keeper is not None:
            stack.callback(keeper.close)
        log = stack.enter_context(_log(folder, config, step))
        trace = stack.enter_context(contextlib.closing(Trace(folder, profile_steps)))
        batches_of_run = stack.enter_context(contextlib.closing(batches(plan, mesh, step)))
        notice = stack.enter_context(Notice())
        if notice.reached(step) and step < plan.steps:
            raise _stopped(step, plan, folder)
        meter = Meter(plan, step)
        progress = Progress(step, plan.steps, step / plan.epoch_steps)
        recent: list[Metrics] = []
        due: tuple[int, list[Metrics]] | None = None
        for batch in batches_of_run:
            meter.before_call(waiting=bool(recent) and _is_ready(recent[-1]["loss"]))
            state, metrics = train_step(state, batch)
            meter.after_call()
            trace.follow(metrics)
            if due is not None:
                # Read only now, with the next call under way: the device has no gap.
                row = meter.summary(*due)
                log(row)
                progress, due = progress.after(row), None
            recent.append(metrics)
            if len(recent) > 2:
                jax.block_until_ready(recent[-3]["loss"])  # few batches wait for the device
            step += len(metrics["loss"])
            stop = notice.reached(step) and step < plan.steps
            validate = step % plan.eval_steps == 0 or step == plan.steps
            if validate or stop:
                # Before anything is saved: a checkpoint is never of a loss that is not finite.
                row = meter.summary(step, recent)
                rated = Model(plan.spec, variables_of(state))
                if validate and len(plan.split.validation):
                    row[SCORE] = validation_map(rated, plan.dataset, plan.split.validation)
                if validate and on_model is not None:
                    on_model(step, heads.whole(plan, trunk, rated))
                if keeper is not None:
                    checkpoints.save(keeper, step, state, score=row.get(SCORE))
                log(row)
                progress, recent = progress.after(row), []
                meter.restart(step)
            elif step % plan.log_steps == 0:
                due, recent = (step, recent), []
            progress = progress._replace(step=step, epoch=step / plan.epoch_steps)
            if on_step is not None:
                on_step(progress)
            if stop:
                raise _stopped(step, plan, folder)

        # -------------------------------------------------------- the best, for others
        if keeper is not None:
            keeper.wait_until_finished()
            best = checkpoints.best_step(keeper)
            if best is not None and best != step:
                state = checkpoints.restore(keeper, best, state)
    model = heads.whole(plan, trunk, Model(plan.spec, jax.device_get(variables_of(state))))
    if folder is not None:
        processes.first(functools.partial(models.save, model, folder))
        model = dataclasses.replace(model, run=folder.absolute())
    return model


def validation_map(model: Model, dataset: Dataset, rows: np.ndarray) -> float:
    """Tie-aware mean average precision of validation images among each other, by their codes.

    Each is left out of its own ranking. Of more than 2,000 the same 2,000 are taken every time.

    Example:
        >>> validation_map(model, dataset, split.validation)  # doctest: +SKIP
        0.93
    """
    assert dataset.labels is not None
    if len(rows) > VALIDATION_ITEMS:
        drawn = np.random.default_rng(0).choice(len(rows), VALIDATION_ITEMS, replace=False)
        rows = rows[np.sort(drawn)]
    codes = encode(model, dataset.items, rows=rows, keep=("codes",)).codes
    labels, own = dataset.labels[rows], np.arange(len(rows))
    average = ranking.average_precision(
        codes, codes, labels, labels, bits=model.spec.bits, exclude=own
    )
    return float(average.mean())


# ---------------------------------------------------------------- the parts of the loop


def _is_ready(array: Any) -> bool:
    return array.is_ready()


@contextlib.contextmanager
def _log(
    folder: Path | None, config: Config, step: int
) -> Iterator[Callable[[dict[str, float]], None]]:
    if folder is None or jax.process_index() != 0:
        yield lambda row: None
        return
    with MetricsLog(folder, after=step, tensorboard=config.tensorboard) as log:
        yield log.write


def _prepare(folder: Path, plan: Plan, *, resume: bool, overwrite: bool) -> None:
    if not resume:
        runs.create(folder, plan.config, plan=plan.numbers(), overwrite=overwrite)
        runs.write_skipped(folder, plan.dataset.skipped)
        return
    check_resumed(folder, plan)


def _what_all_share(plan: Plan, *, resume: bool, overwrite: bool) -> dict[str, object]:
    """What has to be the same in every process, by the name to show in an error."""
    shared = runs.to_json(plan.config)
    del shared["data"], shared["data_dir"], shared["weights"]  # each machine may keep its own copy
    rows = (plan.labels.tobytes(), plan.split.train.tobytes(), plan.split.validation.tobytes())
    return shared | {
        "resume": resume,
        "overwrite": overwrite,
        "number or size of the images": (len(plan.dataset), plan.dataset.items.shape[1:]),
        "labels or order of the training images": rows,
    }


def _stopped(step: int, plan: Plan, folder: Path | None) -> Stopped:
    kept = "nothing is kept" if folder is None else f"go on with resume=True, in {folder}"
    return Stopped(f"stopped by SIGTERM after step {step} of {plan.steps}; {kept}")
