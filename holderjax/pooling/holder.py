r"""Exact Hölder pooling of diagonal Gaussians (Hölder++, section 3.1).

.. math:: q(z) = c \Big( \sum_j w_j\, q_j(z)^{\alpha} \Big)^{1/\alpha}, \qquad \alpha = 1/n

The multinomial theorem turns the power into a Gaussian mixture with one component per multiset of
n experts. Order n = 2 is the paper's symmetric pool: unimodal experts and pairwise geometric means,
weighted by Bhattacharyya coefficients. Order 1 is the mixture of experts. Higher orders are ours;
as n grows the pool approaches the normalised product of :math:`q_j^{w_j}`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import combinations_with_replacement
from math import factorial, log, prod
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from holderjax.pooling.gaussian import (
    DiagGaussian,
    log_bhattacharyya,
    log_overlap,
    log_sum_exp,
    normalized_geometric_mean,
    quick_log_overlap,
)
from holderjax.pooling.inputs import present_experts
from holderjax.pooling.mixture import PooledPosterior, draw_components, gather

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, PRNGKeyArray

# Experts up to which overlaps are written out expert by expert; of more, in blocks that are larger
# and few, so that M = 64 compiles in a second.
MOST_ROWS = 8
# Experts up to which a table of all overlaps is made; of more, memory has to stay linear in M.
MOST_IN_TABLE = 64
# Experts up to which densities are computed one by one: the gradient to the points takes half the
# time then, as it is a sum over the experts.
MOST_DENSITIES = 4


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HolderPosterior(PooledPosterior):
    """A pool that remembers its experts: `log_prob` costs O(M D) per point, not O(K D).

    Attributes:
      experts: Gaussians [M, ..., D]; what is absent is N(0, I).
      log_expert_weights: log w, normalised over the experts present, [M, ...].
      log_normalizer: log c, [...].
      order: n.
    """

    experts: DiagGaussian
    log_expert_weights: Float[Array, "M ..."]
    log_normalizer: Float[Array, "..."]
    order: int = field(metadata={"static": True})

    def log_prob(self, z: Float[Array, "... D"]) -> Float[Array, "..."]:
        """log q(z) as in `holder_log_prob`."""
        return self.log_normalizer + _log_power(
            self.experts, self.log_expert_weights, self.order, z
        )

    def choose(self, index: Int[Array, "..."]) -> DiagGaussian:
        """As for any mixture, but made of the experts: the gradient reaches no other component."""
        multisets = jnp.asarray(_multisets(self.experts.mean.shape[0], self.order)[0])
        return _geometric_means(self.experts, multisets[index])


def holder_pool(
    experts: DiagGaussian, *, order: int = 2, weights: Any = None, mask: Any = None
) -> HolderPosterior:
    r"""The exact pool as a mixture with every component built.

    For the multiset :math:`k` with :math:`k_j` copies of expert j the component is the geometric
    mean :math:`\propto \prod_j q_j^{k_j/n}` and its weight is proportional to

    .. math::
      C_k = \frac{n!}{\prod_j k_j!} \prod_j w_j^{k_j} \int \prod_j q_j^{k_j/n}

    At order 2 that is :math:`\pi_j \propto w_j^2` and :math:`\pi_{ij} \propto 2 w_i w_j S_{ij}`.

    Args:
      experts: Gaussians [M, ..., D].
      order: n >= 1, with alpha = 1/n.
      weights: [M] or [M, ...], non-negative; uniform if None.
      mask: [M] or [M, ...] bool, True where the expert is present. Absent experts leave the sums.

    Returns:
      K = C(M + n - 1, n) components: first the M unimodal ones, then those of two distinct
      experts, and so on, each group in lexicographic order: (0, 1), (0, 2), ... for order 2.

    Raises:
      ValueError: as `present_experts`, and for ``order`` below 1.
    """
    order = _check_order(order)
    experts, log_weights, _ = present_experts(experts, weights, mask)
    index, _ = _multisets(experts.mean.shape[0], order)
    components, log_integrals = normalized_geometric_mean(_factors(experts, index))
    # Of pairs the integrals are cheaper alone, above all where nobody asks for the components.
    log_mass = (
        _log_masses(experts, log_weights, order)
        if order == 2
        else _weighted(log_integrals, log_weights, order)
    )
    log_normalizer = -_log_sum(log_mass, order)
    members = np.stack([(index == j).any(axis=1) for j in range(experts.mean.shape[0])], axis=1)
    return HolderPosterior(
        components,
        log_mass + log_normalizer,
        jnp.asarray(members),
        experts,
        log_weights,
        log_normalizer,
        order,
    )


def holder_log_normalizer(
    experts: DiagGaussian, *, order: int = 2, weights: Any = None, mask: Any = None
) -> Float[Array, "..."]:
    r"""log c, where :math:`c = 1 / \sum_k C_k` and the weights sum to one.

    Memory is O(M D) per batch entry, beside the K scalars :math:`C_k` of up to 64 experts or an
    order above two.

    Args:
      experts: Gaussians [M, ..., D].
      order: n >= 1, with alpha = 1/n.
      weights: as in `holder_pool`.
      mask: as in `holder_pool`.

    Returns:
      log c, [...], at least zero.
    """
    order = _check_order(order)
    experts, log_weights, _ = present_experts(experts, weights, mask)
    return -_log_total(experts, log_weights, order)


def holder_log_prob(
    experts: DiagGaussian,
    z: Float[Array, "... D"],
    *,
    order: int = 2,
    weights: Any = None,
    mask: Any = None,
) -> Float[Array, "..."]:
    r"""log q(z) at O(M D) per point: no component is built.

    .. math:: \log q(z) = \log c + n \log \sum_j \exp( \log w_j + \tfrac1n \log q_j(z) )

    Args:
      experts: Gaussians [M, ..., D].
      z: points [..., D]; leading axes beyond the experts' batch are samples.
      order: n >= 1, with alpha = 1/n.
      weights: as in `holder_pool`.
      mask: as in `holder_pool`.

    Returns:
      Log-densities, the broadcast of ``z``'s batch axes against the experts'.
    """
    order = _check_order(order)
    experts, log_weights, _ = present_experts(experts, weights, mask)
    log_normalizer = -_log_total(experts, log_weights, order)
    return log_normalizer + _log_power(experts, log_weights, order, z)


def holder_sample(
    key: PRNGKeyArray,
    experts: DiagGaussian,
    shape: tuple[int, ...] = (),
    *,
    weights: Any = None,
    mask: Any = None,
) -> Float[Array, "... D"]:
    """Draws from the pool of order 2, building only the components that are drawn.

    Reparameterised given the component: gradients reach the experts through the draw, not through
    the choice. Memory is as that of `holder_log_normalizer`.

    Args:
      key: PRNG key.
      experts: Gaussians [M, ..., D].
      shape: sample axes.
      weights: as in `holder_pool`.
      mask: as in `holder_pool`.

    Returns:
      [*shape, ..., D].
    """
    experts, log_weights, _ = present_experts(experts, weights, mask)
    key_pair, key_noise = jax.random.split(key)
    pairs = _draw_pairs(key_pair, experts, log_weights, shape)
    return _geometric_means(experts, pairs).sample(key_noise)


def _log_power(experts: DiagGaussian, log_weights: Array, order: int, z: Array) -> Array:
    """n log sum_j w_j q_j(z)^(1/n): the pool's density without its normaliser."""
    count = len(log_weights)
    if count <= MOST_DENSITIES:
        densities = jnp.stack([_part(experts, i).log_prob(z) for i in range(count)])
    else:
        densities = jax.vmap(lambda q: q.log_prob(z))(experts)
    # Weighed together: each by itself, a CPU would compute its density's last steps twice.
    powers = jax.vmap(lambda log_w, x: log_w + x / order)(log_weights, densities)
    return order * log_sum_exp(powers)


