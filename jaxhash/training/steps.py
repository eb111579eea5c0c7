"""The start of training and one step of it, as pure functions."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxhash import nets
from jaxhash.method import Method
from jaxhash.nets import HashNetwork
from jaxhash.training import augment
from jaxhash.training.feeding import Batch
from jaxhash.training.optimiser import with_frozen

Metrics = dict[str, jax.Array]


class TrainState(NamedTuple):
    """All that changes during training, and all that a checkpoint has to keep.

    step: int32 scalar, steps done. key: uint32, the data of the key that everything random in a
    step follows from, with the step's number; here, and not a constant of the compiled step, so
    that runs of other seeds need not compile it again. average: running mean of params and
    batch_stats, or None.
    """

    step: jax.Array
    key: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Any


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
Prepare = Callable[[jax.Array], jax.Array]


def initial_variables(
    module: HashNetwork, key: jax.Array, item_shape: Sequence[int]
) -> dict[str, Any]:
    """The variables that `nets.init` draws, by one compiled program.

    item_shape: of one item. Returns {"params": ...} and, where the network has them,
    "batch_stats".

    Example:
        >>> variables = initial_variables(module, jax.random.key(0), (32, 32, 3))  # doctest: +SKIP
    """
    # It runs once, and LLVM's first level, which gives the same values, compiles it in a third of
    # the time.
    level = "xla_backend_optimization_level"
    asked = jax.default_backend() == "cpu" and level not in os.environ.get("XLA_FLAGS", "")
    quick = {level: 1} if asked else None
    begin = functools.partial(nets.init, module, items_shape=(1, *item_shape))
    return jax.jit(begin, compiler_options=quick)(key)


def initial_state(
    variables: Mapping[str, Any],
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    *,
    average: bool = False,
) -> TrainState:
    """The state before the first step.

    Example:
        >>> variables = {"params": {"w": jnp.ones(2)}}
        >>> state = initial_state(variables, optax.sgd(0.1), jax.random.key(0))
        >>> int(state.step)
        0
    """
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(
        step=jnp.int32(0),
        key=jax.random.key_data(key),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        # A copy: the state's own buffers are donated at each step.
        average=jax.tree.map(jnp.copy, (params, batch_stats)) if average else None,
    )


def variables_of(state: TrainState) -> dict[str, Any]:
    """What to validate and export: the averaged variables where there are any, else the last."""
    params, batch_stats = state.average or (state.params, state.batch_stats)
    return {"params": params} | ({"batch_stats": batch_stats} if batch_stats else {})


def make_train_step(
    module: HashNetwork,
    method: Method,
    optimizer: optax.GradientTransformation,
    prepare: Prepare,
    *,
    classes: int,
    steps: int,
    policy: str = "none",
    options: Mapping[str, Any] | None = None,
    average: float = 0.0,
    trunk_rates: Mapping[str, float] | None = None,
) -> TrainStep:
    """The pure function (state, batch) -> (state, metrics) of a run of so many `steps`.

    prepare: the batch's items -> what the network reads. policy: the augmentation. options: of the
    loss. average: decay of the running mean of the weights. trunk_rates: of the trunk's layers,
    where some of them are frozen, see `optimiser.rates`.

    metrics: float32 scalars: "loss", its terms, "gradient_norm" and, where there is a classifier
    and one class an item, "accuracy" on the augmented batch.

    Example:
        >>> step = make_train_step(module, METHODS["dsh"], optax.sgd(0.1), prepare,
        ...     classes=10, steps=100)  # doctest: +SKIP
        >>> state, metrics = jax.jit(step, donate_argnums=0)(state, batch)  # doctest: +SKIP
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        augment_key, dropout_key = jax.random.split(key)
        items = augment.augment(augment_key, prepare(batch.items), policy)

        def loss_of(params: Any) -> Any:
            params = with_frozen(params, trunk_rates)
            variables = {"params": params, "batch_stats": state.batch_stats}
            outputs, batch_stats = nets.apply(module, variables, items, train=True, key=dropout_key)
            loss, terms = method.loss(
                outputs,
                batch.labels,
                nets.classifier_kernel(params),
                classes=classes,
                progress=state.step / steps,
                **(options or {}),
            )
            return loss, (terms, outputs.logits, batch_stats)

        (loss, (terms, logits, batch_stats)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            state.params
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss, "gradient_norm": optax.tree.norm(gradients)}
        metrics |= {f"loss_{name}": term for name, term in terms.items() if len(terms) > 1}
        if logits is not None and batch.labels.ndim == 1:
            metrics["accuracy"] = jnp.mean(logits.argmax(axis=1) == batch.labels)
        new = TrainState(
            step=state.step + 1,
            key=state.key,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            average=_averaged(state, (params, batch_stats), average),
        )
        return new, jax.tree.map(lambda value: value.astype(jnp.float32), metrics)

    return train_step


def _averaged(state: TrainState, new: Any, decay: float) -> Any:
    if state.average is None:
        return None
    # Short memory at first, so that the random start is forgotten within a few steps.
    keep = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
    return jax.tree.map(lambda old, one: keep * old + (1 - keep) * one, state.average, new)
