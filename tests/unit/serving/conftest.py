"""Hypothesis without a clock: what an example takes on a busy machine proves nothing."""

from hypothesis import settings

settings.register_profile("no-clock", deadline=None, database=None)
settings.load_profile("no-clock")
