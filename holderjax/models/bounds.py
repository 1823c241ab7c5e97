r"""Bounds: which subsets of the modalities are encoded, and what each encoding must explain.

Every bound of the field is a sum over *views* v of an example,

.. math::
  L = \sum_v E_{q(z|x_{O_v})} \Big[\sum_{n \in T_v} \log p(x_n | z)\Big]
      - \beta\, \mathrm{KL}\big(q(z|x_{O_v}) \,\|\, \rho_v(z)\big),

with O_v the observed modalities, T_v the targets, and rho_v the prior p(z) or the posterior of
another view.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, PRNGKeyArray


class Views(NamedTuple):
    """The views of a batch.

    Attributes:
      observed: O_v, [M, V, B]; views that observe nothing do not count.
      targets: T_v, [M, V, B].
      decoded: the views in which a modality is a target of any example, [M, V], known beforehand.
      references: rho_v: None for the prior, or the index of another view.
    """

    observed: Bool[Array, "M V B"]
    targets: Bool[Array, "M V B"]
    decoded: Bool[np.ndarray, "M V"]
    references: tuple[int | None, ...]


def joint(present: Bool[Array, "M B"], key: PRNGKeyArray, random_subsets: int) -> Views:
    """One view: everything present explains everything present."""
    whole = present[:, None]
    return Views(whole, whole, np.ones((len(present), 1), bool), (None,))


def subsets(present: Bool[Array, "M B"], keys: PRNGKeyArray, random_subsets: int) -> Views:
    """The whole, every single modality and some random subsets, each explaining itself.

    The sub-sampled objective of MVAE (Wu and Goodman 2018, section 2.2).
    """
    count = len(present)
    drawn = jax.vmap(lambda key: jax.random.split(key, random_subsets), out_axes=1)(keys)
    random = jax.vmap(random_subset, in_axes=(None, 0), out_axes=1)(present, drawn)
    observed = jnp.concatenate([_whole_and_singles(present), random], axis=1)
    static = np.concatenate(
        [np.ones((count, 1)), np.eye(count), np.ones((count, random_subsets))], axis=1
    )
    return Views(observed, observed, static.astype(bool), (None,) * static.shape[1])


def crossed(present: Bool[Array, "M B"], key: PRNGKeyArray, random_subsets: int) -> Views:
    """The whole and every single modality, each explaining everything (DMVAE, equation 5)."""
    observed = _whole_and_singles(present)
    targets = jnp.broadcast_to(present[:, None], observed.shape)
    shape = observed.shape[:2]
    return Views(observed, targets, np.ones(shape, bool), (None,) * shape[1])


def masked(present: Bool[Array, "M B"], keys: PRNGKeyArray, random_subsets: int) -> Views:
    """A random subset S explains itself, the whole explains the rest (Hirt et al. 2024, eq. 4).

    The second divergence is KL(q(z|x) || q(z|x_S)): what the rest adds to S.
    """
    some = random_subset(present, keys)
    observed = jnp.stack([present, some], axis=1)
    targets = jnp.stack([present & ~some, some], axis=1)
    return Views(observed, targets, np.ones((len(present), 2), bool), (1, None))


def random_subset(present: Bool[Array, "M B"], keys: PRNGKeyArray) -> Bool[Array, "M B"]:
    """A non-empty subset of each example's modalities: uniform over sizes, then over subsets."""

    def one(present: Bool[Array, " M"], key: PRNGKeyArray) -> Bool[Array, " M"]:
        key_size, key_order = jax.random.split(key)
        size = jax.random.randint(key_size, (), 1, jnp.maximum(present.sum(), 1) + 1)
        order = jnp.where(present, jax.random.uniform(key_order, present.shape), jnp.inf)
        return present & (jnp.argsort(jnp.argsort(order)) < size)

    return jax.vmap(one, in_axes=(1, 0), out_axes=1)(present, keys)


def _whole_and_singles(present: Bool[Array, "M B"]) -> Bool[Array, "M V B"]:
    singles = present[:, None] & jnp.eye(len(present), dtype=bool)[:, :, None]
    return jnp.concatenate([present[:, None], singles], axis=1)


BOUNDS: dict[str, Callable[..., Views]] = {
    "joint": joint,
    "subsets": subsets,
    "crossed": crossed,
    "masked": masked,
}
