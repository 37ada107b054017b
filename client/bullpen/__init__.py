"""Bullpen: job queues for Kubernetes, in Python."""

from bullpen._version import __version__

__all__ = ["__version__"]
