"""The README's Python examples run as they stand."""

import re
from pathlib import Path

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
    # It learned something: the photo's brightness follows the hidden number through the sensors.
    brightness = names["samples"]["photo"].mean(axis=(0, 2, 3, 4))
    hidden = names["hidden"][:, 0]
    correlation = names["jnp"].corrcoef(brightness, hidden)[0, 1]
    assert correlation > 0.5
