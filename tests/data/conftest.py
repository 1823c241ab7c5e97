"""A cache folder of its own for every test of the data sets."""

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("HOLDERJAX_CACHE", str(folder))
    return folder
