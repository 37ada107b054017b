"""The version of the distribution, of which all packages are parts."""

__version__ = "0.1.0"
