"""Diagonal Gaussians, and the power means that Hölder pooling is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from math import gcd, log, pi
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PRNGKeyArray

# Numbers in a row that a CPU adds up at once, and that short rows are put together to.
BLOCK = 64
# Terms up to which the largest is found one by one, in a loop with what comes before and after: a
# CPU's reduction is a call of its own.
FEW_TERMS = 8


class LocationScale(ABC):
    """What densities of independent coordinates with a mean and a scale share."""

    mean: Float[Array, "... D"]

    @staticmethod
    @abstractmethod
    def draw_noise(
        key: PRNGKeyArray, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32
    ) -> Array:
        """What `from_noise` takes: draws of location 0 and scale 1."""

    @abstractmethod
    def from_noise(self, noise: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Reparameterised draws."""

    def sample(self, key: PRNGKeyArray, shape: tuple[int, ...] = ()) -> Float[Array, "... D"]:
        """Reparameterised draws, [*shape, ..., D]."""
        return self.from_noise(self.draw_noise(key, (*shape, *self.mean.shape), self.mean.dtype))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DiagGaussian(LocationScale):
    """A batch of Gaussians N(mean, diag exp(log_var)), a pytree.

    Attributes:
      mean: means, [..., D].
      log_var: logarithms of the variances, [..., D].
    """

    mean: Float[Array, "... D"]
    log_var: Float[Array, "... D"]

    @property
    def variance(self) -> Float[Array, "... D"]:
        return jnp.exp(self.log_var)

    def log_prob(self, z: Float[Array, "... D"]) -> Float[Array, "..."]:
        """log N(z; mean, variance), summed over D; ``z`` broadcasts against the batch axes."""
        check_broadcast(jnp.shape(z), self.mean.shape)
        scaled = jnp.square(z - self.mean) * jnp.exp(-self.log_var)
        return -0.5 * (sum_over_dims(scaled + self.log_var) + self.mean.shape[-1] * log(2 * pi))

    @staticmethod
    def draw_noise(
        key: PRNGKeyArray, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32
    ) -> Array:
        """What `from_noise` takes: draws from N(0, 1)."""
        return jax.random.normal(key, shape, dtype)

    def from_noise(self, noise: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Reparameterised draws."""
        return self.mean + jnp.exp(0.5 * self.log_var) * noise

    def kl(self, other: DiagGaussian) -> Float[Array, "..."]:
        """KL(self || other) in nats, closed form, summed over D."""
        check_broadcast(self.mean.shape, other.mean.shape)
        difference = jnp.square(self.mean - other.mean) * jnp.exp(-other.log_var)
        log_ratio = self.log_var - other.log_var
        return 0.5 * sum_over_dims(jnp.exp(log_ratio) - log_ratio - 1.0 + difference)


@jax.custom_jvp
def sum_over_dims(x: Float[Array, "... D"]) -> Float[Array, "..."]:
    """The sum over the last axis of terms none of which is minus infinity: that makes NaN on a CPU.

    There, a sum of at most 32 terms may be infinite from 4e34 on (float32). It is a product with
    ones: XLA adds up a row one number after another, and computes what it adds in the same loop,
    neither with vector instructions.
    """
    return jax.lax.platform_dependent(x, cpu=_sum_of_blocks, default=lambda x: x.sum(axis=-1))


@sum_over_dims.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return sum_over_dims(*primals), _linear_sum(*tangents)


def _linear_sum(x: Float[Array, "... D"]) -> Float[Array, "..."]:
    """`sum_over_dims` of any terms, which a gradient passes through backwards."""
    return jax.lax.platform_dependent(x, cpu=_product_with_ones, default=lambda x: x.sum(axis=-1))


def _product_with_ones(x: Float[Array, "... D"]) -> Float[Array, "..."]:
    return _product(x, np.ones(x.shape[-1], x.dtype))


def _product(a: Array | np.ndarray, b: Array | np.ndarray) -> Array:
    # At the full precision of the type, whatever products of networks are set to.
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _sum_of_blocks(x: Float[Array, "... D"]) -> Float[Array, "..."]:
    """Short rows several at a time, by a matrix with ones where a row is and zeros elsewhere.

    What becomes of them is computed in the same shape: of a loop over so few coordinates, LLVM
    would take eight rows at once, from eight places in memory.
    """
    dim = x.shape[-1]
    rows = gcd(x.size // dim, BLOCK // dim) if 0 < dim <= BLOCK else 1
    if rows == 1:
        return _product_with_ones(x)
    # Zero times infinity would reach the other rows of a block, so that a large number stands for
    # infinity, 4e34 in float32, and one further down for no number. No row adds up to another's.
    infinity = float(jnp.finfo(x.dtype).max) / (2 * BLOCK**2)
    nan = -BLOCK * infinity
    x = jnp.where(x > -infinity, jnp.minimum(x, infinity), nan)
    matrix = np.kron(np.eye(rows, dtype=x.dtype), np.ones((dim, 1), x.dtype))
    total = _product(x.reshape(-1, rows * dim), matrix).reshape(x.shape[:-1])
    finite = jnp.abs(total) < infinity
    return jnp.where(finite, total, jnp.where(total > 0.0, jnp.inf, jnp.nan))


def log_sum_exp(
    x: Float[Array, "K ..."], largest: Array | float | None = None
) -> Float[Array, "..."]:
    """`jax.nn.logsumexp` over the first axis.

    On a CPU the sum is a product with ones here too: inside a sum, exponentials are not computed
    with vector instructions.

    Args:
      x: K terms, [K, ...].
      largest: what the largest of them is known to be near to; found if None.

    Returns:
      [...].
    """
    if largest is None:
        largest = reduce(jnp.maximum, x) if len(x) <= FEW_TERMS else x.max(axis=0)
        largest = jnp.where(jnp.isfinite(largest), jax.lax.stop_gradient(largest), 0.0)
    each = jnp.exp(x - largest)
    total = jax.lax.platform_dependent(each, cpu=_product_of_ones, default=lambda x: x.sum(axis=0))
    return jnp.log(total) + largest


def _product_of_ones(x: Float[Array, "K ..."]) -> Float[Array, "..."]:
    return _product(np.ones(len(x), x.dtype), x.reshape(len(x), -1)).reshape(x.shape[1:])


def check_broadcast(*shapes: tuple[int, ...]) -> None:
    """Raise ValueError unless the shapes [..., D] broadcast; D itself never does."""
    if len({shape[-1:] for shape in shapes}) > 1:
        raise ValueError(f"expected shapes [..., D] with one D, got {', '.join(map(str, shapes))}")
    jnp.broadcast_shapes(*shapes)


def standard_normal(
    shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32
) -> DiagGaussian:
    """N(0, I) with ``mean`` and ``log_var`` of the given shape."""
    return DiagGaussian(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def normalized_geometric_mean(
    factors: Sequence[DiagGaussian],
) -> tuple[DiagGaussian, Float[Array, "..."]]:
    r"""The Gaussian proportional to :math:`\prod_p q_p^{1/n}`, and the log of the integral.

    With precisions :math:`1/v_p` and :math:`P = \frac1n \sum_p 1/v_p`:

    .. math::
      v = 1/P, \qquad m = \sum_p \frac{\mu_p}{n v_p P}, \qquad
      \log \int \prod_p q_p^{1/n} = -\frac12 \sum_d \Big[
        \log \tfrac1n \sum_p e^{\bar\ell - \log v_p}
        + \frac{1}{n^2} \sum_{p<r} \frac{(\mu_p - \mu_r)^2}{v_p v_r P} \Big]

    where :math:`\bar\ell` is the mean of the :math:`\log v_p`. This is the multinomial term of the
    exact pool of order n (Hölder++, section 3.1, stops at n = 2), written in differences between
    means and between log-variances: nothing cancels in float32, and two equal factors give exactly
    that factor back with a log-integral of zero (three or more, to the last rounding).

    Args:
      factors: n Gaussians [..., D] whose batch axes broadcast; one may occur several times.

    Returns:
      The normalised geometric mean, [..., D], and the log-integral, [...], never above zero.
    """
    check_broadcast(*(f.mean.shape for f in factors))
    first, n = factors[0], len(factors)
    log_var = first.log_var + sum(f.log_var - first.log_var for f in factors) / n
    # log(P e^mean-log-var), at least zero by Jensen's inequality; rounding must not undo that.
    log_gain = reduce(jnp.logaddexp, [log_var - f.log_var for f in factors]) - log(n)
    log_precision = log_gain - log_var
    mean = (
        first.mean
        + sum((f.mean - first.mean) * jnp.exp(-f.log_var - log_precision) for f in factors[1:]) / n
    )
    distance = (
        sum(
            jnp.square(factors[p].mean - factors[r].mean)
            * jnp.exp(-factors[p].log_var - factors[r].log_var - log_precision)
            for p in range(n)
            for r in range(p)
        )
        / n**2
    )
    log_mass = -0.5 * sum_over_dims(jnp.maximum(log_gain, 0.0) + distance)
    return DiagGaussian(mean, -log_precision), log_mass


def geometric_mean(p: DiagGaussian, q: DiagGaussian) -> DiagGaussian:
    r"""The normalised geometric mean, proportional to :math:`\sqrt{p q}`.

    Its mean is :math:`(\mu_p v_q + \mu_q v_p)/(v_p + v_q)` and its variance
    :math:`2 v_p v_q/(v_p + v_q)` (Hölder++, section 3.1).

    Args:
      p: Gaussians [..., D].
      q: Gaussians [..., D].

    Returns:
      Gaussians [..., D].
    """
    return normalized_geometric_mean((p, q))[0]


def log_bhattacharyya(p: DiagGaussian, q: DiagGaussian) -> Float[Array, "..."]:
    r"""The logarithm of the Bhattacharyya coefficient :math:`S = \int \sqrt{p q}`.

    .. math::
      \log S = \sum_d \tfrac12 \Big[\log 2 + \tfrac12(\log v_p + \log v_q) - \log(v_p + v_q)\Big]
        - \frac{(\mu_p - \mu_q)^2}{4 (v_p + v_q)}

    (Hölder++, section 3.1.)

    Args:
      p: Gaussians [..., D].
      q: Gaussians [..., D].

    Returns:
      log S, [...], at most zero, and zero where p = q.
    """
    return log_overlap(p, q, _num_parts(p.mean.shape[-1]))


def log_overlap(p: DiagGaussian, q: DiagGaussian, num_parts: int = 1) -> Float[Array, "..."]:
    """`log_bhattacharyya` with one logarithm for ``num_parts`` coordinates, a divisor of D.

    More than one is faster, except inside a loop: there XLA finds no vector instructions for it.
    """
    check_broadcast(p.mean.shape, q.mean.shape)
    return _log_overlap(num_parts, p.mean, p.log_var, q.mean, q.log_var)


def _num_parts(dim: int) -> int:
    """Eight at most, as the product of so many is far from underflow; each of eight or more."""
    return next(n for n in (8, 4, 2, 1) if n == 1 or (dim % n == 0 and dim >= 8 * n))


def quick_log_overlap(
    mean_p: Float[Array, "... D"],
    variance_p: Float[Array, "... D"],
    mean_q: Float[Array, "... D"],
    variance_q: Float[Array, "... D"],
) -> Float[Array, "..."]:
    r"""`log_bhattacharyya` of Gaussians whose variances are known, for sums of S, not for log S.

    .. math::
      \log S = \tfrac14 \sum_d \Big[\log \frac{4 v_p v_q}{(v_p + v_q)^2}
        - \frac{(\mu_p - \mu_q)^2}{v_p + v_q}\Big]

    (Hölder++, section 3.1, with the variances under one logarithm.) Without an exponential it takes
    .4 to .8 of the time. But the quotient may underflow where S is below 5e-10 (float32), and
    variances whose inverses are no normal numbers count as the last that are: log-variances within
    85 are unharmed.

    Args:
      mean_p: means, [..., D]; all four broadcast but for D.
      variance_p: their variances, [..., D].
      mean_q: means, [..., D].
      variance_q: their variances, [..., D].

    Returns:
      log S, [...], at most zero; -inf where S underflows.
    """
    num_parts = _num_parts(mean_p.shape[-1])
    end = 0.25 / float(jnp.finfo(variance_p.dtype).tiny)  # twice it has a normal inverse
    total: Any = 0.0
    product: Any = 1.0
    for m_p, v_p, m_q, v_q in _in_parts(num_parts, mean_p, variance_p, mean_q, variance_q):
        # Not once for each expert: of a loop over 16 or 32 coordinates, constants treble the time.
        v_p, v_q = (jnp.clip(v, 1 / end, end) for v in (v_p, v_q))
        precision = 1.0 / (v_p + v_q)
        total += jnp.square(m_p - m_q) * precision
        product *= 4.0 * (v_p * precision) * (v_q * precision)
    return jnp.minimum(0.25 * _linear_sum(jnp.log(product) - total), 0.0)


def _in_parts(num_parts: int, *arrays: Array) -> Iterator[tuple[Array, ...]]:
    return zip(*(jnp.split(x, num_parts, axis=-1) for x in arrays), strict=True)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _log_overlap(
    num_parts: int,
    mean_p: Float[Array, "... D"],
    log_var_p: Float[Array, "... D"],
    mean_q: Float[Array, "... D"],
    log_var_q: Float[Array, "... D"],
) -> Float[Array, "..."]:
    r"""`log_overlap`, of arrays that broadcast.

    With :math:`h = |\log v_p - \log v_q|` the bracket is :math:`-\log\cosh(h/2)`, which is
    :math:`-h/2 - \log\frac12(1 + e^{-h})`: exact for equal Gaussians, and all in one pass. A pool
    takes it of every pair of its experts, so it is not left to `normalized_geometric_mean`, and
    logarithms are taken of products.
    """
    total: Any = 0.0
    product: Any = 1.0
    for m_p, l_p, m_q, l_q in _in_parts(num_parts, mean_p, log_var_p, mean_q, log_var_q):
        h = jnp.abs(l_p - l_q)
        cosh = 0.5 + 0.5 * jnp.exp(-h)  # times exp(-h/2)
        precision = jnp.exp(-jnp.maximum(l_p, l_q)) / cosh
        total += 0.5 * h + 0.25 * jnp.square(m_p - m_q) * precision
        product *= cosh
    return -0.5 * _linear_sum(total + jnp.log(product))


@_log_overlap.defjvp
def _(
    num_parts: int, primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> tuple[Array, Array]:
    # Autodiff would keep every step of the above for each pair: this needs the arguments alone.
    mean_p, log_var_p, mean_q, log_var_q = primals
    d_mean_p, d_log_var_p, d_mean_q, d_log_var_q = tangents
    sum_over_largest = 1.0 + jnp.exp(-jnp.abs(log_var_p - log_var_q))
    precision = 2.0 * jnp.exp(-jnp.maximum(log_var_p, log_var_q)) / sum_over_largest
    difference = mean_p - mean_q
    tanh = jnp.tanh(0.5 * (log_var_p - log_var_q))
    half_distance = 0.0625 * jnp.square(difference) * precision
    odd = (half_distance - 0.25) * tanh
    tangent = (
        -0.25 * difference * precision * (d_mean_p - d_mean_q)
        + (half_distance + odd) * d_log_var_p
        + (half_distance - odd) * d_log_var_q
    )
    return _log_overlap(num_parts, *primals), _linear_sum(tangent)
