"""Every system on the digits: same networks, same steps, same component budget, three seeds.

python experiments/digits_table.py --out runs/digits_table [--rows holder++ mmvae+ --seeds 0 1 2]

Each run is an ordinary run folder under --out. Stopped, the same command goes on where it was;
rows and seeds can be added later, or shared out over processes.
"""

import json
import sys
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import jax
import numpy as np
import tyro
from digits import DEFAULTS

from holderjax import data
from holderjax.cli import guarded
from holderjax.device import device_name
from holderjax.evaluation import load_classifiers
from holderjax.evaluation.frontier import estimate
from holderjax.evaluation.report import score
from holderjax.evaluation.representation import linear_accuracy
from holderjax.files import write_json, write_text
from holderjax.models import SYSTEMS
from holderjax.training import TrainConfig, load_run, train

# Five components a step for all: as many as the mixture of experts has. pi is held constant, which
# concerns the Hölder rows alone. Half as many steps leave every row far from its end.
RECIPE = replace(
    DEFAULTS, out=Path("runs/digits_table"), components=5, warmup=100, checkpoint_every=400, keep=1
)

# One importance sample for MMVAE too: ten would be ten times the budget. Clusters are fitted once
# the latents tell classes apart.
ROWS = {
    name: {
        "system": name,
        "importance_samples": 1,
        "fit_clusters": 2400 if row.prior == "mixture" else None,
    }
    for name, row in SYSTEMS.items()
} | {
    "holder++, exact gradient": {"system": "holder++", "hold_weights": 0},
    "holder++, learned weights": {
        "system": "holder++",
        "hold_weights": 0,
        "expert_weights": "learned",
    },
    "holder++, order 3": {"system": "holder++", "order": 3},
    "holder++, order 4": {"system": "holder++", "order": 4},
    "holder++, p(w | z)": {"system": "holder++", "private_prior": "conditional"},
}

COLUMNS = {
    "leave-one-out": lambda s: s["coherence"]["leave_one_out"],
    "given one": lambda s: s["coherence"]["by_subset_size"]["1"],
    "unconditional": lambda s: s["coherence"]["unconditional"],
    "error": lambda s: np.mean(list(s["reconstruction"]["absolute_error"].values())),
    "z": lambda s: s["representation"]["joint"],
    "z given one": lambda s: np.mean(list(s["representation"]["z"].values())),
    "w": lambda s: np.mean(w) if (w := list(s["representation"]["w"].values())) else None,
}


@dataclass(frozen=True)
class Config:
    """Which rows and seeds."""

    out: Path = RECIPE.out
    rows: tuple[str, ...] = tuple(ROWS)
    seeds: tuple[int, ...] = (0, 1, 2)


def scores_of(config: TrainConfig, dataset: data.Dataset, classifiers: dict) -> dict:
    """Train and score one run, or read what an earlier call has left in its folder."""
    file = config.out / "scores.json"
    if not file.exists():
        train(config)
        run = load_run(config.out)
        key = jax.random.key(0)
        scores = score(run.model, run.params, dataset.test, classifiers, key, 1, 2000)
        scores["representation"] = linear_accuracy(
            run.model, run.params, dataset.train, dataset.test
        )
        write_json(file, scores)
    jax.clear_caches()  # of programs that the next row has no use for
    return json.loads(file.read_text())


def main(config: Config) -> None:
    """Run what is missing, then write the table as Markdown."""
    for name in config.rows:
        if name not in ROWS:
            raise ValueError(f"rows: expected some of {', '.join(ROWS)}; got {name!r}")
    dataset = data.load("digits")
    classifiers = load_classifiers(dataset)
    head = ["row", *COLUMNS]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for name in config.rows:
        each = []
        for seed in config.seeds:
            folder = config.out / f"{''.join(c for c in name if c not in ' ,()|')}-{seed}"
            run = replace(RECIPE, **ROWS[name], out=folder, seed=seed, resume=True)
            each.append(scores_of(run, dataset, classifiers))
        columns = [[column(scores) for scores in each] for column in COLUMNS.values()]
        cells = ["-" if None in values else estimate(values).text(3) for values in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    lines.append(
        f"\nSeeds {', '.join(map(str, config.seeds))}, mean ± standard error; {device_name()}, "
        f"JAX {jax.__version__}, {date.today().isoformat()}"
    )
    table = config.out / "table.md"
    write_text(table, "\n".join(lines) + "\n")
    print(table)


if __name__ == "__main__":
    config = tyro.cli(Config, description=__doc__)
    sys.exit(guarded(lambda: main(config)))
