"""The density of the exact pool against the same in PyTorch, and the growth of its memory.

.venv-parity/bin/python benchmarks/pooling.py [--modalities 2 5 16 64]   # of `make parity`

The peer is the pool of alpha = 1/2 as its formula reads (Hölder++, section 3.1): all pairwise means
and variances as tensors [K, B, D], their log-weights, the log-density of the mixture; eager, and
through torch.compile. Ours is `holder_log_prob`. Both get M experts and one point for each of B
examples, in float32; the gradient is that of the sum, to experts and points. Sides alternate; times
are medians. Sizes whose pairwise tensor is larger than ``--most-bytes`` are left out: the peer
holds a dozen of them.

On a CPU both compute in the thread that calls. PyTorch always does; JAX by default hands each call
to another thread (``--asynchronous``), which helps who has something else to do meanwhile, and adds
the time to wake two threads where each result is waited for, as here. ``--calls-per-wait 100`` is
for callers who go on before they have the result.

What must move at least is every expert and point once, and the densities: 4 (2 M D + D + 1) B
bytes. Peak memory is what XLA plans for a program beside its arguments and results.
"""

import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
from common import write_results

from holderjax.pooling import DiagGaussian, holder_log_prob, holder_sample


@dataclass(frozen=True)
class Config:
    """Sizes, and how often each is timed."""

    modalities: tuple[int, ...] = (2, 5, 16, 64)
    dims: tuple[int, ...] = (16, 64, 512)
    batches: tuple[int, ...] = (64, 1024, 4096)
    most_bytes: int = 1 << 29
    rounds: int = 7
    at_least: float = 0.1
    """Seconds in a round, for each side; calls that take longer are made once."""
    compiled: bool = True
    """Time torch.compile as well."""
    asynchronous: bool = False
    """Leave JAX's dispatch on a CPU as it is by default."""
    calls_per_wait: int = 1
    """Calls made, of either side, before the results of all of them are waited for."""
    memory_modalities: tuple[int, ...] = (96, 128, 192, 256)
    """Up to 64 a table of their overlaps is made, so that they do not compare."""
    memory_batch: int = 256
    memory_dim: int = 64
    out: Path | None = None


@dataclass(frozen=True)
class Side:
    """An implementation."""

    calls: dict[str, Callable[[], object]]
    """Forward and gradient, ready to be called."""
    wait: Callable[[list[object]], object]
    """Returns once results are there."""


