"""The README's Python examples run as they stand."""

import re
from pathlib import Path

import jax

README = Path(__file__).parent.parent / "README.md"


def test_the_readmes_python_examples_run():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert names["samples"]["photo"].shape == (3, 64, 16, 16, 3)
    assert names["posterior"].mean().shape == (64, 8)
    assert names["log_q"].shape == (10, 32)
    first = names["model"].loss(
        names["model"].init(jax.random.key(2)), names["batch"], names["key"]
    )
    assert names["loss"] < 0.5 * first[0]
