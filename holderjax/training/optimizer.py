"""The optimiser of a run, composed of Optax transformations."""

from __future__ import annotations

import optax

from holderjax.training.config import TrainConfig


def make_schedule(config: TrainConfig) -> optax.Schedule:
    r"""The learning rate of step t = 0, 1, ...

    .. math:: \eta_t = \eta \cdot \min\{1, (t + 1) / W\} \cdot d_t

    with W the warm-up and :math:`d_t = 1`, or for cosine decay (Loshchilov & Hutter 2017)
    :math:`d_t = \frac12 (1 + \cos \pi \frac{t - W}{T - W})` once t >= W, with T steps in all.
    """
    rate = config.learning_rate
    if config.decay == "cosine":
        after = optax.cosine_decay_schedule(rate, config.steps - config.warmup)
    else:
        after = optax.constant_schedule(rate)
    if not config.warmup:
        return after
    # From rate / W, not from zero: the first step should not be spent on an update of nothing.
    rise = optax.linear_schedule(rate / config.warmup, rate, config.warmup - 1)
    return optax.join_schedules([rise, after], [config.warmup])


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Adam or AMSGrad at the scheduled rate, after clipping by the global norm if asked."""
    adam = optax.amsgrad if config.amsgrad else optax.adam
    update = adam(make_schedule(config))
    if config.clip is None:
        return update
    return optax.chain(optax.clip_by_global_norm(config.clip), update)
