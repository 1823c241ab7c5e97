"""Metrics by name, and the check that all of them are numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np


class NonFiniteLoss(FloatingPointError):
    """A part of the loss, the gradient or the state became NaN or infinite.

    Attributes:
      step: the first step at which it was.
      term: the first such term, named as in the metrics; the parts of the loss come before it.
      checkpoint: the last good checkpoint, None if there was none yet.
    """

    def __init__(self, step: int, terms: Mapping[str, Any], checkpoint: Path | None) -> None:
        self.step, self.term, self.checkpoint = step, next(iter(terms)), checkpoint
        named = ", ".join(f"{name} = {value}" for name, value in list(terms.items())[:5])
        more = f" and {len(terms) - 5} more" if len(terms) > 5 else ""
        good = f"the last good checkpoint is {checkpoint}" if checkpoint else "no checkpoint yet"
        super().__init__(
            f"training became non-finite at step {step}: {named}{more}; {good}; "
            "a smaller learning_rate may help, or clip, or values of about 1"
        )


def flatten(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by path, as in ``reconstruction/m0``."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def non_finite(terms: Mapping[str, Any]) -> dict[str, Any]:
    """The terms that hold a NaN or an infinity, each with one of those values."""
    found = {}
    for name, value in terms.items():
        bad = np.asarray(value)[~np.isfinite(value)]
        if bad.size:
            found[name] = bad[0]
    return found


def first_non_finite(terms: Mapping[str, Any]) -> tuple[int, dict[str, Any]] | None:
    """The first step whose terms are not all finite, and those of its terms that are not.

    Args:
      terms: arrays by name, [S, ...].

    Returns:
      The index of the step and the values by name; None if everything is finite.
    """
    bad = [~np.isfinite(x).reshape(len(x), -1).all(axis=1) for x in terms.values()]
    steps = np.flatnonzero(np.any(bad, axis=0))
    if not steps.size:
        return None
    return int(steps[0]), non_finite({name: x[steps[0]] for name, x in terms.items()})
