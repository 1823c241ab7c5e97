"""What every aggregator does first: check arguments, and take absent experts out of the sums."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from holderjax.pooling.gaussian import DiagGaussian

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float


def checked_experts(experts: DiagGaussian) -> DiagGaussian:
    """The experts in float32 or wider; ValueError unless they are [M, ..., D] with M, D >= 1."""
    mean, log_var = jnp.shape(experts.mean), jnp.shape(experts.log_var)
    if mean != log_var:
        raise ValueError(f"experts: mean has shape {mean} but log_var has shape {log_var}")
    if len(mean) < 2 or mean[0] < 1 or mean[-1] < 1:
        raise ValueError(f"experts: expected the shape [M, ..., D] with M, D >= 1, got {mean}")
    dtype = jnp.result_type(experts.mean, experts.log_var, jnp.float32)
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), experts)


def checked_mask(mask: Any, batch: tuple[int, ...]) -> Bool[Array, "M ..."]:
    """The mask broadcast to ``batch`` = [M, ...]; ValueError unless it is boolean and fits."""
    mask = jnp.asarray(mask)
    if mask.dtype != bool:
        raise ValueError(f"mask: expected booleans, got {mask.dtype}")
    return _per_expert("mask", mask, batch)


def _per_expert(name: str, value: Array, batch: tuple[int, ...]) -> Array:
    """``value`` of shape [M] or [M, ...], broadcast to ``batch`` = [M, ...]."""
    shape = value.shape + (1,) * (len(batch) - 1) if value.ndim == 1 else value.shape
    fits = len(shape) == len(batch) and all(
        n in (1, b) for n, b in zip(shape[1:], batch[1:], strict=True)
    )
    if not fits or shape[0] != batch[0]:
        expected = " or ".join(map(str, dict.fromkeys((batch[:1], batch))))
        raise ValueError(f"{name}: expected the shape {expected}, got {value.shape}")
    return jnp.broadcast_to(value.reshape(shape), batch)


def _known(value: Array) -> np.ndarray | None:
    """The value as NumPy, or None while it is being traced."""
    return None if isinstance(value, jax.core.Tracer) else np.asarray(value)


def present_experts(
    experts: DiagGaussian, weights: Any = None, mask: Any = None
) -> tuple[DiagGaussian, Float[Array, "M ..."], Bool[Array, "M ..."]]:
    """Normalised log-weights of the experts that are present, and experts safe to compute with.

    Absent experts (masked, or of weight zero) get the log-weight -inf and become N(0, I), so that
    whatever they held (NaN as well) reaches neither values nor gradients. Where a traced mask
    leaves no expert at all, expert 0 stands for the prior N(0, I) with weight one. Traced weights
    cannot be refused: negative ones come out as NaN.

    Args:
      experts: [M, ..., D].
      weights: [M] or [M, ...], non-negative, normalised here over the experts present.
      mask: [M] or [M, ...] bool, True where the expert is present.

    Returns:
      The experts [M, ..., D] in float32 or wider, log-weights [M, ...] and presence [M, ...].

    Raises:
      ValueError: for shapes that do not match; for weights that are negative, not finite or all
        zero, and for a mask with no expert, where their values are known.
    """
    experts = checked_experts(experts)
    batch = experts.mean.shape[:-1]
    dtype = experts.mean.dtype
    if weights is None and mask is None:
        log_weights = jnp.full(batch, -np.log(batch[0]), dtype)
        return experts, log_weights, jnp.ones(batch, bool)

    present = jnp.ones(batch, bool)
    if mask is not None:
        present = checked_mask(mask, batch)
        if (known := _known(present)) is not None and not known.any(axis=0).all():
            raise ValueError(f"mask: no expert is present in {np.asarray(mask).tolist()}")
    raw = jnp.ones(batch, dtype)
    if weights is not None:
        raw = _per_expert("weights", jnp.asarray(weights, dtype), batch)
        if (known := _known(raw)) is not None:
            values = np.asarray(weights).tolist()
            if not np.isfinite(known).all() or (known < 0).any():
                raise ValueError(f"weights: expected finite, non-negative numbers, got {values}")
            there = _known(present)
            if there is not None and not (there & (known > 0)).any(axis=0).all():
                raise ValueError(f"weights: no present expert has a positive weight in {values}")
        present = present & (raw != 0)

    # Nothing left: expert 0 becomes the prior. Only a traced mask or weights can bring us there.
    fallback = ~present.any(axis=0) & (jnp.arange(batch[0]) == 0).reshape(
        -1, *[1] * (len(batch) - 1)
    )
    safe = jax.tree.map(lambda x: jnp.where(present[..., None], x, 0.0), experts)
    raw = jnp.where(present, raw, 1.0)
    log_weights = jnp.where(present | fallback, jnp.log(raw), -jnp.inf)
    return safe, jax.nn.log_softmax(log_weights, axis=0), present | fallback
