from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run

import holderjax
from holderjax import data
from holderjax.training import NonFiniteLoss, load_run, loop, train
from holderjax.training.checkpoints import Checkpoints
from holderjax.training.interruption import Interruption
from holderjax.training.logging import Display, RunLog, read_metrics
from holderjax.training.loop import Files, Member, Programs, dispatches, run_steps
from holderjax.training.metrics import first_non_finite
from holderjax.training.parallel import replicate
from holderjax.training.step import RunKeys, TrainState, make_held_out_loss

DEVICES = jax.local_devices()[:1]
TIMES = ("seconds", "steps_per_second")


def same(a: Any, b: Any) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def without_times(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in x.items() if k not in TIMES} for x in read_metrics(folder)]


def test_training_lowers_the_training_and_the_held_out_loss(finished: Path) -> None:
    lines = read_metrics(finished)
    held_out = [line["test_loss"] for line in lines if "test_loss" in line]
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert held_out[-1] < 0.8 * held_out[0]


def test_every_interval_tells_every_term(finished: Path) -> None:
    lines = read_metrics(finished)
    assert [line["step"] for line in lines] == list(range(2, 25, 2))
    assert [line["step"] for line in lines if "test_loss" in line] == list(range(4, 25, 4))
    terms = {
        f"{kind}/{m}" for kind in ("reconstruction", "kl_private") for m in ("rows", "columns")
    }
    for line in lines:
        assert terms | {"loss", "kl_z", "unimodal_mass", "weights", "gradient_norm"} <= set(line)
        # K = M (M + 1) / 2 components at order 2.
        assert len(line["weights"]) == 3
        assert sum(line["weights"]) == pytest.approx(1.0, abs=1e-5)
        assert sum(line["weights"][:2]) == pytest.approx(line["unimodal_mass"], abs=1e-5)


