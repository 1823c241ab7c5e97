"""The training step, written for one device of a named axis, and the held-out loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from holderjax.data import to_float
from holderjax.models import Model

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

    Examples = dict[str, Shaped[Array, "N *shape"]]
    Metrics = dict[str, Any]

AXIS = "data"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """What a checkpoint holds, and what the next step needs, a pytree.

    Attributes:
      params: of the model.
      opt_state: of the optimiser.
      step: how many steps made it, int32 [].
    """

    params: Any
    opt_state: Any
    step: Int[Array, ""]


@dataclass(frozen=True)
class RunKeys:
    """The independent streams of randomness of one seed."""

    init: PRNGKeyArray
    steps: PRNGKeyArray
    held_out: PRNGKeyArray
    clusters: PRNGKeyArray

    @classmethod
    def of(cls, seed: int) -> RunKeys:
        key = jax.random.key(seed)
        return cls(*jax.random.split(key, 3), jax.random.fold_in(key, 3))


def init_state(
    model: Model, optimizer: optax.GradientTransformation, key: PRNGKeyArray
) -> TrainState:
    """Fresh parameters and optimiser state, at step 0."""
    params = model.init(key)
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))


def make_steps(
    model: Model,
    optimizer: optax.GradientTransformation,
    beta_warmup: int = 0,
    hold_weights: int = 0,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The steps of one dispatch, as seen by one device of the axis `AXIS`.

    Args:
      model: whose loss is minimised.
      optimizer: its gradient transformation.
      beta_warmup: steps over which the weight of the KL terms grows linearly to beta.
      hold_weights: first steps, whose gradient takes the components' weights pi as constant.

    Returns:
      ``steps(state, examples, indices, key, beta) -> (state, metrics)``: ``examples`` are the
      whole training split, images as uint8, ``indices`` [S, B / devices] this device's share of
      each batch, ``key`` the run's. Metrics are those of every step, [S, ...], averaged over the
      devices. Pure: a sweep may `jax.vmap` it over states, keys and betas.
    """

    def one_step(
        state: TrainState,
        examples: Examples,
        index: Int[Array, " B"],
        key: PRNGKeyArray,
        beta: Float[Array, ""],
    ) -> tuple[TrainState, Metrics]:
        keys = local_keys(jax.random.fold_in(key, state.step), index.shape[0])
        batch = gather(examples, index)
        if beta_warmup:
            beta = beta * jnp.minimum(1.0, (state.step + 1) / beta_warmup)
        weight_gradient = jnp.float32(state.step >= hold_weights)
        value_and_grad = jax.value_and_grad(model.loss, has_aux=True)
        (loss, aux), gradient = value_and_grad(state.params, batch, keys, beta, weight_gradient)
        gradient, loss, aux = jax.lax.pmean((gradient, loss, aux), AXIS)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss, **aux, "gradient_norm": optax.tree.norm(gradient)}
        return TrainState(params, opt_state, state.step + 1), metrics

    def steps(
        state: TrainState,
        examples: Examples,
        indices: Int[Array, "S B"],
        key: PRNGKeyArray,
        beta: Float[Array, ""],
    ) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(
            lambda state, index: one_step(state, examples, index, key, beta), state, indices
        )

    return steps


def local_keys(key: PRNGKeyArray, local_batch: int) -> PRNGKeyArray:
    """One key per example of this device's share, [B / devices].

    The keys of the whole batch are split first and then shared out, so that an example draws the
    same latents however many devices there are.
    """
    keys = jax.random.split(key, local_batch * jax.lax.axis_size(AXIS))
    return jax.lax.dynamic_slice_in_dim(keys, jax.lax.axis_index(AXIS) * local_batch, local_batch)


def gather(examples: Examples, index: Int[Array, " B"]) -> dict[str, Float[Array, "B *shape"]]:
    """The indexed examples, images as floats in [0, 1]; with their mask where there is one."""
    return to_float({name: array[index] for name, array in examples.items()})


def make_held_out_loss(
    model: Model, num_examples: int, batch_size: int
) -> Callable[..., Float[Array, ""]]:
    """The mean loss over a split, in equal batches no larger than ``batch_size``.

    Equal batches keep it one compiled loop; they leave out fewer examples than there are batches,
    the same ones every time.

    Args:
      model: whose loss it is.
      num_examples: N, in the split.
      batch_size: the largest batch.

    Returns:
      ``held_out(params, examples, key, beta) -> loss`` in nats.
    """
    num_batches = math.ceil(num_examples / batch_size)
    size = num_examples // num_batches

    @jax.jit
    def held_out(
        params: Any, examples: Examples, key: PRNGKeyArray, beta: Float[Array, ""]
    ) -> Float[Array, ""]:
        def batch_loss(i: Int[Array, ""]) -> Float[Array, ""]:
            keys = jax.random.split(jax.random.fold_in(key, i), size)
            return model.loss(params, gather(examples, i * size + jnp.arange(size)), keys, beta)[0]

        return jax.lax.map(batch_loss, jnp.arange(num_batches)).mean()

    return held_out
