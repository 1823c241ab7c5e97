"""The wording for names that do not exist."""

from __future__ import annotations

import pytest

from holderjax.naming import unknown


@pytest.mark.parametrize(
    ("name", "hint"),
    [("holdr", "did you mean 'holder'?"), ("mmvea+", "did you mean 'mmvae+'?")],
)
def test_the_closest_name_is_offered(name, hint):
    error = unknown("system", name, {"holder": 1, "mmvae+": 2})
    assert isinstance(error, ValueError)
    assert str(error) == f"unknown system {name!r}: {hint} Known: holder, mmvae+"


def test_nothing_is_offered_where_nothing_is_close():
    error = unknown("system", "xyz", ["holder", "mmvae+"])
    assert str(error) == "unknown system 'xyz'. Known: holder, mmvae+"
