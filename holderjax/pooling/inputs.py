"""What every aggregator does first: check arguments, and take absent experts out of the sums."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from holderjax.pooling.gaussian import DiagGaussian

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float


def check_experts(experts: DiagGaussian) -> None:
    """Raise ValueError unless ``mean`` and ``log_var`` are [M, ..., D] with M, D >= 1."""
    mean, log_var = experts.mean.shape, experts.log_var.shape
    if mean != log_var:
        raise ValueError(f"experts: mean has shape {mean} but log_var has shape {log_var}")
    if len(mean) < 2 or mean[0] < 1 or mean[-1] < 1:
        raise ValueError(f"experts: expected the shape [M, ..., D] with M, D >= 1, got {mean}")


def _per_expert(name: str, value: Any, batch: tuple[int, ...]) -> Array:
    """``value`` of shape [M] or [M, ...], broadcast to ``batch`` = [M, ...]."""
    value = jnp.asarray(value)
    trailing = (1,) * (len(batch) - 1) if value.ndim == 1 else ()
    shaped = value.reshape(value.shape + trailing)
    if value.ndim not in (1, len(batch)) or any(
        n not in (1, b) for n, b in zip(shaped.shape[1:], batch[1:], strict=True)
    ):
        raise ValueError(f"{name}: expected the shape {batch[:1]} or {batch}, got {value.shape}")
    if value.shape[0] != batch[0]:
        raise ValueError(
            f"{name}: expected one entry for each of {batch[0]} experts, "
            f"got the shape {value.shape}"
        )
    return jnp.broadcast_to(shaped, batch)


def _known(value: Array) -> np.ndarray | None:
    """The value as NumPy, or None while it is being traced."""
    return None if isinstance(value, jax.core.Tracer) else np.asarray(value)


def present_experts(
    experts: DiagGaussian, weights: Any = None, mask: Any = None
) -> tuple[DiagGaussian, Float[Array, "M ..."], Bool[Array, "M ..."]]:
    """Normalised log-weights of the experts that are present, and experts safe to compute with.

    Absent experts (masked, or of weight zero) get the log-weight -inf and become N(0, I), so that
    whatever they held (NaN as well) reaches neither values nor gradients. Where a traced mask
    leaves no expert at all, expert 0 stands for the prior N(0, I) with weight one.

    Args:
      experts: [M, ..., D].
      weights: [M] or [M, ...], non-negative, normalised here over the experts present.
      mask: [M] or [M, ...] bool, True where the expert is present.

    Returns:
      The experts [M, ..., D], log-weights [M, ...] and presence [M, ...].

    Raises:
      ValueError: for shapes that do not match; for weights that are negative, not finite or all
        zero, and for a mask with no expert, where their values are known.
    """
    check_experts(experts)
    batch = experts.mean.shape[:-1]
    dtype = experts.mean.dtype
    if weights is None and mask is None:
        log_weights = jnp.full(batch, -np.log(batch[0]), dtype)
        return experts, log_weights, jnp.ones(batch, bool)

    present = jnp.ones(batch, bool)
    if mask is not None:
        mask = jnp.asarray(mask)
        if mask.dtype != bool:
            raise ValueError(f"mask: expected booleans, got {mask.dtype}")
        present = _per_expert("mask", mask, batch)
        if (known := _known(mask)) is not None and not known.any(axis=0).all():
            raise ValueError(f"mask: no expert is present in {known.tolist()}")
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
        present = present & (raw > 0)

    # Nothing left: expert 0 becomes the prior. Only a traced mask or weights can bring us there.
    fallback = ~present.any(axis=0) & (jnp.arange(batch[0]) == 0).reshape(
        -1, *[1] * (len(batch) - 1)
    )
    safe = jax.tree.map(lambda x: jnp.where(present[..., None], x, 0.0), experts)
    raw = jnp.where(present, raw, 1.0)
    log_weights = jnp.where(present | fallback, jnp.log(raw), -jnp.inf)
    return safe, jax.nn.log_softmax(log_weights, axis=0), present | fallback
