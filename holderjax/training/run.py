"""A finished or unfinished run, read back from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holderjax.data import Dataset, Vocabulary
from holderjax.models import Model
from holderjax.training.checkpoints import Checkpoints, Which
from holderjax.training.config import (
    TrainConfig,
    build_model,
    load_config,
    load_dataset,
    read_vocabularies,
)
from holderjax.training.folder import (
    CHECKPOINTS_FOLDER,
    VERSIONS_FILE,
    check_same_data,
    read_versions,
)
from holderjax.training.loop import model_facts, state_template


@dataclass(frozen=True)
class Run:
    """A run and one of its checkpoints.

    Attributes:
      path: the run folder.
      config: as it was trained; ``out`` is where the folder is now.
      model: built from the config.
      params: of the checkpoint, NumPy arrays.
      step: of the checkpoint.
      vocabularies: of the modalities that are texts.
    """

    path: Path
    config: TrainConfig
    model: Model
    params: Any
    step: int
    vocabularies: Mapping[str, Vocabulary] = field(default_factory=dict)

    def dataset(self) -> Dataset:
        """Load the data that the run was trained on.

        Raises:
          ValueError: if the data has changed since.
        """
        dataset = load_dataset(self.config)
        check_same_data(dataset, self.path)
        return dataset


def load_run(path: str | Path, checkpoint: Which = "last") -> Run:
    """Read a run folder; needs no data.

    Args:
      path: the run folder.
      checkpoint: the newest, or the one of the lowest held-out loss.

    Returns:
      The run, with the parameters of that checkpoint.

    Raises:
      FileNotFoundError: if the path is no run folder, or has no whole checkpoint.
      ValueError: if the config is damaged, or of another model than the checkpoint.
    """
    path = Path(path)
    config = load_config(path)
    config.validate()
    folder = path / CHECKPOINTS_FOLDER
    if not folder.is_dir() or not (path / VERSIONS_FILE).is_file():
        raise FileNotFoundError(f"{path} has no checkpoint yet")
    facts = read_versions(path)["data"]
    model = build_model(config, facts)
    with Checkpoints(folder) as checkpoints:
        state, step = checkpoints.restore(
            state_template(config, model), model_facts(config), checkpoint
        )
    return Run(path, config, model, state.params, step, read_vocabularies(facts))
