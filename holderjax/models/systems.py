"""The table of systems: each is a row of choices on one objective.

Adding a system is adding a row. ``build`` overrides a row's options by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Latents = Literal["shared", "private", "hierarchical"]
Kl = Literal["mixture", "components"]


@dataclass(frozen=True)
class System:
    """A row of the table.

    Attributes:
      paper: where the system comes from.
      aggregator: a key of `holderjax.models.aggregators.AGGREGATORS`.
      latents: ``shared`` (z), ``private`` (z and w_n from x_n) or ``hierarchical`` (w_n from x_n
        and z).
      prior: on z; ``normal`` is N(0, I).
      kl: the estimator of KL(q(z|X) || p(z)): ``mixture`` is the log-ratio of the pooled density
        at the sample, ``components`` the weighted sum of the components' closed forms, which is
        larger by convexity.
      order: of the Hölder pool, n = 1/alpha.
    """

    paper: str
    aggregator: str
    latents: Latents
    prior: Literal["normal"]
    kl: Kl
    order: int


_HOLDER = "Hölder++ (ICML 2026)"

# The paper calls its objective a weighted sum of terms, each a reconstruction minus a KL: the
# components' estimator. It also led in leave-one-out coherence on the digits.
SYSTEMS: dict[str, System] = {
    "holder": System(_HOLDER, "holder", "shared", "normal", "components", 2),
    "holder+": System(_HOLDER, "holder", "private", "normal", "components", 2),
    "holder++": System(_HOLDER, "holder", "hierarchical", "normal", "components", 2),
}
