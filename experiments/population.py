"""Seeds side by side on arrays in memory, and their table: what the simulated benchmarks share."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import optax
from rich.console import Console
from rich.table import Table

from holderjax.device import device_name
from holderjax.evaluation.frontier import estimate
from holderjax.files import write_json
from holderjax.models import Model
from holderjax.training.population import take

# Settings that change no row.
INCIDENTAL = ("out", "rows", "smoke")


@dataclass(frozen=True)
class Training:
    """Of every row alike."""

    out: Path
    """The JSON file to write."""
    steps: int = 2000
    batch_size: int = 250
    seeds: int = 3
    learning_rate: float = 1e-3
    rows: tuple[str, ...] = ()
    """Which rows; all of them if not given."""
    smoke: bool = False
    """Take a few steps of one seed of the first two rows."""


def train(model: Model, views: dict, config: Training) -> dict:
    """Parameters of all seeds, [seeds, ...], from one program."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, config.steps // 20, config.steps
    )
    optimizer = optax.adam(rate)
    size = len(next(iter(views.values())))

    def one(params: dict, key: jax.Array) -> dict:
        def step(carry: tuple, key: jax.Array) -> tuple:
            params, state = carry
            key_batch, key_loss = jax.random.split(key)
            index = jax.random.randint(key_batch, (config.batch_size,), 0, size)
            batch = {name: x[index] for name, x in views.items()}
            gradient = jax.grad(lambda p: model.loss(p, batch, key_loss)[0])(params)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(key, config.steps)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    keys = jax.random.split(jax.random.key(0), (2, config.seeds))
    # Not compiled: XLA takes longer over one program of all initialisers than they take to run.
    return jax.jit(jax.vmap(one))(jax.vmap(model.init)(keys[0]), keys[1])


def compare(
    rows: dict[str, Model],
    views: dict,
    config: Training,
    score: Callable[[Model, dict], dict[str, float]],
    facts: dict,
) -> None:
    """Train every row, score each seed, write JSON after every row, print the table.

    Rows that the file already holds, from the same settings, are not trained again: a stopped
    comparison goes on.

    Args:
      rows: models by name.
      views: training data.
      config: of the training.
      score: from a model and one seed's parameters to scores by column.
      facts: to write beside them.
    """
    for name in config.rows:
        if name not in rows:
            raise ValueError(f"rows: expected some of {', '.join(rows)}; got {name!r}")
    chosen = config.rows or tuple(rows)
    if config.smoke:
        config, chosen = replace(config, steps=4, seeds=1), chosen[:2]
    record = {
        "device": device_name(),
        "jax": jax.__version__,
        "config": {name: x for name, x in vars(config).items() if name not in INCIDENTAL},
        **facts,
    }
    results = earlier_rows(config.out, record)
    table = Table("row", title=f"{config.seeds} seeds, {config.steps} steps; mean ± standard error")
    for name in chosen:
        start = time.perf_counter()
        if name not in results:
            params = train(rows[name], views, config)
            each = [score(rows[name], take(params, i)) for i in range(config.seeds)]
            results[name] = {column: [row[column] for row in each] for column in each[0]}
            write_json(config.out, {**record, "rows": results})
        if not table.rows:
            for column in results[name]:
                table.add_column(column, justify="right")
        cells = [estimate(x).text(3) for x in results[name].values()]
        table.add_row(name, *cells)
        print(f"{name}: {', '.join(cells)} ({time.perf_counter() - start:.0f} s)", flush=True)
    Console().print(table)
    print(config.out)


def earlier_rows(path: Path, record: dict) -> dict:
    """The rows of the file that an earlier call left; ValueError if its settings were others."""
    if not path.exists():
        return {}
    earlier = json.loads(path.read_text())
    rows = earlier.pop("rows", None)
    expected = json.loads(json.dumps(record))
    if earlier != expected:
        raise ValueError(f"out: {path} holds {earlier}, not {expected}; name another file")
    return rows