def _part(tree: Any, at: Any) -> Any:
    return jax.tree.map(lambda x: x[at], tree)


def _check_order(order: int) -> int:
    try:
        checked = operator.index(order)
    except TypeError:
        checked = 0
    if checked < 1:
        raise ValueError(f"order: expected an integer n >= 1 (alpha = 1/n), got {order!r}")
    return checked


@lru_cache
def _multisets(num_experts: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Every multiset of ``order`` experts as indices [K, n], and its log-multinomial [K]."""
    multisets = sorted(
        combinations_with_replacement(range(num_experts), order), key=lambda k: (len(set(k)), k)
    )
    counts = (prod(factorial(k.count(j)) for j in set(k)) for k in multisets)
    log_coefficients = [np.log(factorial(order) // count) for count in counts]
    # int32 in both modes: JAX takes an int64 array, used again, for what x64 made of it first.
    return np.asarray(multisets, np.int32), np.asarray(log_coefficients)


def _factors(experts: DiagGaussian, index: Any) -> list[DiagGaussian]:
    """The n experts of each multiset: ``index`` [..., n] to n times Gaussians [..., *batch, D]."""
    return [jax.tree.map(lambda x, p=p: x[index[..., p]], experts) for p in range(index.shape[-1])]


def _geometric_means(experts: DiagGaussian, multisets: Int[Array, "... n"]) -> DiagGaussian:
    """The components of the pool that ``multisets`` [*samples, *batch, n] name, and no others."""
    batch_ndim = experts.mean.ndim - 2
    factors = [
        jax.tree.map(lambda x, p=p: gather(x, multisets[..., p], batch_ndim), experts)
        for p in range(multisets.shape[-1])
    ]
    return normalized_geometric_mean(factors)[0]


def _draw_pairs(
    key: PRNGKeyArray,
    experts: DiagGaussian,
    log_weights: Float[Array, "M ..."],
    shape: tuple[int, ...],
) -> Int[Array, "... 2"]:
    """The two experts of components drawn from the pool of order 2, [*shape, *batch, 2]."""
    count, *batch = log_weights.shape
    if count <= MOST_IN_TABLE:
        drawn = draw_components(key, _log_masses(experts, log_weights, 2, exact=False), shape)
        return jnp.asarray(_multisets(count, 2)[0])[drawn]
    log_masses = _masses_by_rotations(*jax.lax.stop_gradient((experts, log_weights)))

    def rotate(found: tuple[Array, Array], turn: tuple[Array, PRNGKeyArray]) -> tuple[Any, None]:
        # The new rotation takes the draw over with its share of the mass so far.
        log_total, pairs = found
        places, key = turn
        key_whether, key_which = jax.random.split(key)
        each = log_masses(places)
        log_mass = log_sum_exp(each)
        log_total = jnp.logaddexp(log_total, log_mass)
        share = jnp.exp(log_mass - log_total)
        takes = jax.random.uniform(key_whether, (*shape, *batch), share.dtype) < share
        first = draw_components(key_which, each, shape)
        new = jnp.stack([first, (first + places) % count], axis=-1)
        return (log_total, jnp.where(takes[..., None], new, pairs)), None

    places = jnp.arange(count // 2 + 1)
    nothing = jnp.full(batch, -jnp.inf, log_weights.dtype), jnp.zeros((*shape, *batch, 2), int)
    (_, pairs), _ = jax.lax.scan(rotate, nothing, (places, jax.random.split(key, len(places))))
    return pairs


def _weighted(
    log_integrals: Float[Array, "K ..."], log_weights: Float[Array, "M ..."], order: int
) -> Float[Array, "K ..."]:
    """log C_k: the integrals times the multinomial and the experts' weights."""
    index, log_coefficient = _multisets(log_weights.shape[0], order)
    per_component = jnp.asarray(log_coefficient, log_integrals.dtype)
    per_component = per_component.reshape(-1, *[1] * (log_integrals.ndim - 1))
    # Term by term: gathered at once they would be an array of n K entries.
    return sum((log_weights[column] for column in index.T), log_integrals + per_component)


def _log_total(
    experts: DiagGaussian, log_weights: Float[Array, "M ..."], order: int
) -> Float[Array, "..."]:
    """log sum_k C_k; many pairs of experts are never all held."""
    count = len(log_weights)
    if order != 2 or count <= MOST_IN_TABLE:
        return _log_sum(_log_masses(experts, log_weights, order, exact=False), order)
    log_masses = _masses_by_rotations(experts, log_weights)
    of_rotation = jax.checkpoint(lambda places: log_sum_exp(log_masses(places)))
    return log_sum_exp(jax.lax.map(of_rotation, jnp.arange(count // 2 + 1)))


def _log_sum(log_masses: Float[Array, "K ..."], order: int) -> Float[Array, "..."]:
    """log sum_k C_k. Of pairs that is log(1/M) to 0, so that no largest has to be found."""
    return log_sum_exp(log_masses, largest=0.0 if order == 2 else None)


def _log_masses(
    experts: DiagGaussian, log_weights: Float[Array, "M ..."], order: int, *, exact: bool = True
) -> Float[Array, "K ..."]:
    """log C_k of every multiset, with no component built; if not ``exact``, good for sums of C_k.

    What is lost then is below the rounding of the experts' own C.
    """
    return _weighted(_log_integrals(experts, order, exact), log_weights, order)


def _log_integrals(experts: DiagGaussian, order: int, exact: bool) -> Float[Array, "K ..."]:
    """The log-integral of every multiset at O(M D) memory, also in the gradient."""
    count, *batch = experts.mean.shape[:-1]
    of_experts = jnp.zeros((count, *batch), experts.mean.dtype)
    if order == 1:  # no need to look at them
        return of_experts
    if order == 2:
        return jnp.concatenate([of_experts, _log_overlaps(experts, exact)])
    return jax.lax.map(
        jax.checkpoint(lambda k: normalized_geometric_mean(_factors(experts, k))[1]),
        jnp.asarray(_multisets(count, order)[0]),
        batch_size=count,
    )


def _log_overlaps(experts: DiagGaussian, exact: bool) -> Float[Array, "P ..."]:
    """log S_ij of all pairs i < j in lexicographic order."""
    count = experts.mean.shape[0]
    if count == 1:
        return jnp.zeros((0, *experts.mean.shape[1:-1]), experts.mean.dtype)
    if count > MOST_IN_TABLE:
        return _overlaps_by_rotations(experts)
    return _overlaps_in_blocks(experts, exact)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _overlaps_in_blocks(experts: DiagGaussian, exact: bool) -> Float[Array, "P ..."]:
    """Some experts with some others at a time: the faster way, as it needs no loop."""
    count, *batch = experts.mean.shape[:-1]
    if exact or count == 2:  # variances of a single pair are no use to others
        found = [log_bhattacharyya(p, q) for p, q in _blocks(experts)]
    else:
        arrays = experts.mean, experts.variance
        found = [quick_log_overlap(*p, *q) for p, q in _blocks(arrays)]
    overlaps = jnp.concatenate([x.reshape(-1, *batch) for x in found])
    return overlaps if count <= MOST_ROWS else overlaps[_block_order(count)]


def _blocks(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Arrays [M, ...] as pairs whose leading axes broadcast: every two experts in one of them.

    Rows of few experts: each with all that follow it. Of more, the first half with the second, then
    both halves so at once, and so on; where a number is odd, the last with all before it first.
    """
    size = len(jax.tree.leaves(tree)[0])
    if size <= MOST_ROWS:
        for i in range(size - 1):
            yield _part(tree, i), _part(tree, slice(i + 1, None))
        return
    groups = _part(tree, np.newaxis)
    while size > 1:
        if size % 2:
            size -= 1
            yield _part(groups, np.s_[:, size:, None]), _part(groups, np.s_[:, None, :size])
            groups = _part(groups, np.s_[:, :size])
        size //= 2
        yield _part(groups, np.s_[:, :size, None]), _part(groups, np.s_[:, None, size:])
        groups = jax.tree.map(lambda x, n=size: x.reshape(-1, n, *x.shape[2:]), groups)


@lru_cache
def _block_order(count: int) -> np.ndarray:
    """Where `_overlaps_in_blocks` finds the pairs (0, 1), (0, 2), ... among its blocks."""
    blocks = (np.broadcast_arrays(*block) for block in _blocks(np.arange(count)))
    return _lexicographic([(i.ravel(), j.ravel()) for i, j in blocks])


def _lexicographic(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The places of (0, 1), (0, 2), ... among pairs [P], [P] of either order, put together."""
    i, j = np.sort(np.concatenate(pairs, axis=1), axis=0)
    return np.lexsort((j, i)).astype(np.int32)


@_overlaps_in_blocks.defjvp
def _(
    exact: bool, primals: tuple[DiagGaussian], tangents: tuple[DiagGaussian]
) -> tuple[Array, Array]:
    # Blocks would each keep experts of their own for the gradient.
    return jax.jvp(_overlaps_by_rotations, primals, tangents)


def _overlaps_by_rotations(experts: DiagGaussian) -> Float[Array, "P ..."]:
    """Half of the experts' pairs with themselves, rotated by 1 .. M // 2 places: M at a time.

    Contiguous slices, each pair once. If M is even, the last rotation lays one half over the other.
    """
    count = experts.mean.shape[0]
    rotated = _rotations(experts)
    found, whole = [], (count - 1) // 2
    if whole:
        overlaps = jax.checkpoint(lambda places: log_overlap(experts, rotated(places)))
        rows = jax.lax.map(overlaps, jnp.arange(1, whole + 1))
        found.append(rows.reshape(-1, *rows.shape[2:]))
    if count % 2 == 0:
        halves = slice(count // 2), slice(count // 2, count)
        first, last = (_part(experts, half) for half in halves)
        found.append(jax.checkpoint(log_overlap)(first, last))
    return jnp.concatenate(found)[_rotation_order(count)]


def _masses_by_rotations(
    experts: DiagGaussian, log_weights: Float[Array, "M ..."]
) -> Callable[[Int[Array, ""]], Float[Array, "M ..."]]:
    """From r in 0 .. M // 2 to log C of the components of experts j and (j + r) mod M, for each j.

    Over all r that is every component once: r = 0 are the experts themselves, and the pairs that
    half of an even M finds twice have half of their C each.
    """
    count = len(log_weights)
    rotated = _rotations((experts, log_weights))

    def log_masses(places: Int[Array, ""]) -> Float[Array, "M ..."]:
        others, of_others = rotated(places)
        twice = (places > 0) & (2 * places < count)
        log_multinomial = jnp.where(twice, log(2), 0.0).astype(log_weights.dtype)
        return log_overlap(experts, others) + log_weights + of_others + log_multinomial

    return log_masses


def _rotations(tree: Any) -> Callable[[Int[Array, ""]], Any]:
    """From r in 0 .. M // 2 to the arrays [M, ...] whose entry j is entry (j + r) mod M."""
    count = len(jax.tree.leaves(tree)[0])
    longer = jax.tree.map(lambda x: jnp.concatenate([x, x[: count // 2]]), tree)
    return lambda places: jax.tree.map(
        lambda x: jax.lax.dynamic_slice_in_dim(x, places, count), longer
    )


@lru_cache
def _rotation_order(count: int) -> np.ndarray:
    """Where `_overlaps_by_rotations` finds the pairs (0, 1), (0, 2), ... among its rotations."""
    first, half = np.arange(count), np.arange(count // 2)
    pairs = [(first, (first + places) % count) for places in range(1, (count + 1) // 2)]
    return _lexicographic(pairs + [(half, half + count // 2)] * (count % 2 == 0))
