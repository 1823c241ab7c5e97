from __future__ import annotations

import asyncio
import gc
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from holderjax.training.checkpoints import Checkpoints

FACTS = {"system": "holder", "network": "mlp"}
LOSSES = {10: 5.0, 20: 1.0, 30: 3.0, 40: 4.0}


def state(step: int) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    weights = rng.normal(size=(40, 30)).astype(np.float32)
    return {"params": {"w": weights, "b": weights[0]}, "step": np.asarray(step, np.int32)}


def same(a: Any, b: Any) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def damage(path: Path, how: str) -> None:
    """Harm the largest file below the path: where the arrays are."""
    file = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    if how == "cut short":
        file.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        content[len(content) // 2] ^= 0x10
        file.write_bytes(content)
    else:
        file.unlink()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "checkpoints"
    with Checkpoints(folder, keep=2) as checkpoints:
        for step, loss in LOSSES.items():
            checkpoints.save(state(step), step, loss, FACTS)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "checkpoints"))


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    with caplog.at_level(logging.WARNING, logger="holderjax"):
        yield lambda: [r.getMessage() for r in caplog.records if r.name.startswith("holderjax")]


def test_the_latest_and_the_best_are_kept(written: Path) -> None:
    with Checkpoints(written) as checkpoints:
        assert checkpoints.steps() == [20, 30, 40]
        assert checkpoints.restore(state(0), FACTS, "last")[1] == 40
        assert checkpoints.restore(state(0), FACTS, "best")[1] == 20


def test_what_was_written_before_a_resumption_makes_room_as_well(folder: Path) -> None:
    for step, loss, kept in ((50, 9.0, [20, 40, 50]), (60, 0.5, [50, 60]), (70, 9.0, [60, 70])):
        with Checkpoints(folder, keep=2) as checkpoints:
            checkpoints.save(state(step), step, loss, FACTS)
        with Checkpoints(folder) as checkpoints:
            assert checkpoints.steps() == kept


def test_restoring_is_exact(written: Path, warnings: Callable[[], list[str]]) -> None:
    template = jax.eval_shape(lambda: state(0))
    with Checkpoints(written) as checkpoints:
        restored, step = checkpoints.restore(template, FACTS)
    assert same(restored, state(step))
    assert jax.tree.map(lambda x: x.dtype, restored) == jax.tree.map(lambda x: x.dtype, state(0))
    assert warnings() == []


@pytest.mark.parametrize("how", ["cut short", "flipped", "missing"])
def test_a_damaged_checkpoint_is_skipped_for_the_newest_whole_one(
    folder: Path, how: str, warnings: Callable[[], list[str]]
) -> None:
    damage(folder / "40" / "state", how)
    with Checkpoints(folder) as checkpoints:
        restored, step = checkpoints.restore(state(0), FACTS)
    assert step == 30
    assert same(restored, state(30))
    assert len(warnings()) == 1
    assert str(folder / "40") in warnings()[0]


@pytest.mark.parametrize("how", ["cut short", "flipped", "missing"])
def test_damaged_metadata_is_damage(
    folder: Path, how: str, warnings: Callable[[], list[str]]
) -> None:
    damage(folder / "20" / "metadata", how)
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.restore(state(0), FACTS, "best")[1] == 30
    assert str(folder / "20") in warnings()[0]


def test_every_file_of_a_checkpoint_may_be_harmed(folder: Path, tmp_path: Path) -> None:
    """Whatever file is cut or altered, what is restored is what was written."""
    files = [p.relative_to(folder) for p in sorted((folder / "40").rglob("*")) if p.is_file()]
    rng = np.random.default_rng(0)
    steps = []
    for file in files:
        harmed = Path(shutil.copytree(folder, tmp_path / "harmed"))
        content = bytearray((harmed / file).read_bytes())
        if content:
            content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        (harmed / file).write_bytes(content[: rng.integers(1, len(content) + 2)])
        with Checkpoints(harmed) as checkpoints:
            restored, step = checkpoints.restore(state(0), FACTS)
        assert same(restored, state(step)), file
        steps.append(step)
        shutil.rmtree(harmed)
    assert 30 in steps


def test_a_write_that_was_cut_short_is_named(
    folder: Path, warnings: Callable[[], list[str]]
) -> None:
    partial = folder / "50.orbax-checkpoint-tmp"
    shutil.copytree(folder / "40" / "state", partial / "state.orbax-checkpoint-tmp")
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.restore(state(0), FACTS)[1] == 40
    assert str(partial) in warnings()[0]


def test_no_whole_checkpoint_is_an_error_that_names_the_damaged_ones(folder: Path) -> None:
    for step in (20, 30, 40):
        damage(folder / str(step), "cut short")
    with (
        Checkpoints(folder, keep=2) as checkpoints,
        pytest.raises(FileNotFoundError, match=r"no whole checkpoint in .*damaged: 20, 30, 40"),
    ):
        checkpoints.restore(state(0), FACTS)
    assert {p.name for p in folder.iterdir()} == {"20", "30", "40"}


def test_a_resumed_run_sets_damaged_checkpoints_aside_and_writes_anew(folder: Path) -> None:
    for _ in range(2):
        damage(folder / "40" / "state", "cut short")
        with Checkpoints(folder, keep=2) as checkpoints:
            assert checkpoints.restore(state(0), FACTS)[1] == 30
            checkpoints.save(state(40), 40, 4.0, FACTS)
        with Checkpoints(folder) as checkpoints:
            assert checkpoints.restore(state(0), FACTS)[1] == 40
    assert sorted(p.name for p in folder.glob("*.damaged*")) == ["40.damaged", "40.damaged.damaged"]


def test_reading_changes_nothing(folder: Path) -> None:
    damage(folder / "40" / "state", "cut short")
    before = sorted(folder.rglob("*"))
    with Checkpoints(folder) as checkpoints:
        checkpoints.restore(state(0), FACTS)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("template", "facts", "message"),
    [
        (state(0), {"system": "holder++", "network": "mlp"}, "system was 'holder' and should be"),
        (
            {"step": state(0)["step"]},
            FACTS,
            r"array params/b was 'float32\[30\]' and should be 'absent'",
        ),
        (
            {**state(0), "step": np.zeros(3, np.float32)},
            FACTS,
            r"array step was 'int32\[\]' and should be 'float32\[3\]'",
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_an_error(
    written: Path, template: Any, facts: dict, message: str
) -> None:
    with Checkpoints(written) as checkpoints, pytest.raises(ValueError, match=message):
        checkpoints.restore(template, facts)


def test_an_unknown_choice_is_an_error(written: Path) -> None:
    with (
        Checkpoints(written) as checkpoints,
        pytest.raises(ValueError, match="expected 'last' or 'best', got 'worst'"),
    ):
        checkpoints.restore(state(0), FACTS, "worst")


def test_the_other_writes_of_one_that_failed_stay_quiet(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Several arrays fail; some while the first is being told, whose errors nobody asks for."""

    async def write(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        raise ValueError(f"no room in turn {turns}")

    async def write_all() -> None:
        writes = asyncio.gather(*map(write, range(8)))
        await writes

    def save(*_: object, **__: object) -> None:
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(write_all())
        finally:
            loop.close()

    checkpoints = Checkpoints(folder, keep=2)
    monkeypatch.setattr(checkpoints._manager, "save", save)
    message = "could not be written: no room in turn 0"
    with pytest.raises(OSError, match=message) as raised, checkpoints:
        checkpoints.save(state(50), 50, 2.0, FACTS)
    assert str(folder) in str(raised.value)
    del raised
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]
