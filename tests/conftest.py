"""One profile for every property test: the same examples each time, and few of them."""

from hypothesis import settings

settings.register_profile("suite", deadline=None, max_examples=20, derandomize=True, database=None)
settings.load_profile("suite")
