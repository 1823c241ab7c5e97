from __future__ import annotations

import json
from pathlib import Path

import pytest

from holderjax.training.logging import Display, RunLog, read_metrics, trim_metrics


def write(folder: Path, steps: list[int], tail: str = "") -> None:
    lines = [json.dumps({"step": step, "loss": 1.0, "seconds": float(step)}) for step in steps]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n" + tail)


def test_a_last_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, [2, 4], tail='{"step": 6, "lo')
    assert [line["step"] for line in read_metrics(tmp_path)] == [2, 4]


def test_lines_beyond_the_restored_step_are_dropped(tmp_path: Path) -> None:
    write(tmp_path, [2, 4, 6, 8], tail='{"step": 10')
    trim_metrics(tmp_path, 4)
    assert [line["step"] for line in read_metrics(tmp_path)] == [2, 4]
    assert (tmp_path / "metrics.jsonl").read_text().endswith("}\n")


def test_a_resumed_log_goes_on_where_the_lines_end(tmp_path: Path) -> None:
    write(tmp_path, [2, 4, 6], tail='{"step"')
    with RunLog(tmp_path, first_step=4) as log:
        log.log(6, {"loss": 0.5, "weights": [0.5, 0.5]})
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert lines[-1]["weights"] == [0.5, 0.5]
    assert lines[-1]["seconds"] > lines[1]["seconds"] == 4.0
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_no_line_holds_what_json_does_not_know(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0) as log, pytest.raises(ValueError, match="JSON"):
        log.log(2, {"loss": float("nan")})
    assert read_metrics(tmp_path) == []


def test_without_a_terminal_progress_is_plain_lines(capfd: pytest.CaptureFixture[str]) -> None:
    with Display(0, 8) as display:
        for step in (2, 4, 6, 8):
            display.show(step, [3.0, 5.0])
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["step 2/8", "step 8/8"]
    assert "loss 3.00 to 5.00 over 2 runs" in lines[-1]
    assert "\x1b" not in "".join(lines)
