"""Hypothesis for the whole suite: no deadline on an example, since a busy machine is no failure."""

from hypothesis import settings

settings.register_profile("bullpen", deadline=None)
settings.load_profile("bullpen")
