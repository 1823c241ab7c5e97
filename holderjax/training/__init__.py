"""Training: a typed config, the compiled step, the loop, and what it leaves in a run folder."""

from holderjax.training.config import TrainConfig
from holderjax.training.loop import RunResult, train, train_population
from holderjax.training.metrics import NonFiniteLoss
from holderjax.training.run import Run, load_run
from holderjax.training.sweep import SweepConfig, sweep

__all__ = [
    "NonFiniteLoss",
    "Run",
    "RunResult",
    "SweepConfig",
    "TrainConfig",
    "load_run",
    "sweep",
    "train",
    "train_population",
]