def peer_log_prob(mean: torch.Tensor, log_var: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """[M, B, D], [M, B, D] and [B, D] to [B]."""
    i, j = torch.triu_indices(len(mean), len(mean), 1, device=mean.device)
    variance = log_var.exp()
    total = variance[i] + variance[j]
    means = torch.cat([mean, (mean[i] * variance[j] + mean[j] * variance[i]) / total])
    log_total, log_vars = total.log(), log_var[i] + log_var[j]
    overlap = 0.5 * (math.log(2) + 0.5 * log_vars - log_total)
    overlap = (overlap - (mean[i] - mean[j]).square() / (4 * total)).sum(-1)
    log_vars = torch.cat([log_var, math.log(2) + log_vars - log_total])
    log_weights = torch.cat([torch.zeros_like(mean[..., 0]), math.log(2) + overlap])
    log_weights = log_weights.log_softmax(0)
    scaled = (z - means).square() * (-log_vars).exp()
    log_probs = -0.5 * (scaled + log_vars + math.log(2 * math.pi)).sum(-1)
    return (log_weights + log_probs).logsumexp(0)


def our_log_prob(mean: jax.Array, log_var: jax.Array, z: jax.Array) -> jax.Array:
    """The same."""
    return holder_log_prob(DiagGaussian(mean, log_var), z)


def sides(arrays: list[np.ndarray], config: Config) -> dict[str, Side]:
    """The implementations by name."""
    ours = [jnp.asarray(x) for x in arrays]
    device = "cuda" if jax.devices()[0].platform == "gpu" else "cpu"
    theirs = [torch.from_numpy(x).to(device) for x in arrays]
    forward = jax.jit(our_log_prob)
    gradient = jax.jit(jax.value_and_grad(lambda *x: our_log_prob(*x).sum(), argnums=(0, 1, 2)))

    def peer(log_prob: Callable[..., torch.Tensor]) -> Side:
        def forward() -> torch.Tensor:
            with torch.no_grad():
                return log_prob(*theirs)

        def gradient() -> object:
            leaves = [x.detach().requires_grad_() for x in theirs]
            return torch.autograd.grad(log_prob(*leaves).sum(), leaves)

        def wait(results: list[object]) -> None:
            if device == "cuda":
                torch.cuda.synchronize()

        return Side({"forward": forward, "gradient": gradient}, wait)

    found = {
        "holderjax": Side(
            {"forward": lambda: forward(*ours), "gradient": lambda: gradient(*ours)},
            jax.block_until_ready,
        ),
        "eager": peer(peer_log_prob),
    }
    if config.compiled:
        torch.compiler.reset()
        found["compiled"] = peer(torch.compile(peer_log_prob, dynamic=False))
    ours_now = np.asarray(found["holderjax"].calls["forward"]())
    theirs_now = found["eager"].calls["forward"]().cpu().numpy()
    np.testing.assert_allclose(ours_now, theirs_now, rtol=1e-4, atol=1e-3)
    return found


def seconds(
    call: Callable[[], object], wait: Callable[[list[object]], object], config: Config
) -> float:
    """The median of calls that take ``at_least`` seconds together, after one that is not timed.

    That one compiles, and the threads of the other side, which wait for more work by spinning, have
    gone to sleep when it ends.
    """
    wait([call()])
    times = []
    while not times or sum(times) < config.at_least:
        start = time.perf_counter()
        wait([call() for _ in range(config.calls_per_wait)])
        times.append(time.perf_counter() - start)
    return statistics.median(times) / config.calls_per_wait


def measure(count: int, batch: int, dim: int, config: Config) -> list[dict[str, object]]:
    """A row for the forward pass and one for the gradient."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((count, batch, dim), np.float32) for _ in range(2)]
    functions = sides([*arrays, rng.standard_normal((batch, dim), np.float32)], config)
    rows = []
    for kind in ("forward", "gradient"):
        times: dict[str, list[float]] = {name: [] for name in functions}
        for _ in range(config.rounds):
            for name, each in functions.items():
                times[name].append(seconds(each.calls[kind], each.wait, config))
        medians = {name: statistics.median(each) for name, each in times.items()}
        ratios = {name: medians["holderjax"] / x for name, x in medians.items()}
        del ratios["holderjax"]
        size = {"modalities": count, "batch": batch, "dim": dim}
        moved = 4 * (2 * count * dim + dim + 1) * batch
        row = {**size, "kind": kind, "seconds": times, "ratios": ratios, "bytes": moved}
        told = ", ".join(f"{x:.2f} of {name}" for name, x in ratios.items())
        print(
            f"M {count:3} B {batch:4} D {dim:3} {kind:8}: {1e3 * medians['holderjax']:9.3f} ms, "
            f"{told}; {moved / medians['holderjax'] / 1e9:.1f} GB/s",
            flush=True,
        )
        rows.append(row)
    return rows


def memory(config: Config) -> dict[str, dict[int, int]]:
    """Bytes beside arguments and results, by what is computed and M."""
    shape = (config.memory_batch, config.memory_dim)
    z = jax.ShapeDtypeStruct(shape, jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    found: dict[str, dict[int, int]] = {"density": {}, "gradient": {}, "sampling": {}}
    for count in config.memory_modalities:
        expert = jax.ShapeDtypeStruct((count, *shape), jnp.float32)
        programs = {
            "density": jax.jit(our_log_prob).lower(expert, expert, z),
            "gradient": jax.jit(jax.grad(lambda *x: our_log_prob(*x).sum(), (0, 1, 2))).lower(
                expert, expert, z
            ),
            "sampling": jax.jit(lambda key, *x: holder_sample(key, DiagGaussian(*x))).lower(
                key, expert, expert
            ),
        }
        for name, lowered in programs.items():
            found[name][count] = lowered.compile().memory_analysis().temp_size_in_bytes
    return found


def main(config: Config) -> None:
    """Time, print, write."""
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    jax.config.update("jax_cpu_enable_async_dispatch", config.asynchronous)
    rows, left_out = [], []
    for count, batch, dim in product(config.modalities, config.batches, config.dims):
        if 4 * count * (count + 1) // 2 * batch * dim > config.most_bytes:
            left_out.append((count, batch, dim))
        else:
            rows += measure(count, batch, dim, config)
    worst = {name: max(row["ratios"][name] for row in rows) for name in rows[0]["ratios"]}
    print("largest ratios:", ", ".join(f"{x:.2f} of {name}" for name, x in worst.items()))
    used = memory(config)
    exponents = {
        name: float(np.polyfit(np.log(list(each)), np.log(list(each.values())), 1)[0])
        for name, each in used.items()
    }
    for name, each in used.items():
        told = ", ".join(f"{count}: {size / 1e6:.1f} MB" for count, size in each.items())
        print(f"memory of {name} at M = {told}; exponent {exponents[name]:.2f}")
    measured = {
        "rows": rows,
        "left_out": left_out,
        "largest_ratios": worst,
        "memory_bytes": used,
        "memory_exponents": exponents,
    }
    print(write_results("pooling", config, measured, "torch"))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
