"""The command line: helpful, and never a traceback for a person's mistake."""

import json
import os
import subprocess
import sys

import matplotlib.image
import pytest

from holderjax import models
from holderjax.cli import COMMANDS, main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder after four steps."""
    out = tmp_path_factory.mktemp("cli") / "run"
    settings = ["--steps", "4", "--log-every", "2", "--checkpoint-every", "4", "--batch-size", "4"]
    sizes = ["--latent-dim", "2", "--private-dim", "2", "--components", "2"]
    assert main(["train", "--out", str(out), *settings, *sizes]) == 0
    return out


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["data", "show"]])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    assert "usage: holderjax" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["train", "--system", "holdr"], "did you mean 'holder'?"),
        (["train", "--data", "digit"], "did you mean 'digits'?"),
        (["train", "--network", "cnn"], "Known: mlp, conv, resnet"),
        (["train", "--components", "1"], "components"),
        (["train", "--steps", "0"], "steps: expected at least 1, got 0"),
        (["train", "--beta", "nan"], "beta"),
        (["train", "--data", "polymnist"], "polymnist"),
        (["train", "--data", "polymnist", "--polymnist", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_makes_no_run_folder(argv, expected, tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*argv, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("holderjax: ")
    assert expected in error
    assert "Traceback" not in error
    assert not out.exists()


@pytest.mark.parametrize(
    "argv",
    [
        ["evaluate", "{missing}"],
        ["sample", "{missing}", "--out", "{missing}.png"],
        ["generate", "{missing}", "--observed", "m0", "--out", "{missing}.png"],
    ],
)
def test_a_path_that_is_no_run_is_named(argv, tmp_path, capsys):
    missing = str(tmp_path / "missing")
    assert main([word.format(missing=missing) for word in argv]) == 2
    assert missing in capsys.readouterr().err


@pytest.mark.parametrize("chosen", [None, "mine"])
def test_compiled_programs_are_kept_for_the_next_start(chosen, tmp_path):
    code = (
        "import jax, sys; from holderjax.cli import guarded;"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0);"
        "sys.exit(guarded(lambda: jax.jit(lambda x: x + 1)(1.0)))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {"HOLDERJAX_CACHE": str(tmp_path / "cache")}
    if chosen is not None:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / chosen)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert any((tmp_path / (chosen or "cache/xla")).iterdir())
    assert chosen is None or not (tmp_path / "cache" / "xla").exists()


def test_a_cache_that_cannot_be_made_stops_nothing(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOLDERJAX_CACHE", str(tmp_path / "file"))
    assert main(["systems"]) == 0
    assert "not kept for the next start" in caplog.text


def test_an_unknown_option_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--out", "x", "--sead", "1"])
    assert stop.value.code == 2
    assert "--sead" in capsys.readouterr().err


def test_systems_prints_every_row(capsys):
    assert main(["systems"]) == 0
    printed = capsys.readouterr().out
    assert all(f" {name} " in printed for name in models.SYSTEMS)


def test_data_lists_and_shows(tmp_path, capsys):
    assert main(["data", "list"]) == 0
    assert "polymnist" in capsys.readouterr().out
    assert main(["data", "show", "digits", "--out", str(tmp_path / "digits.png")]) == 0
    assert matplotlib.image.imread(tmp_path / "digits.png").std() > 0
    assert main(["data", "show", "digit", "--out", str(tmp_path / "no.png")]) == 2
    assert "did you mean 'digits'?" in capsys.readouterr().err


def test_a_run_folder_is_not_trained_over(run, capsys):
    before = (run / "metrics.jsonl").read_bytes()
    assert main(["train", "--out", str(run)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_bytes() == before
    assert [json.loads(line)["step"] for line in before.splitlines()] == [2, 4]


@pytest.mark.parametrize("content", [None, b"no weights"])
def test_weights_of_inception_that_cannot_be_read_are_named(content, run, tmp_path, capsys):
    path = tmp_path / "weights.pth"
    if content is not None:
        path.write_bytes(content)
    assert main(["evaluate", str(run), "--inception", str(path)]) == 2
    assert str(path) in capsys.readouterr().err
    assert not (run / "metrics.json").exists()


def test_generate_and_sample_draw_pictures(run, tmp_path, capsys):
    grid, prior = tmp_path / "grid.png", tmp_path / "prior.png"
    assert main(["generate", str(run), "--observed", "m0,m2", "--out", str(grid)]) == 0
    assert main(["sample", str(run), "--out", str(prior)]) == 0
    assert all(matplotlib.image.imread(path).std() > 0 for path in (grid, prior))
    capsys.readouterr()
    assert main(["generate", str(run), "--observed", "m9", "--out", str(tmp_path / "no.png")]) == 2
    assert "m9" in capsys.readouterr().err
    assert not (tmp_path / "no.png").exists()
