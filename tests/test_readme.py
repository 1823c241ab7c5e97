"""The README's Python examples run as they stand."""

import re
from pathlib import Path

import jax

from holderjax.models import SYSTEMS

README = Path(__file__).parent.parent / "README.md"


def test_the_readme_lists_every_system_as_the_table_has_it():
    rows = re.findall(r"^\| `([a-z+-]+)` \| (.+?) \|$", README.read_text(), flags=re.MULTILINE)
    found = dict(rows)
    assert list(found) == list(SYSTEMS)
    for name, row in SYSTEMS.items():
        latents, prior, bound = found[name].split(" | ")[1:4]
        assert (latents, prior, bound) == (row.latents, row.prior, row.bound), name


def test_the_readmes_python_examples_run():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert names["samples"]["photo"].shape == (3, 64, 16, 16, 3)
    assert names["posterior"].mean().shape == (64, 8)
    assert names["log_q"].shape == (10, 32)
    model = names["model"]
    first, _ = jax.jit(model.loss)(model.init(jax.random.key(2)), names["batch"], names["key"])
    assert names["loss"] < 0.5 * first
