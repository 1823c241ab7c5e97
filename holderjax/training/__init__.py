"""Training: a typed config, the compiled step, the loop, and what it leaves in a run folder."""

from holderjax.training.config import TrainConfig
from holderjax.training.loop import RunResult, train
from holderjax.training.metrics import NonFiniteLoss
from holderjax.training.run import Run, load_run

__all__ = ["NonFiniteLoss", "Run", "RunResult", "TrainConfig", "load_run", "train"]
