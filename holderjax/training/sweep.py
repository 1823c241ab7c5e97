"""Sweeps: systems x betas x seeds, each system's runs as one compiled program."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from holderjax.models import SYSTEMS
from holderjax.naming import unknown
from holderjax.training.config import SharedConfig, TrainConfig
from holderjax.training.loop import RunResult, train_population
from holderjax.training.metrics import NonFiniteLoss


@dataclass(frozen=True, kw_only=True)
class SweepConfig(SharedConfig):
    """Everything that decides a sweep. Its runs are folders in ``out``."""

    systems: tuple[str, ...] = ("mmvae+", "holder++")
    """Which VAEs: names that `holderjax systems` lists. --fit-clusters concerns those with a
    mixture prior alone."""
    betas: tuple[float, ...] = (1.0, 2.5, 5.0, 10.0)
    """Weights of the KL terms."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the initial parameters, the order of the data and the latents drawn."""
    together: int | None = None
    """Runs of a system that train as one program, at most; fewer need less memory."""

    def groups(self) -> list[list[TrainConfig]]:
        """The runs that train together, system by system.

        Raises:
          ValueError: naming the setting, its value and what was expected.
        """
        for name in ("systems", "betas", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name}: expected one or more different values, got {values}")
        if self.together is not None and self.together < 1:
            raise ValueError(f"together: expected at least 1, got {self.together}")
        groups = []
        for system in self.systems:
            members = [
                self.member(system, beta, seed) for beta in self.betas for seed in self.seeds
            ]
            size = self.together or len(members)
            groups += [members[i : i + size] for i in range(0, len(members), size)]
        for members in groups:
            for config in members:
                config.validate()
        return groups

    def member(self, system: str, beta: float, seed: int) -> TrainConfig:
        """The config of one run."""
        if system not in SYSTEMS:
            raise unknown("system", system, SYSTEMS)
        shared = {field.name: getattr(self, field.name) for field in fields(SharedConfig)}
        shared["out"] = self.out / f"{system}_beta{beta:g}_seed{seed}"
        if (self.prior or SYSTEMS[system].prior) != "mixture":
            shared["fit_clusters"] = None
        return TrainConfig(**shared, system=system, beta=beta, seed=seed)


def sweep(config: SweepConfig) -> Iterator[list[RunResult | NonFiniteLoss]]:
    """Train every run of a sweep into an ordinary run folder of its own.

    Args:
      config: of the sweep; with ``resume`` it goes on where it was stopped, and runs may be added.

    Yields:
      After each group of runs, how they ended: see `train_population`.

    Raises:
      ValueError: for settings out of range, before anything is trained, and as `train`.
      FileExistsError: as `train`.
      KeyboardInterrupt: as `train`.
    """
    for members in config.groups():
        yield train_population(members)
