"""Training: a typed config, the compiled step, the loop, and what it leaves in a run folder."""

from holderjax.training.config import TrainConfig
from holderjax.training.hosts import ProcessLost, join
from holderjax.training.loop import RunResult, train, train_population
from holderjax.training.metrics import NonFiniteLoss
from holderjax.training.run import Run, load_run
from holderjax.training.sweep import SweepConfig, sweep

__all__ = [
    "NonFiniteLoss",
    "ProcessLost",
    "Run",
    "RunResult",
    "SweepConfig",
    "TrainConfig",
    "join",
    "load_run",
    "sweep",
    "train",
    "train_population",
]