def test_a_run_folder_holds_everything(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    visible = {"config.json", "versions.json", "metrics.jsonl", "tensorboard", "checkpoints"}
    assert names == visible | {".lock"}
    versions = json.loads((finished / "versions.json").read_text())
    assert versions["jax"] == jax.__version__
    assert versions["holderjax"] == holderjax.__version__
    assert versions["data"]["fingerprint"] == tiny_run.load_tiny().fingerprint


def test_the_same_seed_is_the_same_run_and_another_is_not(finished: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        train(tiny_run.config(tmp_path / str(seed), seed=seed, steps=4))
    first = without_times(finished)[:2]
    assert without_times(tmp_path / "0") == first
    assert without_times(tmp_path / "1")[0]["loss"] != first[0]["loss"]
    params = [load_run(tmp_path / str(seed)).params for seed in (0, 1)]
    assert not same(*params)


def test_a_run_with_networks_in_bfloat16(finished: Path, tmp_path: Path) -> None:
    config = tiny_run.config(tmp_path / "a", network_dtype="bfloat16", steps=8)
    train(config)
    of_float32, rounded = (
        np.array([line["loss"] for line in read_metrics(out)][:4]) for out in (finished, config.out)
    )
    assert (of_float32 != rounded).all()
    np.testing.assert_allclose(rounded, of_float32, rtol=0.02)
    run = load_run(config.out)
    assert {leaf.dtype for leaf in jax.tree.leaves(run.params)} == {np.dtype(np.float32)}
    assert {modality.dtype for modality in run.model.modalities.values()} == {"bfloat16"}
    with pytest.raises(ValueError, match="network_dtype"):
        train(tiny_run.config(config.out, resume=True))


def test_a_run_is_read_back(finished: Path) -> None:
    last, best = load_run(finished), load_run(finished, "best")
    held_out = {x["step"]: x["test_loss"] for x in read_metrics(finished) if "test_loss" in x}
    assert (last.step, best.step) == (24, min(held_out, key=lambda step: held_out[step]))
    assert last.config == tiny_run.config(finished)
    test = last.dataset().test
    held_out_loss = make_held_out_loss(last.model, len(test), last.config.batch_size)
    key, beta = RunKeys.of(0).held_out, jnp.float32(1.0)
    assert float(held_out_loss(last.params, dict(test.arrays), key, beta)) == held_out[24]


def test_a_run_is_not_read_back_with_other_data(copy_of: Callable[..., Path]) -> None:
    out = copy_of()
    versions = json.loads((out / "versions.json").read_text())
    versions["data"]["fingerprint"] = "0" * 64
    (out / "versions.json").write_text(json.dumps(versions))
    with pytest.raises(ValueError, match=r"is not what the run in .* began with"):
        load_run(out).dataset()
    with pytest.raises(ValueError, match=r"is not what the run in .* began with"):
        train(tiny_run.config(out, resume=True))


def test_a_path_that_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run folder"):
        load_run(tmp_path / "nowhere")
    tiny_run.config(tmp_path).save(tmp_path)
    with pytest.raises(FileNotFoundError, match="has no checkpoint yet"):
        load_run(tmp_path)


def test_a_config_of_another_model_is_an_error(copy_of: Callable[..., Path]) -> None:
    out = copy_of()
    tiny_run.config(out, latent_dim=3).save(out)
    with pytest.raises(ValueError, match="latent_dim was 2 and should be 3"):
        load_run(out)


def test_a_folder_with_a_run_is_refused(finished: Path) -> None:
    with pytest.raises(FileExistsError, match=r"already holds a run.*--resume"):
        train(tiny_run.config(finished))


def test_a_resumption_with_other_settings_is_refused(finished: Path) -> None:
    with pytest.raises(ValueError, match=r"beta was 1\.0 and is 0\.5; seed was 0 and is 3"):
        train(tiny_run.config(finished, resume=True, beta=0.5, seed=3))
    with pytest.raises(ValueError, match="at step 24 already, got 20"):
        train(tiny_run.config(finished, resume=True, steps=20))
    assert load_run(finished).config == tiny_run.config(finished)


def test_a_finished_run_resumed_is_left_as_it_is(copy_of: Callable[..., Path]) -> None:
    out = copy_of()
    before = (out / "metrics.jsonl").read_text()
    result = train(tiny_run.config(out, resume=True))
    assert (result.step, result.path) == (24, out)
    assert (out / "metrics.jsonl").read_text() == before


def test_resuming_repeats_the_run_bit_for_bit(
    finished: Path, copy_of: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    """From a folder whose newest checkpoint is damaged and whose last line was cut short."""
    out = copy_of(step=16)
    array_file = max((out / "checkpoints" / "16").rglob("*"), key=lambda p: p.stat().st_size)
    array_file.write_bytes(array_file.read_bytes()[:100])
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 26, "lo')
    with caplog.at_level(logging.WARNING, logger="holderjax"):
        result = train(tiny_run.config(out, resume=True))
    assert str(out / "checkpoints" / "16") in caplog.text
    assert result.step == 24
    assert same(load_run(out).params, load_run(finished).params)
    assert without_times(out) == without_times(finished)


def test_resuming_where_there_is_no_run_begins_one(finished: Path, tmp_path: Path) -> None:
    train(tiny_run.config(tmp_path / "new", resume=True, steps=2))
    assert without_times(tmp_path / "new")[0]["loss"] == without_times(finished)[0]["loss"]


def poison(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Put an example that overflows float32 where the given step is the first to read it."""
    tiny = tiny_run.load_tiny()
    arrays = {name: x.astype(np.float32) / 255 for name, x in tiny.train.arrays.items()}
    first = data.epoch_indices(0, len(tiny.train), 8, step - 1, 1)[0, 3]
    arrays["columns"][first] = 3e38
    test = {name: x.astype(np.float32) / 255 for name, x in tiny.test.arrays.items()}
    dataset = data.Dataset.from_arrays("tiny", arrays, test, tiny.train.labels, tiny.test.labels)
    monkeypatch.setattr(loop, "load_dataset", lambda config: dataset)


def test_a_non_finite_loss_stops_the_run_and_keeps_what_was_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, step=7)
    with pytest.raises(NonFiniteLoss) as stopped:
        train(tiny_run.config(tmp_path / "run", system="holder"))
    good = tmp_path / "run" / "checkpoints" / "4"
    assert stopped.value.step == 7
    assert stopped.value.term in ("reconstruction/columns", "kl_z")
    assert stopped.value.checkpoint == good
    assert re.search(rf"step 7: .*{stopped.value.term}.* {good}", str(stopped.value))
    assert [path.name for path in good.parent.iterdir()] == ["4"]
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [2, 4, 6]
    assert load_run(tmp_path / "run").step == 4


def stub_programs(blow_up_at: int, where: str) -> Programs:
    """A run whose loss, held-out loss or parameters become NaN at one step."""
    done = 0

    def dispatch(replicas: TrainState, first: int, last: int) -> tuple[TrainState, list[Any]]:
        nonlocal done
        done = last
        steps = np.arange(first + 1, last + 1)
        loss = np.where((steps >= blow_up_at) & (where == "loss"), np.nan, 1.0)
        weight = np.nan if where == "params" and last >= blow_up_at else 1.0
        state = TrainState({"w": np.float32([weight])}, (), np.int32([last]))
        return replicate(state, DEVICES), [replicate({"loss": loss[None]}, DEVICES)]

    def test_loss(params: Any) -> np.ndarray:
        return np.array([np.inf if where == "test_loss" and done >= blow_up_at else 1.0])

    return Programs(dispatch, test_loss, lambda i, params: params, DEVICES)


@pytest.mark.parametrize(
    ("where", "step", "term"),
    [("loss", 7, "loss"), ("test_loss", 8, "test_loss"), ("params", 8, "params/w")],
)
def test_nothing_non_finite_is_ever_a_checkpoint(
    tmp_path: Path, where: str, step: int, term: str
) -> None:
    config = tiny_run.config(tmp_path)
    state = TrainState({"w": np.float32(0)}, (), np.int32(0))
    with (
        Checkpoints(tmp_path / "checkpoints", keep=3) as checkpoints,
        RunLog(tmp_path, 0) as log,
        Display(0, config.steps) as display,
    ):
        member = Member(config, Files(checkpoints, log), state)
        failed = run_steps([member], stub_programs(7, where), 0, display, Interruption())
    error = failed[tmp_path]
    assert (error.step, error.term) == (step, term)
    assert error.checkpoint == tmp_path / "checkpoints" / "4"
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["4"]
    assert read_metrics(tmp_path)[-1]["step"] == 6


def test_the_first_step_with_a_non_finite_term_is_found() -> None:
    terms = {"a": np.zeros(4), "b": np.zeros((4, 2)), "c": np.zeros(4)}
    assert first_non_finite(terms) is None
    terms["b"][2, 1] = np.inf
    terms["c"][2:] = np.nan
    terms["a"][3] = np.nan
    step, bad = first_non_finite(terms)
    assert (step, list(bad)) == (2, ["b", "c"])


@pytest.mark.parametrize("first", [0, 5, 10, 12])
def test_dispatches_lie_on_one_grid(first: int) -> None:
    whole = list(dispatches(0, 23, 5))
    assert whole == [(0, 5), (5, 10), (10, 15), (15, 20), (20, 23)]
    resumed = list(dispatches(first, 23, 5))
    assert [last for _, last in resumed] == [last for _, last in whole if last > first]
    assert resumed[0][0] == first
