"""Disks that are full and folders that cannot be written: a clear error, and nothing lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_run

from holderjax.cli import main
from holderjax.training import load_run, train

# Files that grow beyond the limit fail as they do on a full disk: once everything is imported.
LIMITED = f"""
import resource, sys
sys.path.insert(0, {str(Path(tiny_run.__file__).parent)!r})
import tiny_run
from holderjax.cli import main
import orbax.checkpoint, tensorboardX
tiny_run.register()
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("limit", [0, 3_000, 20_000])
def test_a_full_disk_ends_the_run_and_keeps_what_was_good(
    copy_of, finished: Path, tmp_path: Path, limit: int
) -> None:
    """There is no room for anything, for the metrics, or for a checkpoint."""
    out = copy_of(step=12)
    command = [*tiny_run.command(out)[2:], "--resume"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), *command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith("holderjax: ")
    assert str(out) in done.stderr.splitlines()[-1]
    assert load_run(out).step == 12
    # Once there is room, it goes on as if nothing had been.
    train(tiny_run.config(out, resume=True))
    params = [load_run(folder).params for folder in (out, finished)]
    jax.tree.map(np.testing.assert_array_equal, *params)


def test_a_folder_that_cannot_be_made_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    code = main([*tiny_run.command(tmp_path / "file" / "run")[2:]])
    said = capsys.readouterr().err
    assert code == 2
    assert str(tmp_path / "file") in said
    assert "Traceback" not in said
